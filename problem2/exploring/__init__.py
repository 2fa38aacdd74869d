"""A page on which the models can be tried and watched: what it can ask, and the page itself.

May import `extrapolation`, `learning`, `model`, `dataset`, `generate_data` and `support`; is imported by `explore`
alone.
"""
