"""Measure the speed, against PyTorch's own modules and against the matrix products alone.

Writes benchmark.json and benchmark.png to results/beyond/. What is compared is timed in turn; run
it on an idle machine.
"""

import math
from functools import partial

from support import cli, files, timing

import torch
from torch import nn

from attention import MultiHeadAttention, create_causal_mask, scaled_dot_product_attention
from beyond.recipes import default_sizes
from dataset import ORDERS, START_TOKEN, VOCAB_SIZE, encode_problems
from heads import batches
from heads.exhaustive import find_wrong
from heads.pruning import mean_outputs, without_heads
from heads.sites import all_heads
from model import PositionalEncoding, Seq2SeqTransformer, load_model
from train import TrainingConfig, make_optimizer, train_epoch

ROUNDS = 9
DECODED = 512  # problems at once
COUNTED = 4096  # pairs of numbers
# What a task is timed against, and the most that the ratio may be.
TARGETS = {
    "training step": {"nn.Transformer": 1.0, "matrix products": 1.4},
    "decoding": {"nn.Transformer": 1.0, "matrix products": 2.0},
    "all pairs": {"matrix products": 1.4},
}


class PyTorchTransformer(nn.Module):
    """`Seq2SeqTransformer` made of `nn.Transformer`, with the same sizes and parameters."""

    def __init__(
        self,
        vocab_size,
        d_model,
        num_heads,
        num_encoder_layers,
        num_decoder_layers,
        d_ff,
        dropout,
        max_len=100,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positional_encoding = PositionalEncoding(d_model, max_len)
        options = {"dropout": dropout, "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(d_model, num_heads, d_ff, **options)
        encoder = nn.TransformerEncoder(
            layer, num_encoder_layers, nn.LayerNorm(d_model), enable_nested_tensor=False
        )
        self.transformer = nn.Transformer(
            d_model,
            num_heads,
            num_encoder_layers,
            num_decoder_layers,
            d_ff,
            custom_encoder=encoder,
            **options,
        )
        self.output_projection = nn.Linear(d_model, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def embed(self, tokens):
        x = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.dropout(self.positional_encoding(x))

    def decode(self, tgt, memory):
        """Decoder input `[B, T]`, the encoder's output -> hidden states `[B, T, d_model]`."""
        future = torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool).triu(1)  # True = masked
        return self.transformer.decoder(self.embed(tgt), memory, tgt_mask=future)

    def forward(self, src, tgt, src_mask=None):
        """Logits `[B, T, vocab_size]`; there is no padding here, so `src_mask` is None."""
        memory = self.transformer.encoder(self.embed(src))
        return self.output_projection(self.decode(tgt, memory))

    @torch.no_grad()
    def generate(self, src, max_len):
        """Greedy decoding, as `Seq2SeqTransformer.generate` does it."""
        memory = self.transformer.encoder(self.embed(src))
        tokens = torch.full((len(src), 1), START_TOKEN)
        for _ in range(max_len):
            logits = self.output_projection(self.decode(tokens, memory)[:, -1:])
            tokens = torch.cat([tokens, logits.argmax(dim=-1)], dim=1)
        return tokens[:, 1:]


def random_problems(count):
    """Source and target tokens of random problems of three digits."""
    return encode_problems(*torch.randint(1, 10, (2, count, 3)))


def training_step(model, batch):
    """A function that does one step of `train_epoch` on the batch."""
    config = TrainingConfig()
    optimizer = make_optimizer(model, config)
    return lambda: train_epoch(model, [batch], optimizer, config, 1)


def compare_all(section, ours, pytorch, rounds):
    """Records of a function against the same one of PyTorch's modules and against its products."""
    functions = {
        "ours": ours,
        "nn.Transformer": pytorch,
        "matrix products": timing.products_alone(ours),
    }
    times = timing.times_in_turn(functions, rounds)
    return [
        section | {"target": target} | timing.compare(times, "ours", against)
        for against, target in TARGETS[section["section"]].items()
    ]


def models():
    """A model of the default size, and the same one made of PyTorch's modules."""
    return [
        kind(VOCAB_SIZE, **default_sizes()) for kind in (Seq2SeqTransformer, PyTorchTransformer)
    ]


def measure_training_step(rounds):
    """A training step on a batch of the default size: two records."""
    source, target = random_problems(TrainingConfig().batch_size)
    steps = [training_step(model, {"input": source, "target": target}) for model in models()]
    section = {"section": "training step", "batch_size": len(source)} | default_sizes()
    return compare_all(section, *steps, rounds)


def measure_decoding(rounds):
    """Greedy decoding of four tokens for each of many problems: two records."""
    source, _ = random_problems(DECODED)
    ours, pytorch = (partial(model.eval().generate, source, 4) for model in models())
    section = {"section": "decoding", "batch_size": DECODED, "tokens": 4} | default_sizes()
    return compare_all(section, ours, pytorch, rounds)


def measure_pairs(rounds):
    """The check of many pairs of numbers, a batch a thread, against its products: a record."""
    model = models()[0].eval()
    model.training_info = {"order": ORDERS[0]}
    a, b = torch.randint(1, 10, (2, COUNTED, 3))
    parts = batches.split(torch.arange(COUNTED))
    one = timing.products_alone(lambda: find_wrong(model, a[parts[0]], b[parts[0]], len(parts[0])))

    def products():
        threads = [model] * batches.threads(a.device)
        list(batches.in_batches(lambda model, part: one(), threads, parts))

    functions = {"ours": lambda: find_wrong(model, a, b), "matrix products": products}
    section = {"section": "all pairs", "pairs": COUNTED} | default_sizes()
    ((against, target),) = TARGETS["all pairs"].items()
    times = timing.times_in_turn(functions, rounds)
    return [section | {"target": target} | timing.compare(times, "ours", against)]


def measure_pruned(rounds):
    """Many pairs answered by the committed model without the heads that constants replace."""
    path = cli.RESULTS_DIR / "head_analysis" / "pruning.json"
    model = load_model(cli.RESULTS_DIR / "best_model.pth").eval()
    models_pruned = files.read_json(path, "run analyze.py")["pruned_models"]
    removed = next((each["removed"] for each in models_pruned if each["method"] == "mean"), [])
    heads = [site for site in all_heads(model) if site.name() in removed]
    means = mean_outputs(model, random_problems(COUNTED)[0])
    smaller, (a, b) = without_heads(model, heads, means), torch.randint(1, 10, (2, COUNTED, 3))
    functions = {
        "pruned": partial(find_wrong, smaller, a, b),
        "whole model": partial(find_wrong, model, a, b),
    }
    section = {"section": "pruned model, all pairs", "pairs": COUNTED, "removed": len(heads)}
    times = timing.times_in_turn(functions, rounds)
    return [section | {"target": 1.0} | timing.compare(times, "pruned", "whole model")]


def main(arguments=None):
    attention = [
        partial(
            timing.measure_attention,
            scaled_dot_product_attention,
            MultiHeadAttention,
            length=length,
            causal_mask=create_causal_mask(length),
        )
        for length in timing.LENGTHS
    ]
    tasks = [measure_training_step, measure_decoding, measure_pairs, measure_pruned]
    timing.run_benchmark(__doc__, [*tasks, *attention], ROUNDS, arguments)
