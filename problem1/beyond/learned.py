"""A trained row for each position, counted from the first token (Gehring et al. 2017).

arXiv:1705.03122. Rows that no training problem reaches keep their first values.
"""

import torch
from torch import nn

from model import Seq2SeqTransformer


class LearnedPositions(nn.Module):
    """Adds row pos of a trained table `[max_len, d_model]` to the embedding at position pos."""

    def __init__(self, d_model, max_len):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(max_len, d_model) * d_model**-0.5)

    def forward(self, x):
        """`x [B, T, d_model]` -> the same shape.

        Raises:
            ValueError: if there are more than `max_len` positions.
        """
        if x.size(1) > len(self.rows):
            raise ValueError(f"{x.size(1)} tokens do not fit max_len = {len(self.rows)}")
        return x + self.rows[: x.size(1)]


class LearnedTransformer(Seq2SeqTransformer):
    """The transformer with trained rows in the place of the sinusoids."""

    def make_positional_encoding(self):
        return LearnedPositions(self.d_model, self.config.max_len)
