"""Measure the speed, against PyTorch's own modules and against the matrix products alone.

Writes benchmark.json and benchmark.png to results/beyond/. What is compared is timed in turn; run
it on an idle machine.
"""

import math
from functools import partial

from support import timing

import torch
from torch import nn

from dataset import VOCAB_SIZE
from model import MultiHeadAttention, SortingClassifier, scaled_dot_product_attention
from positional_encoding import SinusoidalPositionalEncoding
from train import TrainingConfig, make_optimizer, train_epoch

ROUNDS = 9
SIZES = {"d_model": 128, "num_heads": 4, "num_layers": 4, "d_ff": 512, "dropout": 0.0}
TRAINED_LENGTH = 12  # halfway between the shortest and the longest training sequence


class PyTorchClassifier(nn.Module):
    """`SortingClassifier` made of `nn.TransformerEncoder`, with the same sizes and parameters."""

    def __init__(self, vocab_size, d_model, num_heads, num_layers, d_ff, dropout):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.pos_encoding = SinusoidalPositionalEncoding(d_model, max_len=300)
        options = {"dropout": dropout, "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(d_model, num_heads, d_ff, **options)
        self.encoder = nn.TransformerEncoder(
            layer, num_layers, nn.LayerNorm(d_model), enable_nested_tensor=False
        )
        self.classifier = nn.Linear(d_model, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """Logits `[B, 2]` for values `x [B, L]`."""
        x = self.embedding(x) * math.sqrt(self.embedding.embedding_dim)
        return self.classifier(self.encoder(self.dropout(self.pos_encoding(x))).mean(dim=1))


def training_step(kind, batch):
    """A function that does one step of `train_epoch` of a new model of class `kind`."""
    config, model = TrainingConfig(), kind(VOCAB_SIZE, **SIZES)
    optimizer = make_optimizer(model, config)
    return lambda: train_epoch(model, [batch], optimizer, config, 1)


def measure_training_step(rounds):
    """The training step against PyTorch's modules and against its matrix products: two records."""
    batch_size = TrainingConfig().batch_size
    batch = {
        "sequence": torch.randint(100, (batch_size, TRAINED_LENGTH)),
        "label": torch.randint(2, (batch_size,)),
    }
    ours = training_step(SortingClassifier, batch)
    functions = {
        "ours": ours,
        "nn.TransformerEncoder": training_step(PyTorchClassifier, batch),
        "matrix products": timing.products_alone(ours),
    }
    times = timing.times_in_turn(functions, rounds)
    section = {"section": "training step", "batch_size": batch_size, "length": TRAINED_LENGTH}
    return [
        {**section, **SIZES, "target": target, **timing.compare(times, "ours", against)}
        for against, target in [("nn.TransformerEncoder", 1.0), ("matrix products", 1.4)]
    ]


def main(arguments=None):
    attention = partial(timing.measure_attention, scaled_dot_product_attention, MultiHeadAttention)
    measures = [
        measure_training_step,
        *(partial(attention, length=length) for length in timing.LENGTHS),
    ]
    timing.run_benchmark(__doc__, measures, ROUNDS, arguments)
