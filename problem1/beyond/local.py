"""A transformer that adds numbers of every length: each token sees its column and the next lower.

It writes the units first. The two digits of a column share a position (see beyond/columns.py); so
does the digit of the sum, and `+` is in the leading column. What a token sees is a short list:

    a digit of column c   sees both digits of column c, and `+` if c is the leading column
    the step of column t  sees the last two digits written (columns t - 1 and t - 2), and the
                          encoder's output for columns t and t - 1

There is no table of all queries and keys. Time and memory grow with the number of digits alone.
Shapes in comments: B batch, T queries, S source tokens, K keys in a list, H heads, n digits.
"""

import torch
from torch import nn

from attention import MultiHeadAttention, scaled_dot_product_attention
from beyond.columns import ColumnBias
from dataset import PLUS_TOKEN, START_TOKEN
from model import Seq2SeqTransformer, evaluating

BLOCK = 64  # digits that `add` guesses at a time


class LocalAttention(MultiHeadAttention):
    """Attention of each query to a short list of keys of its own.

    Attributes:
        keys: which tokens they are `[T, K]`; set before each pass.
        real: bools `[T, K]`, false where a list is shorter than K.
        distance: None, or weights `[H, 2]`: what they add to the scores of the first half of each
            list (the query's column) and of the second half (the next lower column).
    """

    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.keys = self.real = None
        self.register_parameter("distance", None)

    def forward(self, query, key, value, mask=None):
        """As `MultiHeadAttention`, but the lists stand in the place of `mask`.

        Returns:
            `(output [B, T, d_model], attention_weights [B, H, T, K])`.
        """
        Q = self.split_heads(self.W_q(query)).unsqueeze(3)  # [B, H, T, 1, D]
        K, V = self.take(self.W_k, key), self.take(self.W_v, value)  # [B, H, T, K, D] each
        bias = None
        if self.distance is not None:
            bias = ColumnBias.GAIN * self.distance.repeat_interleave(self.keys.size(1) // 2, dim=1)
            bias = bias[:, None, None]  # [H, 1, 1, K]
        heads, weights = scaled_dot_product_attention(Q, K, V, self.real[:, None], bias)
        return self.W_o(self.combine_heads(heads.squeeze(3))), weights.squeeze(3)

    def take(self, linear, x):
        """Of `linear(x)`, x `[B, S, d_model]`, what each query's list has: `[B, H, T, K, D]`."""
        listed = self.keys.flatten()
        if len(listed) < x.size(1):  # a few steps of a long answer do not need all tokens
            x = linear(x.index_select(1, listed))
        else:
            x = linear(x).index_select(1, listed)
        x = x.unflatten(1, self.keys.shape).unflatten(-1, (self.num_heads, self.d_k))
        return x.permute(0, 3, 1, 2, 4)


class LocalTransformer(Seq2SeqTransformer):
    """The transformer of one encoder and one decoder layer with `LocalAttention`.

    All problems of a batch have numbers of the same size; there is no padding, and it takes no
    mask.

    Raises:
        ValueError: if there are more layers: a second one would see further.
    """

    attention = LocalAttention

    def __init__(self, *sizes, **named_sizes):
        super().__init__(*sizes, **named_sizes)
        if len(self.encoder_layers) != 1 or len(self.decoder_layers) != 1:
            raise ValueError("this model has one encoder layer and one decoder layer")
        for attention in (self.decoder_layers[0].self_attn, self.decoder_layers[0].cross_attn):
            attention.distance = nn.Parameter(torch.zeros(self.config.num_heads, 2))

    def make_positional_encoding(self):
        return nn.Identity()

    def column_tokens(self, columns, n):
        """Where the digits of each column `[T]`, and `+`, stand in a source of n-digit numbers.

        Returns:
            `(tokens [T, 3], real [T, 3])`: `real` is false for what the column does not have.
        """
        tokens = torch.stack([n - 1 - columns, 2 * n - columns, torch.full_like(columns, n)], dim=1)
        digits = (columns >= 0) & (columns < n)
        real = torch.stack([digits, digits, columns == n - 1], dim=1)
        return tokens.where(real, 0), real

    def target_columns(self, place, n):
        """The column of the digit that each step writes: step t writes that of column t."""
        return place

    def encode(self, src, src_mask=None):
        refuse_mask(src_mask)
        n, place = src.size(1) // 2, torch.arange(src.size(1), device=src.device)
        columns = torch.where(place < n, n - 1 - place, (2 * n - place).clamp(max=n - 1))
        own = self.encoder_layers[0].self_attn
        own.keys, own.real = self.column_tokens(columns, n)
        return super().encode(src)

    def decode(self, tgt, encoder_output, src_mask=None, tgt_mask=None, first=0):
        """As `Seq2SeqTransformer.decode`; `tgt` may be a part, of which `first` is the column.

        Its first hidden state lacks a token then: the one before the part.
        """
        refuse_mask(src_mask)
        refuse_mask(tgt_mask)
        layer, n = self.decoder_layers[0], encoder_output.size(1) // 2
        place = torch.arange(tgt.size(1), device=tgt.device)
        columns = self.target_columns(first + place, n)
        both = torch.stack([place, place - 1], dim=1)  # [T, 2]
        layer.self_attn.keys, layer.self_attn.real = both.clamp(min=0), both >= 0
        lists = [self.column_tokens(columns - lower, n) for lower in (0, 1)]
        layer.cross_attn.keys, layer.cross_attn.real = (torch.cat(part, 1) for part in zip(*lists))
        return self.decoder_norm(layer(self.embed(tgt), encoder_output))

    @torch.no_grad()
    def add(self, a, b):
        """The sum of two numbers of n digits `[n]` each, the highest first: its digits `[n + 1]`.

        The digits are those of greedy decoding. To write several in one pass, it guesses the next
        BLOCK digits, and lets each step read the guesses before it (Jacobi decoding, Santilli et
        al. 2023, arXiv:2305.10427). What a step wrote counts if all that it read was right.
        """
        source = torch.cat([a, torch.full_like(a[:1], PLUS_TOKEN), b])[None]  # [1, 2n + 1]
        n, done = len(a), 0
        tokens = torch.zeros(1, n + 2, dtype=torch.long, device=a.device)  # a start token, the sum
        tokens[0, 0] = START_TOKEN
        with evaluating(self):
            encoder_output = self.encode(source)
            while done <= n:
                # Steps done, done + 1, ... read tokens up to their own and write the next.
                stop, first = min(done + BLOCK, n + 1), max(done - 1, 0)
                hidden = self.decode(tokens[:, first:stop], encoder_output, first=first)
                new = self.output_projection(hidden[:, done - first :]).argmax(dim=-1)
                wrong = (new != tokens[:, done + 1 : stop + 1]).nonzero()
                tokens[:, done + 1 : stop + 1] = new
                # The step that wrote the first digit unlike its guess still read right ones.
                done = done + int(wrong[0, 1]) + 1 if len(wrong) else stop
        return tokens[0, 1:].flip(0)


def refuse_mask(mask):
    """Raise ValueError if there is a mask."""
    if mask is not None:
        raise ValueError("this model takes no mask: give it problems of one size at a time")
