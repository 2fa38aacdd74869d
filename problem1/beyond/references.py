"""What the benchmark compares with: the same model made of PyTorch's own parts, and decoding without a cache."""

import math

import torch
from torch import nn

from dataset import START_TOKEN
from model import PositionalEncoding


class PyTorchTransformer(nn.Module):
    """`Seq2SeqTransformer` made of `nn.Transformer`, with its own embedding, positions and projection; same sizes, same
    parameters."""

    def __init__(self, vocab_size, d_model, num_heads, num_encoder_layers, num_decoder_layers, d_ff, dropout,
                 max_len=100):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positional_encoding = PositionalEncoding(d_model, max_len)
        options = {"dropout": dropout, "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(d_model, num_heads, d_ff, **options)
        encoder = nn.TransformerEncoder(layer, num_encoder_layers, nn.LayerNorm(d_model),
                                        enable_nested_tensor=False)  # else it warns
        self.transformer = nn.Transformer(d_model, num_heads, num_encoder_layers, num_decoder_layers, d_ff,
                                          custom_encoder=encoder, **options)
        self.output_projection = nn.Linear(d_model, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def embed(self, tokens):
        return self.dropout(self.positional_encoding(self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)))

    def forward(self, src, tgt, src_mask=None):
        """Logits `[B, T, vocab_size]`; `src_mask [B, 1, 1, S]` as for `Seq2SeqTransformer`."""
        causal = torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool, device=tgt.device).triu(1)  # here True = masked
        padding = None if src_mask is None else ~src_mask[:, 0, 0]
        hidden = self.transformer(self.embed(src), self.embed(tgt), tgt_mask=causal, src_key_padding_mask=padding,
                                  memory_key_padding_mask=padding)
        return self.output_projection(hidden)


@torch.no_grad()
def generate_uncached(model, src, max_len):
    """`Seq2SeqTransformer.generate` that decodes all tokens anew for each next one."""
    encoder_output = model.encode(src)
    tokens = torch.full((src.size(0), 1), START_TOKEN)
    for _ in range(max_len):
        hidden = model.decode(tokens, encoder_output)[:, -1:]
        tokens = torch.cat([tokens, model.output_projection(hidden).argmax(dim=-1)], dim=1)
    return tokens[:, 1:]
