"""How fast it is: fair measuring, and what to measure against.

May import `model`, `positional_encoding`, `dataset` and `support`; is imported by `benchmark.py` alone.
"""
