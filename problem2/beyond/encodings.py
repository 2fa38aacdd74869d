"""Encodings beyond the assignment's three: moved or random positions, and distances.

The signed offset of key s from query t is s - t: negative before, positive after.
Shapes in comments: B batch, L length, T queries, S keys, H heads, D width of one head.
"""

import math

import torch
from torch import nn

from positional_encoding import (
    LearnedPositionalEncoding,
    PositionalEncoding,
    SinusoidalPositionalEncoding,
)


class RandomOffset:
    """In training the rows of a batch start at a random one; in evaluation they start at row 0.

    Huang et al. 2024 (arXiv:2410.02140). Training reaches all positions up to `max_len`. So a test
    up to that length shows sequences that are longer than in training, but no new positions.
    """

    def places(self, length):
        starts = max(1, self.max_len - length + 1)
        start = int(torch.randint(starts, ())) if self.training else 0
        return slice(start, start + length)


class SinusoidalOffsetEncoding(RandomOffset, SinusoidalPositionalEncoding):
    """`SinusoidalPositionalEncoding` with a random offset in training."""


class LearnedOffsetEncoding(RandomOffset, LearnedPositionalEncoding):
    """`LearnedPositionalEncoding` with a random offset in training, which reaches every row."""


class RandomPositionsEncoding(SinusoidalPositionalEncoding):
    """Sinusoidal rows of random positions, in ascending order, new for each training batch.

    Ruoss et al. 2023 (arXiv:2305.16843). In evaluation the positions are spread evenly over the
    same range (the paper draws them), so that an answer does not depend on chance: 4 values with
    max_len = 300 get 0, 75, 150, 225. Padding gets its share of positions. A sequence longer than
    `max_len` gets 0, 1, 2, ...
    """

    def places(self, length):
        count = max(self.max_len, length)
        if self.training:
            return torch.randperm(count)[:length].sort().values
        return torch.arange(length) * count // length


def offsets(length, device=None):
    """Signed offsets s - t `[T, S]`; for length 3: [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]]."""
    index = torch.arange(length, device=device)
    return index - index.unsqueeze(1)


class RelativeBias(PositionalEncoding):
    """A learned number for each head and clipped offset: score(t, s) + weights[head, clip(s - t)].

    Raffel et al. 2020 (T5, arXiv:1910.10683), with one bucket an offset as in Shaw et al. 2018
    (arXiv:1803.02155): offsets beyond `reach` share the numbers at -reach and +reach. As in T5 all
    layers share them. They start from 0, without positions. At the learning rate of the weights
    they would move too late: the model would know the training sequences by heart before.
    """

    lr_scale = 100.0
    reach = 4

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        self.weights = nn.Parameter(torch.zeros(num_heads, 2 * self.reach + 1))

    def bias(self, Q):
        clipped = offsets(Q.size(2), Q.device).clamp(-self.reach, self.reach)
        return self.weights[:, clipped + self.reach]  # [H, T, S]


class LocalBias(RelativeBias):
    """`RelativeBias` that hides every key beyond its reach: local attention.

    A query has at most 2 reach + 1 keys, however long the sequence is. So a layer computes the same
    at a position in a sequence of any length, if both ends are `reach` or more away.
    """

    reach = 1

    def bias(self, Q):
        hidden = offsets(Q.size(2), Q.device).abs() > self.reach
        return super().bias(Q).masked_fill(hidden, -math.inf)


class RelativeKeys(PositionalEncoding):
    """A learned vector for each clipped offset, added to the key.

    score(t, s) + Q[t] . vectors[clip(s - t)] / sqrt(D): Shaw et al. 2018 (arXiv:1803.02155),
    equation 4, without their vectors for the values. Heads and layers share the vectors. Unlike a
    bias, what it adds depends on the query.
    """

    reach = 4

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        width = d_model // num_heads
        self.vectors = nn.Parameter(torch.randn(2 * self.reach + 1, width) * width**-0.5)

    def bias(self, Q):
        length = Q.size(2)
        scores = Q @ self.vectors.T / math.sqrt(Q.size(3))  # [B, H, T, 2 reach + 1]
        index = offsets(length, Q.device).clamp(-self.reach, self.reach) + self.reach
        return scores.gather(3, index.expand(*scores.shape[:2], length, length))


class SymmetricALiBi(PositionalEncoding):
    """score(t, s) - slope[head] |s - t|: linear biases in both directions.

    Press et al. 2022 (arXiv:2108.12409): the slope of head h = 1 to H is 2^(-8 h / H). If the
    sequence is reversed the outputs are reversed, no more. So after pooling both have the same
    logits: ascending cannot be told from descending.
    """

    def bias(self, Q):
        heads = torch.arange(1, self.num_heads + 1)
        slopes = 2.0 ** (-8.0 * heads / self.num_heads)
        return -slopes.to(Q)[:, None, None] * offsets(Q.size(2), Q.device).abs()


class DirectedALiBi(SymmetricALiBi):
    """`SymmetricALiBi` without the symmetry.

    Even heads see the query and what comes after it, odd heads the query and what comes before.
    """

    def bias(self, Q):
        direction = 1 - 2 * (torch.arange(self.num_heads, device=Q.device) % 2)
        hidden = direction[:, None, None] * offsets(Q.size(2), Q.device) < 0
        return super().bias(Q).masked_fill(hidden, -math.inf)


class RotaryEncoding(PositionalEncoding):
    """Queries and keys turn by an angle that grows with the position.

    Su et al. 2021 (arXiv:2104.09864): the pair of dimensions (2i, 2i + 1) of position pos turns by
    pos / 10000^(2i / D), so that a score depends on the offset alone.

    Raises:
        ValueError: if the width of a head, `d_model` / `num_heads`, is odd.
    """

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        width = d_model // num_heads
        if width % 2:
            raise ValueError(f"rotary positions turn pairs of dimensions, and a head has {width}")
        self.angles = SinusoidalPositionalEncoding(width, max_len=1)

    def rotate(self, Q, K):
        rows = self.angles.rows(Q.size(2), torch.float64).to(Q)  # [L, D]
        sin, cos = rows[:, 0::2], rows[:, 1::2]

        def turn(x):
            even, odd = x[..., 0::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

        return turn(Q), turn(K)


class CausalEncoding(PositionalEncoding):
    """No positions, but each query sees only the keys up to its own: the mask alone shows order.

    Kazemnejad et al. 2023 (arXiv:2305.19466).
    """

    def bias(self, Q):
        later = offsets(Q.size(2), Q.device) > 0
        return Q.new_zeros(later.shape).masked_fill(later, -math.inf)
