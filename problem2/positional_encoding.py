"""Positional encodings that number the positions and add to the input; the table of all encodings, `ENCODINGS`.

The interface is that of `positions.base`; encodings that know distances alone are in `positions.relative`.
Shapes in comments: B batch, L length.
"""

import copy
import math

import torch
from torch import nn

from positions.base import NoPositionalEncoding
from positions.relative import (CausalEncoding, DirectedALiBi, LocalBias, RelativeBias, RelativeKeys, RotaryEncoding,
                                SymmetricALiBi)


class SinusoidalPositionalEncoding(NoPositionalEncoding):
    """PE(pos, 2i) = sin(pos / 10000^(2i / d_model)), PE(pos, 2i + 1) = cos(pos / 10000^(2i / d_model)).

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5. Defined at every position: the table grows when asked to.
    For d_model = 4 the frequencies are 1 and 1/100, and the first rows are

        pos 0    0.0000   1.0000   0.0000   1.0000
        pos 1    0.8415   0.5403   0.0100   0.9999
        pos 2    0.9093  -0.4161   0.0200   0.9998

    Between positions pos and pos + k each pair (2i, 2i + 1) turns by the angle k / 10000^(2i / d_model), whatever pos
    is: PE(pos + k) = R(k) PE(pos), with R(k) block-diagonal of 2 x 2 rotations (`shift_matrix`).
    """

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        self.register_buffer("table", self.rows(max_len), persistent=False)

    def rows(self, count, dtype=torch.float32):
        """The encodings of positions 0 to count - 1, `[count, d_model]`, computed in float64."""
        return self.rows_at(torch.arange(count), dtype)

    def rows_at(self, positions, dtype=torch.float32):
        """The encodings of any `positions [L]`, whole or not: `[L, d_model]`."""
        angles = positions.double().unsqueeze(1) * self.frequencies()
        interleaved = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return interleaved[:, :self.d_model].to(dtype)

    def frequencies(self):
        """Radians a position for each pair of dimensions, `[ceil(d_model / 2)]`."""
        return torch.exp(torch.arange(0, self.d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / self.d_model))

    def shift_matrix(self, k):
        """R(k) `[d_model, d_model]` in float64, for even d_model: PE(pos + k) = R(k) PE(pos)."""
        blocks = [torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
                  for angle in k * self.frequencies()]
        return torch.block_diag(*blocks)

    def places(self, length):
        """Which rows a sequence of `length` gets: an index."""
        return slice(length)

    def forward(self, x):
        if x.size(1) > len(self.table):
            self.table = self.rows(x.size(1)).to(self.table)
        return x + self.table[self.places(x.size(1))]


class LearnedPositionalEncoding(NoPositionalEncoding):
    """A trained row for each position: x[:, pos] + position_embeddings.weight[pos].

    Gehring et al. 2017 (arXiv:1705.03122); BERT. With d_model = 2 and max_len = 3 a table might be

        pos 0    0.013  -0.021
        pos 1   -0.008   0.034
        pos 2    0.027   0.002

    A row gets a gradient only from sequences that reach it. Past the longest training sequence the policy is to use the
    rows as they were initialised: weight decay leaves them alone, so they stay at their first values. Past `max_len`
    there is no row, which is an error. Rows begin of like size to the token embeddings (and to sinusoidal rows).

    Raises:
        ValueError: from `forward`, if a sequence is longer than `max_len`.
    """

    bounded = True

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        self.position_embeddings = nn.Embedding(max_len, d_model)
        nn.init.normal_(self.position_embeddings.weight, std=INITIAL_STD)

    def places(self, length):
        """Which rows a sequence of `length` gets: an index."""
        return slice(length)

    def rows_at(self, positions):
        """The rows of `positions [L]`, between two whole ones in proportion: `[L, d_model]`."""
        table, below = self.position_embeddings.weight, positions.floor().long()
        return torch.lerp(table[below], table[positions.ceil().long()], (positions - below).unsqueeze(1).to(table))

    def forward(self, x):
        if x.size(1) > self.max_len:
            raise ValueError(f"a sequence of {x.size(1)} values is longer than the {self.max_len} positions "
                             "of the learned encoding")
        return x + self.position_embeddings.weight[self.places(x.size(1))]


class RandomOffset:
    """In training the rows of a batch start at one drawn from all that leave room up to `max_len`; in evaluation at row
    0.

    Huang et al. 2024 (arXiv:2410.02140). This trains positions out to `max_len`: a test at lengths up to `max_len` is
    no longer one of positions that training never reached, only of lengths.
    """

    def places(self, length):
        start = int(torch.randint(max(1, self.max_len - length + 1), ())) if self.training else 0
        return slice(start, start + length)


class SinusoidalOffsetEncoding(RandomOffset, SinusoidalPositionalEncoding):
    """`SinusoidalPositionalEncoding` with a random offset in training."""


class LearnedOffsetEncoding(RandomOffset, LearnedPositionalEncoding):
    """`LearnedPositionalEncoding` with a random offset in training, which reaches every row."""


class RandomPositionsEncoding(SinusoidalPositionalEncoding):
    """Sinusoidal rows of random positions: in training a random subset of the first `max_len`, in order, new for each
    batch.

    Ruoss et al. 2023 (arXiv:2305.16843). In evaluation the positions are spread evenly over the same range (there they
    are drawn too), so that an answer does not depend on chance: for 4 values and max_len = 300 they are 0, 75, 150,
    225. Padding takes its share of them, so that a padded sequence gets other positions than one alone. This trains
    positions out to `max_len`, as an offset does; a sequence longer than that gets the positions 0, 1, 2, ...
    """

    def places(self, length):
        count = max(self.max_len, length)
        return torch.randperm(count)[:length].sort().values if self.training else torch.arange(length) * count // length


INITIAL_STD = 0.5

REQUIRED = ("sinusoidal", "learned", "none")
ENCODINGS = {"sinusoidal": SinusoidalPositionalEncoding, "learned": LearnedPositionalEncoding,
             "none": NoPositionalEncoding,
             "sinusoidal_offset": SinusoidalOffsetEncoding, "learned_offset": LearnedOffsetEncoding,
             "random_positions": RandomPositionsEncoding, "rotary": RotaryEncoding, "alibi_symmetric": SymmetricALiBi,
             "alibi_directed": DirectedALiBi, "relative_bias": RelativeBias, "relative_keys": RelativeKeys,
             "local_bias": LocalBias, "causal": CausalEncoding}


def get_positional_encoding(encoding_type, d_model, max_len=5000, num_heads=4):
    """The encoding of that name.

    Raises:
        ValueError: if there is none.
    """
    if encoding_type not in ENCODINGS:
        raise ValueError(f"no encoding is called {encoding_type!r}: choose from {', '.join(ENCODINGS)}")
    return ENCODINGS[encoding_type](d_model, max_len, num_heads)


@torch.no_grad()
def visualize_positional_encoding(encoding_module, max_len=128, d_model=128):
    """What an encoding adds to the input at positions 0 to max_len - 1: a numpy array `[max_len, d_model]`."""
    return copy.deepcopy(encoding_module).cpu()(torch.zeros(1, max_len, d_model))[0].numpy()
