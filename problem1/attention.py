"""Scaled dot-product and multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

Shapes in comments: B batch, T queries, S keys, H heads, D width of one head; d_model = H * D.
"""

import math

import torch
from torch import nn


def scaled_dot_product_attention(Q, K, V, mask=None, bias=None):
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k) + bias) V, equation 1 (there without a bias).

    Args:
        Q: queries `[B, ..., T, d_k]`.
        K: keys `[B, ..., S, d_k]`.
        V: values `[B, ..., S, d_v]`.
        mask: None, or broadcastable to the scores `[B, ..., T, S]`; 1/True = attend, 0/False =
            masked.
        bias: None, or what is added to the scores, broadcastable to them.

    Returns:
        `(output [B, ..., T, d_v], attention_weights [B, ..., T, S])`. Each row of weights sums to
        one. A query whose keys are all masked gets zero weights and zero output, never NaN.

    Raises:
        ValueError: if the mask does not fit the scores, or holds other values than 0 and 1.
    """
    scores = (Q / math.sqrt(Q.size(-1))) @ K.transpose(-2, -1)  # [B, ..., T, S]
    if bias is not None:
        scores = scores + bias
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        masked = ~expand_mask(mask, scores.shape)
        # The lowest finite score, not -inf: a row that is masked throughout stays finite, and the
        # second masked_fill sets it to zero.
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(masked, lowest).softmax(dim=-1).masked_fill(masked, 0.0)
    return weights @ V, weights


def expand_mask(mask, shape):
    """A mask as bools of the scores' `shape`, without enlarging them.

    Raises:
        ValueError: if the mask does not fit, or is additive (0 and -inf) instead of 0 and 1.
    """
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("a mask holds 1 (attend) and 0 (masked) alone; this one has other values")
    if mask.dim() < 2:
        raise ValueError("a mask needs a dimension for queries and one for keys: [..., T, S]")
    given = tuple(mask.shape)
    while mask.dim() > len(shape) and mask.size(0) == 1:
        mask = mask.squeeze(0)
    try:
        return (mask != 0).expand(shape)
    except RuntimeError:
        raise ValueError(f"a mask {given} does not fit scores {tuple(shape)}") from None


def create_causal_mask(seq_len, device=None):
    """Lower-triangular bools `[1, 1, seq_len, seq_len]`: position t attends to positions 0..t."""
    return torch.ones(1, 1, seq_len, seq_len, dtype=torch.bool, device=device).tril()


class MultiHeadAttention(nn.Module):
    """H attentions side by side, each on its own D = d_model / H dimensions (section 3.2.2).

    What enters `W_o` are the heads' outputs side by side, `[B, T, d_model]`: a hook there can
    watch and change each head.

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`.
    """

    def __init__(self, d_model, num_heads):
        super().__init__()
        if num_heads < 1 or d_model < 1 or d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be a multiple of num_heads ({num_heads})")
        self.d_model, self.num_heads, self.d_k = d_model, num_heads, d_model // num_heads
        self.W_q = nn.Linear(d_model, d_model)
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)
        self.W_o = nn.Linear(d_model, d_model)

    def split_heads(self, x):
        """`[B, T, d_model]` -> `[B, H, T, D]`."""
        return x.unflatten(-1, (self.num_heads, self.d_k)).transpose(1, 2)

    def combine_heads(self, x):
        """`[B, H, T, D]` -> `[B, T, d_model]`, the inverse of `split_heads`."""
        return x.transpose(1, 2).flatten(2)

    def forward(self, query, key, value, mask=None):
        """Multi-head attention.

        Args:
            query: `[B, T, d_model]`.
            key, value: `[B, S, d_model]`.
            mask: None, or broadcastable to `[B, H, T, S]`; `[B, T, S]` holds for every head.
                1/True = attend, 0/False = masked.

        Returns:
            `(output [B, T, d_model], attention_weights [B, H, T, S])`.
        """
        K = self.split_heads(self.W_k(key))  # [B, H, S, D]
        V = self.split_heads(self.W_v(value))  # [B, H, S, D]
        Q = self.split_heads(self.W_q(query))  # [B, H, T, D]
        if mask is not None and mask.dim() == 3:
            mask = mask.unsqueeze(1)
        heads, weights = scaled_dot_product_attention(Q, K, V, mask, self.bias())
        return self.W_o(self.combine_heads(heads)), weights  # [B, T, d_model], [B, H, T, S]

    def bias(self):
        """What a subclass adds to the scores, broadcastable to `[B, H, T, S]`; here nothing."""
        return None
