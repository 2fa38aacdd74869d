"""Positions known by the columns of an addition.

All digits of one column share a position, those of both operands and that of the sum ("position
coupling", Cho et al. 2024, arXiv:2405.20671). Only distances between columns count (Raffel et al.
2020, arXiv:1910.10683), so longer numbers than those in training need nothing new. For three
digits, written right to left:

    a b c + d e f -> s t u v        columns of the source 2 1 0 2 2 1 0, of the answer 0 1 2 3

Columns are counted from the right; `+` has the column of the leading digit.
Shapes in comments: B batch (or 1 where all are alike), T targets, S source, H heads, n digits.
"""

from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import nn

from dataset import ORDERS
from model import ModelConfig, Seq2SeqTransformer, key_mask


class ColumnBias(nn.Module):
    """Adds to the scores by distance: GAIN weights[head, clip(column of key - column of query)].

    Distances are clipped at REACH. The weights start from 0, without positions. GAIN lets them
    move as far as a bias must at the learning rate of all other weights.
    """

    REACH, GAIN = 3, 10.0

    def __init__(self, num_heads):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_heads, 2 * self.REACH + 1))

    def forward(self, query_columns, key_columns):
        """Columns `[B, T]` of the queries, `[B, S]` of the keys -> the bias `[B, H, T, S]`."""
        distance = key_columns.unsqueeze(1) - query_columns.unsqueeze(2)  # [B, T, S]
        index = distance.clamp(-self.REACH, self.REACH) + self.REACH
        return self.GAIN * self.weights[:, index].transpose(0, 1)


@dataclass(frozen=True)
class ColumnConfig(ModelConfig):
    """The arguments of `ColumnTransformer`."""

    order: str


class ColumnTransformer(Seq2SeqTransformer):
    """The transformer with a `ColumnBias` for each attention in the place of the sinusoids.

    `order` is the order in which it writes answers: the columns of the target depend on it.
    """

    def __init__(self, *sizes, order=ORDERS[0], **named_sizes):
        super().__init__(*sizes, **named_sizes)
        self.config = ColumnConfig(**asdict(self.config), order=order)

    def make_positional_encoding(self):
        layers = self.config.num_encoder_layers, *[self.config.num_decoder_layers] * 2
        self.columns = nn.ModuleDict(
            {
                attention: nn.ModuleList(ColumnBias(self.config.num_heads) for _ in range(count))
                for attention, count in zip(("encoder", "decoder", "cross"), layers)
            }
        )
        return nn.Identity()

    def encode(self, src, src_mask=None):
        columns = source_columns(src.size(1), count_digits(src, src_mask))
        for layer, bias in zip(self.encoder_layers, self.columns["encoder"]):
            layer.self_attn.bias = partial(bias, columns, columns)
        return super().encode(src, src_mask)

    def decode(self, tgt, encoder_output, src_mask=None, tgt_mask=None):
        n = count_digits(encoder_output, src_mask)
        source = source_columns(encoder_output.size(1), n)
        target = torch.arange(tgt.size(1), device=tgt.device).expand(len(n), -1)
        if self.config.order == ORDERS[0]:
            target = n - target
        biases = self.columns["decoder"], self.columns["cross"]
        for layer, own, cross in zip(self.decoder_layers, *biases):
            layer.self_attn.bias = partial(own, target, target)
            layer.cross_attn.bias = partial(cross, target, source)
        return super().decode(tgt, encoder_output, src_mask, tgt_mask)


def count_digits(source, mask):
    """Digits n `[B, 1]` of each number in sources `[B, S, ...]` of 2n + 1 real tokens.

    A token that some query may see is real; all are if `mask` is None.
    """
    if mask is None:
        return torch.full((1, 1), (source.size(1) - 1) // 2, device=source.device)
    seen = (key_mask(mask) != 0).flatten(1, -2).any(dim=1)  # [B, S]
    return (seen.sum(dim=1, keepdim=True) - 1) // 2


def source_columns(length, n):
    """Columns `[B, length]` of sources of which the first 2n + 1 tokens are real, n `[B, 1]`."""
    place = torch.arange(length, device=n.device)
    return torch.where(place < n, n - 1 - place, torch.where(place == n, n - 1, 2 * n - place))
