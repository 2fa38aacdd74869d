"""How the model learns, and how well: the training loop, checkpoints, measures of accuracy, carries, every problem
there is.

May import `model`, `dataset` and `support`; is imported by `heads` and by the commands.
"""
