"""Positional encodings: the interface, the three strategies of the assignment, and their table.

Shapes in comments: B batch, L length, H heads, D width of one head.
"""

import copy
import math

import torch
from torch import nn

INITIAL_STD = 0.5  # of learned rows: of like size to the token embeddings and to sinusoidal rows


class PositionalEncoding(nn.Module):
    """The interface: add to the input, rotate queries and keys, bias the scores.

    The model always calls all three; each encoding overrides the one that it needs.

    Args:
        d_model: width of the model.
        max_len: number of positions that an encoding with a table has rows for.
        num_heads: heads of a layer, for an encoding that treats them differently.

    Attributes:
        lr_scale: factor of the learning rate of the encoding's own parameters.
        bounded: whether a sequence of more than `max_len` values is an error.
    """

    lr_scale = 1.0
    bounded = False

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__()
        self.d_model, self.max_len, self.num_heads = d_model, max_len, num_heads

    def forward(self, x):
        """Token embeddings `x [B, L, d_model]` with positions added: the same shape."""
        return x

    def rotate(self, Q, K):
        """Queries and keys `[B, H, L, D]` with positions worked in: the same shapes."""
        return Q, K

    def bias(self, Q):
        """What is added to the scores `[B, H, L, L]` of rotated queries `Q`; None for nothing.

        A bias of -inf hides a key.
        """
        return None


class NoPositionalEncoding(PositionalEncoding):
    """No positions. An encoder with mean pooling is then blind to order.

    Its logits are the same for every permutation of the tokens. (Kazemnejad et al. 2023,
    arXiv:2305.19466, explain why only a causal mask can replace positions.)
    """


class SinusoidalPositionalEncoding(PositionalEncoding):
    """PE(pos, 2i) = sin(pos / 10000^(2i / d_model)), PE(pos, 2i + 1) = cos(the same angle).

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5. Defined at every position: the table grows
    when a sequence is longer. For d_model = 4 the frequencies are 1 and 1/100; the first rows are

        pos 0    0.0000   1.0000   0.0000   1.0000
        pos 1    0.8415   0.5403   0.0100   0.9999
        pos 2    0.9093  -0.4161   0.0200   0.9998

    From position pos to pos + k each pair (2i, 2i + 1) turns by the angle k / 10000^(2i / d_model),
    whatever pos is: PE(pos + k) = R(k) PE(pos), R(k) made of 2 x 2 rotations (`shift_matrix`).
    """

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        self.register_buffer("table", self.rows(max_len), persistent=False)

    def rows(self, count, dtype=torch.float32):
        """The encodings of positions 0 to count - 1, `[count, d_model]`, computed in float64."""
        return self.rows_at(torch.arange(count), dtype)

    def rows_at(self, positions, dtype=torch.float32):
        """The encodings of any `positions [L]`, whole numbers or not: `[L, d_model]`."""
        angles = positions.double().unsqueeze(1) * self.frequencies()  # [L, d_model / 2]
        interleaved = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return interleaved[:, : self.d_model].to(dtype)

    def frequencies(self):
        """Radians a position for each pair of dimensions, `[ceil(d_model / 2)]`."""
        even = torch.arange(0, self.d_model, 2, dtype=torch.float64)
        return torch.exp(even * (-math.log(10000.0) / self.d_model))

    def shift_matrix(self, k):
        """R(k) `[d_model, d_model]` in float64, for even d_model: PE(pos + k) = R(k) PE(pos)."""
        blocks = []
        for angle in k * self.frequencies():
            sin, cos = angle.sin(), angle.cos()
            blocks.append(torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])]))
        return torch.block_diag(*blocks)

    def places(self, length):
        """The index of the rows that a sequence of `length` gets."""
        return slice(length)

    def forward(self, x):
        if x.size(1) > len(self.table):
            self.table = self.rows(x.size(1)).to(self.table)
        return x + self.table[self.places(x.size(1))]


class LearnedPositionalEncoding(PositionalEncoding):
    """A trained row for each position: x[:, pos] + position_embeddings.weight[pos].

    Gehring et al. 2017 (arXiv:1705.03122); BERT. With d_model = 2 and max_len = 3 a table might be

        pos 0    0.013  -0.021
        pos 1   -0.008   0.034
        pos 2    0.027   0.002

    A row gets a gradient only from sequences that reach it. Weight decay leaves the rows alone. So
    a row beyond the longest training sequence keeps its first, random values.

    Raises:
        ValueError: from `forward`, if a sequence is longer than `max_len`.
    """

    bounded = True

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        self.position_embeddings = nn.Embedding(max_len, d_model)
        nn.init.normal_(self.position_embeddings.weight, std=INITIAL_STD)

    def rows_at(self, positions):
        """The rows of `positions [L]`, interpolated between whole numbers: `[L, d_model]`."""
        table, below = self.position_embeddings.weight, positions.floor().long()
        above, share = positions.ceil().long(), (positions - below).unsqueeze(1)
        return torch.lerp(table[below], table[above], share.to(table))

    def places(self, length):
        """The index of the rows that a sequence of `length` gets."""
        return slice(length)

    def forward(self, x):
        if x.size(1) > self.max_len:
            raise ValueError(
                f"a sequence of {x.size(1)} values is longer than the {self.max_len} positions of "
                "the learned encoding"
            )
        return x + self.position_embeddings.weight[self.places(x.size(1))]


# The only place where encodings have names. `beyond` adds its own.
ENCODINGS = {
    "sinusoidal": SinusoidalPositionalEncoding,
    "learned": LearnedPositionalEncoding,
    "none": NoPositionalEncoding,
}
REQUIRED = tuple(ENCODINGS)


def get_positional_encoding(encoding_type, d_model, max_len=5000, num_heads=4):
    """The encoding of that name.

    Raises:
        ValueError: if there is none.
    """
    if encoding_type not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        raise ValueError(f"no encoding is called {encoding_type!r}: choose from {known}")
    return ENCODINGS[encoding_type](d_model, max_len, num_heads)


@torch.no_grad()
def visualize_positional_encoding(encoding_module, max_len=128, d_model=128):
    """What an encoding adds at positions 0 to max_len - 1: a numpy array `[max_len, d_model]`."""
    return copy.deepcopy(encoding_module).cpu()(torch.zeros(1, max_len, d_model))[0].numpy()
