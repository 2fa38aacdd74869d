"""Scaled dot-product and multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

Shapes in comments: B batch, T queries, S keys, H heads, D width of one head; d_model = H * D.
"""

import math

import torch
from torch import nn


def scaled_dot_product_attention(Q, K, V, mask=None):
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V, equation 1 of the paper.

    Args:
        Q: queries `[B, ..., T, d_k]`.
        K: keys `[B, ..., S, d_k]`.
        V: values `[B, ..., S, d_v]`.
        mask: None, or a tensor broadcastable to the scores `[B, ..., T, S]`; 1/True = attend, 0/False = masked.

    Returns:
        `(output [B, ..., T, d_v], attention_weights [B, ..., T, S])`. Each row of weights sums to one, except that a
        query whose keys are all masked gets zero weights and zero output (and zero gradient), never NaN.
    """
    scores = (Q / math.sqrt(Q.size(-1))) @ K.transpose(-2, -1)  # [B, ..., T, S]
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

    `intervene` is None, or a function that gets the heads' outputs `[B, H, T, D]` and their weights `[B, H, T, S]` and
    returns what shall take the outputs' place before `W_o` (see `heads.py`).

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`.
    """

    def __init__(self, d_model, num_heads):
        super().__init__()
        if num_heads < 1 or d_model < 1 or d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be a positive multiple of num_heads ({num_heads})")
        self.num_heads, self.d_k = num_heads, d_model // num_heads
        self.W_q = nn.Linear(d_model, d_model)
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)
        self.W_o = nn.Linear(d_model, d_model)
        self.intervene = None

    def split_heads(self, x):
        """`[B, T, d_model]` -> `[B, H, T, D]`."""
        return x.unflatten(-1, (self.num_heads, self.d_k)).transpose(1, 2)

    def combine_heads(self, x):
        """`[B, H, T, D]` -> `[B, T, d_model]`, the inverse of `split_heads`."""
        return x.transpose(1, 2).flatten(2)

    def project(self, key, value):
        """Keys and values of every head, `[B, H, S, D]` each: what decoding step by step keeps for the next step."""
        return self.split_heads(self.W_k(key)), self.split_heads(self.W_v(value))

    def attend(self, query, keys, values, mask=None):
        """Attend from `query [B, T, d_model]` to `keys`, `values` `[B, H, S, D]` as `project` gives them."""
        heads, weights = scaled_dot_product_attention(self.split_heads(self.W_q(query)), keys, values, mask)
        if self.intervene is not None:
            heads = self.intervene(heads, weights)
        return self.W_o(self.combine_heads(heads)), weights

    def forward(self, query, key, value, mask=None):
        """Multi-head attention.

        Args:
            query: `[B, T, d_model]`.
            key, value: `[B, S, d_model]`.
            mask: None or broadcastable to `[B, H, T, S]`; 1/True = attend, 0/False = masked.

        Returns:
            `(output [B, T, d_model], attention_weights [B, H, T, S])`.
        """
        return self.attend(query, *self.project(key, value), mask)
