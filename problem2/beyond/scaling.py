"""Scores that are multiplied by the logarithm of the number of keys.

A softmax over many keys can then stay as sharp as over few (Chiang & Cholak 2022, arXiv:2202.12172,
section 5). Shapes in comments: B batch, T queries, S keys, H heads, D width of one head.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn

from beyond.poolings import AttentionPooling
from model import ModelConfig, MultiHeadAttention, SortingClassifier

LEARNED = "learned"
SMALLEST_SCALE = 0.1  # a scale stays positive: a bias of -inf cannot be multiplied by 0


class ScaledAttention(MultiHeadAttention):
    """The scores, bias included, are multiplied by log n; n is the number of keys."""

    def queries_and_keys(self, query, key, positions=None, mask=None):
        Q, K, bias = super().queries_and_keys(query, key, positions, mask)
        keys = torch.tensor(K.size(2)) if mask is None else (mask != 0).sum(dim=-1, keepdim=True)
        scale = self.scale(keys.to(Q))
        return Q * scale, K, None if bias is None else bias * scale

    def scale(self, keys):
        """The factor of the scores of queries with `keys` keys.

        `keys` is a number in a tensor or broadcastable to `[B, H, T, 1]`, and so is the result.
        """
        return keys.clamp(min=2).log()  # of one key it would be 0


class LearnedScaledAttention(ScaledAttention):
    """The factor is s log n + b; each head learns s and b, which start from 1 and 0.

    (Nakanishi 2025, arXiv:2501.19399, learns s.)
    """

    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.scale_slope = nn.Parameter(torch.ones(num_heads))
        self.scale_offset = nn.Parameter(torch.zeros(num_heads))

    def scale(self, keys):
        slope, offset = self.scale_slope[:, None, None], self.scale_offset[:, None, None]
        return (slope * super().scale(keys) + offset).clamp(min=SMALLEST_SCALE)


@dataclass(frozen=True)
class ScaledConfig(ModelConfig):
    """The arguments of `ScaledClassifier`."""

    log_scaling: bool | str = True


class ScaledClassifier(SortingClassifier):
    """A `SortingClassifier` with scaled scores, in its layers and in attention pooling.

    Args:
        log_scaling: True for `ScaledAttention`, `LEARNED` for `LearnedScaledAttention`; attention
            pooling multiplies by log n in both.
    """

    def __init__(self, *sizes, log_scaling=True, **names):
        if log_scaling is not True and log_scaling != LEARNED:
            raise ValueError(f"log_scaling is True or {LEARNED!r}, not {log_scaling!r}")
        self.attention = ScaledAttention if log_scaling is True else LearnedScaledAttention
        super().__init__(*sizes, **names)
        self.config = ScaledConfig(**asdict(self.config), log_scaling=log_scaling)

    def make_pooling(self):
        if self.config.pooling == "attention":
            return AttentionPooling(self.d_model, scaled=True)
        return super().make_pooling()


def log_scaling(model):
    """How the scores of a model are scaled: False, True or `LEARNED`."""
    return getattr(model.config, "log_scaling", False)


def score_scale(model, length):
    """The factor of the scores of the first layer among `length` keys: `[]` or `[H, 1, 1]`."""
    attention = model.layers[0].self_attn
    keys = torch.tensor(length).to(attention.W_q.weight)
    return attention.scale(keys) if log_scaling(model) else torch.ones_like(keys)
