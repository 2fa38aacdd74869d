"""Places of an addition known by its columns.

All digits of one column share a position, those of both operands and that of the sum ("position coupling", Cho et al.
2024, arXiv:2405.20671), and only distances between columns count (Raffel et al. 2020, arXiv:1910.10683), so that
numbers longer than those in training ask for nothing new. For three digits, written right to left:

    a b c + d e f -> s t u v        columns of the source 2 1 0 2 2 1 0, of the answer 0 1 2 3

`+` has the column of the leading digit. Columns are counted from the right.
Shapes in comments: B batch (or 1 where all are alike), T target positions, S source positions, H heads, n digits.
"""

import torch
from torch import nn


class ColumnBias(nn.Module):
    """One attention's scores by the distance of columns: score(t, s) + GAIN weights[head, clip(column of s - column of
    t)].

    Distances are clipped at REACH. The weights start from 0, without places; GAIN lets them move as far as a bias must
    at the learning rate of all other weights.
    """

    REACH, GAIN = 3, 10.0

    def __init__(self, num_heads):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_heads, 2 * self.REACH + 1))

    def forward(self, query_columns, key_columns):
        """Columns `[B, T]` of the queries and `[B, S]` of the keys -> what is added to the scores, `[B, H, T, S]`."""
        distance = key_columns.unsqueeze(1) - query_columns.unsqueeze(2)
        index = distance.clamp(-self.REACH, self.REACH) + self.REACH
        return self.GAIN * self.weights[:, index].transpose(0, 1)


class ColumnPositions(nn.Module):
    """The biases of all attentions of an encoder-decoder transformer.

    Args:
        num_heads: heads of an attention.
        num_encoder_layers, num_decoder_layers: layers of each stack.
        right_to_left: whether answers are written units first.
    """

    def __init__(self, num_heads, num_encoder_layers, num_decoder_layers, right_to_left):
        super().__init__()
        self.right_to_left = right_to_left
        self.encoder = nn.ModuleList(ColumnBias(num_heads) for _ in range(num_encoder_layers))
        self.decoder, self.cross = (nn.ModuleList(ColumnBias(num_heads) for _ in range(num_decoder_layers))
                                    for _ in range(2))

    def encoder_biases(self, x, mask):
        """The bias of each encoder layer, `[B, H, S, S]`, for a source `x [B, S, d_model]`; `mask` as for the model."""
        columns = source_columns(x.size(1), digits(x, mask))
        return [bias(columns, columns) for bias in self.encoder]

    def decoder_biases(self, x, memory, mask, first):
        """For each decoder layer the biases of its self-attention `[B, H, T, first + T]` and its cross-attention
        `[B, H, T, S]`, for target positions `x [B, T, d_model]` that follow `first` others, and the encoder's output
        `memory [B, S, d_model]`."""
        n = digits(memory, mask)
        steps = torch.arange(first + x.size(1), device=x.device).expand(len(n), -1)
        written = steps if self.right_to_left else n - steps
        source, queries = source_columns(memory.size(1), n), written[:, first:]
        return [(own(queries, written), cross(queries, source)) for own, cross in zip(self.decoder, self.cross)]


def digits(source, mask):
    """Digits n of each number `[B, 1]` in sources `[B, S, ...]` of 2n + 1 real tokens; all are real if `mask` is
    None."""
    if mask is None:
        return torch.full((1, 1), (source.size(1) - 1) // 2, device=source.device)
    seen = (mask != 0).flatten(1, -2).any(dim=1)  # a key that some query may see is real
    return (seen.sum(dim=1, keepdim=True) - 1) // 2


def source_columns(length, n):
    """Columns `[B, S]` of sources of `length` tokens of which the first 2n + 1 are real, n `[B, 1]`."""
    place = torch.arange(length, device=n.device)
    return torch.where(place < n, n - 1 - place, torch.where(place == n, n - 1, 2 * n - place))
