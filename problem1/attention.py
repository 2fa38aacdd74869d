"""Scaled dot-product and multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

Shapes in comments: B batch, T queries, S keys, H heads, D width of one head; d_model = H * D.
"""

import math

import torch
from torch import nn


def scaled_dot_product_attention(Q, K, V, mask=None, bias=None):
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k) + bias) V, equation 1 of the paper (there without a bias).

    Args:
        Q: queries `[B, ..., T, d_k]`.
        K: keys `[B, ..., S, d_k]`.
        V: values `[B, ..., S, d_v]`.
        mask: None, or a tensor broadcastable to the scores `[B, ..., T, S]`; 1/True = attend, 0/False = masked.
        bias: None, or what is added to the scores, broadcastable to them.

    Returns:
        `(output [B, ..., T, d_v], attention_weights [B, ..., T, S])`. Each row of weights sums to one, except that a
        query whose keys are all masked gets zero weights and zero output (and zero gradient), never NaN.
    """
    scores = (Q / math.sqrt(Q.size(-1))) @ K.transpose(-2, -1)  # [B, ..., T, S]
    if bias is not None:
        scores = scores + bias
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        masked = mask == 0
        # The lowest finite score, not -inf: a row that is masked throughout stays finite and is zeroed afterwards.
        weights = scores.masked_fill(masked, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(masked, 0.0)
    return weights @ V, weights


def create_causal_mask(seq_len, device=None):
    """Lower-triangular mask `[1, 1, seq_len, seq_len]` of bools: position t attends to positions 0..t."""
    return torch.ones(1, 1, seq_len, seq_len, dtype=torch.bool, device=device).tril()


class MultiHeadAttention(nn.Module):
    """H attentions side by side, each on its own D = d_model / H dimensions (section 3.2.2 of the paper).

    What enters `W_o` are the heads' outputs side by side, `[B, T, d_model]`: a hook there can watch and change each
    head.

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`.
    """

    def __init__(self, d_model, num_heads):
        super().__init__()
        if num_heads < 1 or d_model < 1 or d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be a positive multiple of num_heads ({num_heads})")
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

    def forward(self, query, key, value, mask=None, bias=None, cache=None):
        """Multi-head attention.

        Args:
            query: `[B, T, d_model]`.
            key, value: `[B, S, d_model]`.
            mask: None or broadcastable to `[B, H, T, S]`; 1/True = attend, 0/False = masked.
            bias: None, or what is added to the scores, broadcastable to `[B, H, T, S]`.
            cache: None, or this attention's `KeyValueCache`, which changes the keys and values that are attended to; S
                is then their number.

        Returns:
            `(output [B, T, d_model], attention_weights [B, H, T, S])`.
        """
        if cache is not None and cache.complete:
            keys, values = cache.keys, cache.values
        else:
            keys, values = self.split_heads(self.W_k(key)), self.split_heads(self.W_v(value))
            if cache is not None:
                keys, values = cache.append(keys, values)
        heads, weights = scaled_dot_product_attention(self.split_heads(self.W_q(query)), keys, values, mask, bias)
        return self.W_o(self.combine_heads(heads)), weights


class KeyValueCache:
    """Keys and values `[B, H, S, D]` of one attention, kept from one step of decoding to the next.

    Self-attention adds those of each new position to the ones before. With `constant`, as cross-attention needs it,
    those of the first step serve all later ones, and keys and values given then are not looked at.
    """

    def __init__(self, constant=False):
        self.constant = constant
        self.keys = self.values = None

    def __len__(self):
        return 0 if self.keys is None else self.keys.size(2)

    @property
    def complete(self):
        """Whether nothing is to be added any more."""
        return self.constant and self.keys is not None

    def append(self, keys, values):
        """Add the keys and values of the positions that follow; returns all there are now."""
        if self.keys is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values
