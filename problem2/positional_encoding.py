"""Positional encodings behind one interface: add to the input, rotate queries and keys, bias the scores.

The model always calls all three; each encoding overrides what it is about, and the base class, which does nothing, is the
model without positions. Shapes in comments: B batch, L length, H heads, D width of one head.
"""

import math

import torch
from torch import nn


class NoPositionalEncoding(nn.Module):
    """No positions, and the interface that the other encodings fill in.

    An encoder with mean pooling over it is blind to order: its logits are the same for every permutation of the tokens
    (Kazemnejad et al. 2023, arXiv:2305.19466, on why only a causal mask can stand in for positions).

    Args:
        d_model: width of the model.
        max_len: number of positions that an encoding with a table has rows for.
    """

    def __init__(self, d_model, max_len=5000):
        super().__init__()
        self.d_model, self.max_len = d_model, max_len

    def forward(self, x):
        """Token embeddings `x [B, L, d_model]` with positions added: the same shape."""
        return x

    def rotate(self, Q, K):
        """Queries and keys `[B, H, L, D]` with positions worked in: the same shapes."""
        return Q, K

    def bias(self, length):
        """What is added to the scores `[B, H, L, L]` of a sequence of `length`, or None."""
        return None


class SinusoidalPositionalEncoding(NoPositionalEncoding):
    """PE(pos, 2i) = sin(pos / 10000^(2i / d_model)), PE(pos, 2i + 1) = cos(pos / 10000^(2i / d_model)).

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5. Defined at every position: the table grows when asked to.
    For d_model = 4 the frequencies are 1 and 1/100, and the first rows are

        pos 0    0.0000   1.0000   0.0000   1.0000
        pos 1    0.8415   0.5403   0.0100   0.9999
        pos 2    0.9093  -0.4161   0.0200   0.9998

    Between positions pos and pos + k each pair (2i, 2i + 1) turns by the angle k / 10000^(2i / d_model), whatever pos is:
    PE(pos + k) = R(k) PE(pos), with R(k) block-diagonal of 2 x 2 rotations (`shift_matrix`).
    """

    def __init__(self, d_model, max_len=5000):
        super().__init__(d_model, max_len)
        self.register_buffer("table", self.rows(max_len), persistent=False)

    def rows(self, count, dtype=torch.float32):
        """The encodings of positions 0 to count - 1, `[count, d_model]`, computed in float64."""
        angles = torch.arange(count, dtype=torch.float64).unsqueeze(1) * self.frequencies()
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

    def forward(self, x):
        if x.size(1) > len(self.table):
            self.table = self.rows(x.size(1)).to(x.device)
        return x + self.table[:x.size(1)]


class LearnedPositionalEncoding(NoPositionalEncoding):
    """A trained row for each position: x[:, pos] + position_embeddings.weight[pos].

    Gehring et al. 2017 (arXiv:1705.03122); BERT. With d_model = 2 and max_len = 3 a table might be

        pos 0    0.013  -0.021
        pos 1   -0.008   0.034
        pos 2    0.027   0.002

    A row gets a gradient only from sequences that reach it. Past the longest training sequence the policy is to use the
    rows as they were initialised: weight decay leaves them alone, so they stay at their first values. Past `max_len`
    there is no row, which is an error. Rows begin of like size to the token embeddings (and to sinusoidal rows): with BERT's
    standard deviation of 0.02 the first epochs are spent on making positions visible at all.

    Raises:
        ValueError: from `forward`, if a sequence is longer than `max_len`.
    """

    def __init__(self, d_model, max_len=5000):
        super().__init__(d_model, max_len)
        self.position_embeddings = nn.Embedding(max_len, d_model)
        nn.init.normal_(self.position_embeddings.weight, std=INITIAL_STD)

    def forward(self, x):
        if x.size(1) > self.max_len:
            raise ValueError(f"a sequence of {x.size(1)} values is longer than the {self.max_len} positions of the learned encoding")
        return x + self.position_embeddings.weight[:x.size(1)]


INITIAL_STD = 0.5

ENCODINGS = {"sinusoidal": SinusoidalPositionalEncoding, "learned": LearnedPositionalEncoding, "none": NoPositionalEncoding}


def get_positional_encoding(encoding_type, d_model, max_len=5000):
    """The encoding of that name.

    Raises:
        ValueError: if there is none.
    """
    if encoding_type not in ENCODINGS:
        raise ValueError(f"no encoding is called {encoding_type!r}: choose from {', '.join(ENCODINGS)}")
    return ENCODINGS[encoding_type](d_model, max_len)


@torch.no_grad()
def visualize_positional_encoding(encoding_module, max_len=128, d_model=128):
    """What an encoding adds to the input at positions 0 to max_len - 1: a numpy array `[max_len, d_model]`."""
    return encoding_module(torch.zeros(1, max_len, d_model))[0].cpu().numpy()
