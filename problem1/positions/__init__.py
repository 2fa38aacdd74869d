"""How the model knows places other than by sinusoids: by trained rows, or by the columns of an addition.

May import torch alone; is imported by `model`.
"""
