"""What the benchmark compares with: the same model made of PyTorch's own parts."""

import math

import torch
from torch import nn

from positional_encoding import SinusoidalPositionalEncoding


class PyTorchClassifier(nn.Module):
    """`SortingClassifier` with sinusoidal positions made of `nn.TransformerEncoder`; same sizes, same parameters."""

    def __init__(self, vocab_size, d_model, num_heads, num_layers, d_ff, dropout, max_len=300):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.pos_encoding = SinusoidalPositionalEncoding(d_model, max_len)
        layer = nn.TransformerEncoderLayer(d_model, num_heads, d_ff, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(d_model), enable_nested_tensor=False)
        self.classifier = nn.Linear(d_model, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None):
        """Logits `[B, 2]` for values `x [B, L]`; mask `[B, L]`, 1/True = real, the real values first; None = all are
        real."""
        h = self.dropout(self.pos_encoding(self.embedding(x) * math.sqrt(self.embedding.embedding_dim)))
        if mask is None:
            return self.classifier(self.encoder(h).mean(dim=1))
        real = (mask != 0).to(h.dtype).unsqueeze(-1)
        h = self.encoder(h, src_key_padding_mask=mask == 0)
        return self.classifier((h * real).sum(dim=1) / real.sum(dim=1).clamp(min=1))
