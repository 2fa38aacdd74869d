"""How a model learns, and how well: the training loop, augmentation, checkpoints, measures, and the table of variants.

May import `model`, `positional_encoding`, `positions`, `generate_data`, `dataset` and `support`.
"""
