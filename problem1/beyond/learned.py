"""A trained row for each position, counted from the first token (Gehring et al. 2017, arXiv:1705.03122).

Rows that no training problem reaches keep their first values.
"""

import torch
from torch import nn


class LearnedPositions(nn.Module):
    """Adds row pos of a table `[max_len, d_model]` to the embedding at position pos."""

    def __init__(self, d_model, max_len):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(max_len, d_model) * d_model ** -0.5)

    def forward(self, x, first_position=0):
        """`x [B, T, d_model]`, whose positions are first_position, first_position + 1, ... -> the same shape.

        Raises:
            ValueError: if a position is not below `max_len`.
        """
        end = first_position + x.size(1)
        if end > len(self.rows):
            raise ValueError(f"a sequence of {end} tokens does not fit max_len = {len(self.rows)}")
        return x + self.rows[first_position:end]
