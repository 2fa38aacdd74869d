"""Encodings that know positions by their distance alone: shifting a sequence changes nothing in what they do.

None adds to the input. The signed offset of key s from query t is s - t: negative before, positive after.
Shapes in comments: B batch, L length, T queries, S keys, H heads, D width of one head.
"""

import math

import torch
from torch import nn

from positions.base import NoPositionalEncoding


def offsets(length, device=None):
    """Signed offsets s - t of keys from queries, `[T, S]`; for length 3: [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]]."""
    index = torch.arange(length, device=device)
    return index - index.unsqueeze(1)


class RelativeBias(NoPositionalEncoding):
    """A learned number for each head and clipped signed offset: score(t, s) + weights[head, clip(s - t)].

    Raffel et al. 2020 (T5, arXiv:1910.10683), with one bucket an offset as in Shaw et al. 2018 (arXiv:1803.02155):
    offsets beyond `reach` share the numbers at -reach and +reach. As in T5 all layers share them. They start from 0,
    without positions, and they
    are few: at the learning rate of the weights the model learns the training sequences by heart before they have
        moved.
    """

    lr_scale = 100.0
    reach = 4

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        self.weights = nn.Parameter(torch.zeros(num_heads, 2 * self.reach + 1))

    def bias(self, Q):
        return self.weights[:, offsets(Q.size(2), Q.device).clamp(-self.reach, self.reach) + self.reach]


class LocalBias(RelativeBias):
    """`RelativeBias` that cuts off every key beyond its reach: local attention.

    A query has at most 2 reach + 1 keys however long the sequence is, so that a layer computes at each position
    (`reach` or more from either end) what it would compute there in a sequence of any other length.
    """

    reach = 1

    def bias(self, Q):
        return super().bias(Q).masked_fill(offsets(Q.size(2), Q.device).abs() > self.reach, -math.inf)


class RelativeKeys(NoPositionalEncoding):
    """A learned vector for each clipped signed offset, added to the key: score(t, s) + Q[t] . vectors[clip(s - t)] /
    sqrt(D).

    Shaw et al. 2018 (arXiv:1803.02155), equation 4, without their vectors for the values; heads share the vectors, and
    here all layers do too. Unlike a bias, what it adds depends on the query.

    Raises:
        ValueError: from `bias`, if `num_heads` does not divide `d_model`.
    """

    reach = 4

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        self.vectors = nn.Parameter(torch.randn(2 * self.reach + 1, d_model // num_heads)
                                    * (d_model // num_heads) ** -0.5)

    def bias(self, Q):
        length = Q.size(2)
        scores = Q @ self.vectors.T / math.sqrt(Q.size(3))  # [B, H, T, 2 reach + 1]
        index = offsets(length, Q.device).clamp(-self.reach, self.reach) + self.reach
        return scores.gather(3, index.expand(*scores.shape[:2], length, length))


def slopes(num_heads):
    """ALiBi's slope for each head, `[H]`: 2^(-8 h / H) for h = 1 to H; for 4 heads 1/4, 1/16, 1/64, 1/256."""
    return 2.0 ** (-8.0 * torch.arange(1, num_heads + 1) / num_heads)


class SymmetricALiBi(NoPositionalEncoding):
    """score(t, s) - slope[head] |s - t|: attention with linear biases (Press et al. 2022, arXiv:2108.12409), in both
    directions.

    Reversing a sequence reverses the outputs and does no more, so that after pooling a sequence and its reverse have
    the same logits: ascending cannot be told from descending.
    """

    def bias(self, Q):
        return -slopes(self.num_heads).to(Q)[:, None, None] * offsets(Q.size(2), Q.device).abs()


class DirectedALiBi(SymmetricALiBi):
    """`SymmetricALiBi` with its symmetry broken: even heads see the query and what comes after it, odd heads it and
    what comes before."""

    def bias(self, Q):
        direction = 1 - 2 * (torch.arange(self.num_heads, device=Q.device) % 2)
        return super().bias(Q).masked_fill(direction[:, None, None] * offsets(Q.size(2), Q.device) < 0, -math.inf)


class RotaryEncoding(NoPositionalEncoding):
    """Queries and keys turned by an angle that grows with the position, so that their product depends on the offset
    alone.

    Su et al. 2021 (arXiv:2104.09864): the pair of dimensions (2i, 2i + 1) of position pos turns by pos / 10000^(2i /
    D).

    Raises:
        ValueError: if the width of a head, `d_model` / `num_heads`, is odd.
    """

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        if d_model // num_heads % 2:
            raise ValueError(f"rotary positions turn pairs of dimensions, and a head has {d_model // num_heads}")

    def rotate(self, Q, K):
        length, width = Q.size(2), Q.size(3)
        frequencies = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
        angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) * frequencies  # [L, D / 2]
        cos, sin = angles.cos().to(Q), angles.sin().to(Q)

        def turn(x):
            even, odd = x[..., 0::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
        return turn(Q), turn(K)


class CausalEncoding(NoPositionalEncoding):
    """No positions, but each query sees only the keys up to its own: what can be told of order comes from the mask
    alone.

    Kazemnejad et al. 2023 (arXiv:2305.19466).
    """

    def bias(self, Q):
        later = offsets(Q.size(2), Q.device) > 0
        return torch.zeros(later.shape, dtype=Q.dtype, device=Q.device).masked_fill(later, -math.inf)
