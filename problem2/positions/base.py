"""The interface of every positional encoding, and the encoding that does nothing: no positions."""

from torch import nn


class NoPositionalEncoding(nn.Module):
    """No positions, and the interface that the other encodings fill in: add to the input, rotate queries and keys, bias
    the scores.

    The model always calls all three. An encoder with mean pooling over this one is blind to order: its logits are the
    same for every permutation of the tokens (Kazemnejad et al. 2023, arXiv:2305.19466, on why only a causal mask can
    stand in for positions).

    Args:
        d_model: width of the model.
        max_len: number of positions that an encoding with a table has rows for.
        num_heads: heads of a layer, for an encoding that treats them differently.

    Attributes:
        lr_scale: what the learning rate of the encoding's own parameters is multiplied by.
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
        """What is added to the scores `[B, H, L, L]` of queries `Q [B, H, L, D]` (rotated already), or None; -inf cuts
        a key off."""
        return None
