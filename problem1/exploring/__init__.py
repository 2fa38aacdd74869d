"""A page on which the models can be tried, watched and disturbed: what it can ask, and the page itself.

May import `heads`, `learning`, `model`, `dataset` and `support`; is imported by `explore` alone.
"""
