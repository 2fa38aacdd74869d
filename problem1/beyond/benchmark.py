"""Measure the speed: against PyTorch's own modules, against the matrix products alone, and how cost grows.

Writes results/benchmark.json and results/benchmark.png. Every ratio compares what was timed in turn, round by round;
run it on an idle machine.
"""

import support.interrupt  # first: Ctrl-C while torch loads

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import train
from attention import MultiHeadAttention, create_causal_mask, scaled_dot_product_attention
from dataset import VOCAB_SIZE, collate_fn, create_dataloaders, encode_problems, number_range
from generate_data import generate
from learning.exhaustive import BATCH_SIZE, all_pairs, answers, predict
from learning.loop import TrainingConfig, make_optimizer, train_epoch
from learning.runs import read_runs
from model import Seq2SeqTransformer
from speed.measuring import compare, fitted_exponent, peak_memory, products_alone, time_to_quality, times_in_turn
from speed.references import PyTorchTransformer, generate_uncached
from support.cli import RESULTS_DIR, Parser, Progress, run, whole_number
from support.files import locked, save_figure, write_json
from support.plots import plot_benchmark

LENGTHS = (16, 64, 256, 512, 1024, 2048)
TOKENS = 2048  # of all sequences of a batch together, whatever their length
GROWTH = {"batch": (16, 32, 64, 128, 256, 512), "length": (7, 15, 31, 63), "layers": (1, 2, 4, 8),
          "width": (32, 64, 128, 256)}
THRESHOLDS = (0.99, 0.999, 1.0)
DECODED = 512
CHECKED = 2048  # pairs of the exhaustive check


def default_sizes():
    """The arguments of `Seq2SeqTransformer` with which train.py trains by default."""
    args = train.make_parser().parse_args([])
    return {"vocab_size": VOCAB_SIZE, "d_model": args.d_model, "num_heads": args.num_heads,
            "num_encoder_layers": args.num_layers,
            "num_decoder_layers": args.num_layers, "d_ff": args.d_ff, "dropout": args.dropout}


def random_batch(batch_size, length=7):
    """A batch of random digits: sources `[batch_size, length]` (length 7: problems of three digits), targets half as
    long."""
    if length == 7:
        source, target = encode_problems(*torch.randint(*number_range(3), (2, batch_size)), 3)
    else:
        source, target = torch.randint(10, (batch_size, length)), torch.randint(10, (batch_size, length // 2 + 1))
    return {"input": source, "target": target}


def training_step(model, batch):
    """A function that does one step of `train_epoch` on the batch: forward, backward, clipping, optimizer,
    bookkeeping."""
    config = TrainingConfig()
    optimizer = make_optimizer(model, config)
    return lambda: train_epoch(model, [batch], optimizer, config, 1)


def measure_training_step(rounds):
    """The training step at the default size against PyTorch's modules and against its matrix products: two records."""
    batch = random_batch(TrainingConfig().batch_size)
    ours = training_step(Seq2SeqTransformer(**default_sizes()), batch)
    floor, multiplications = products_alone(ours)
    times = times_in_turn({"ours": ours, "nn.Transformer": training_step(PyTorchTransformer(**default_sizes()), batch),
                           "matrix products": floor}, rounds)
    about = {"section": "training step", "batch_size": len(batch["input"]), **default_sizes(),
             "multiplications": multiplications}
    return [{**about, "against": "nn.Transformer", "target": 1.0, **compare(times, "ours", "nn.Transformer")},
            {**about, "against": "matrix products", "target": 2.0, **compare(times, "ours", "matrix products")}]


def measure_attention(rounds, length):
    """Attention alone at one length against PyTorch's, without and with weights asked for: time and memory, six
    records."""
    batch_size = max(1, TOKENS // length)
    ours, theirs = MultiHeadAttention(128, 4), nn.MultiheadAttention(128, 4, batch_first=True)
    x = torch.randn(batch_size, length, 128, requires_grad=True)
    Q, K, V = (torch.randn(batch_size, 4, length, 32, requires_grad=True) for _ in range(3))
    mask = create_causal_mask(length)
    fused = F.scaled_dot_product_attention
    pairs = {
        ("F.scaled_dot_product_attention", "none"):
            (lambda: scaled_dot_product_attention(Q, K, V)[0], lambda: fused(Q, K, V)),
        ("F.scaled_dot_product_attention", "causal"):
            (lambda: scaled_dot_product_attention(Q, K, V, mask)[0], lambda: fused(Q, K, V, is_causal=True)),
        ("nn.MultiheadAttention with weights", "none"):
            (lambda: ours(x, x, x)[0], lambda: theirs(x, x, x, average_attn_weights=False)[0])}
    records = []
    for (against, masked), functions in pairs.items():
        for passes, wrap in {"forward": without_gradient, "forward and backward": with_gradient}.items():
            a, b = map(wrap, functions)
            records.append({"section": "attention", "length": length, "batch_size": batch_size, "heads": 4,
                            "width_of_a_head": 32, "mask": masked,
                            "passes": passes, "against": against,
                            **compare(times_in_turn({"ours": a, against: b}, rounds), "ours", against),
                            "peak_bytes": {"ours": peak_memory(a), against: peak_memory(b)}})
    return records


def without_gradient(function):
    return torch.no_grad()(function)


def with_gradient(function):
    return lambda: function().sum().backward()


def measure_input_pipeline(rounds):
    """A pass over the training data: batches by indexing against one problem at a time, and its share of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        generate(folder)
        loader, *_ = create_dataloaders(folder, TrainingConfig().batch_size)
    plain = DataLoader(loader.dataset, TrainingConfig().batch_size, shuffle=True, collate_fn=collate_fn)
    step = training_step(Seq2SeqTransformer(**default_sizes()), random_batch(TrainingConfig().batch_size))
    times = times_in_turn({"ours": lambda: list(loader), "per sample": lambda: list(plain), "training step": step},
                          rounds)
    record = compare(times, "ours", "per sample")
    epoch = compare(times, "ours", "training step")["ratio"] / len(loader)
    return [{"section": "input pipeline", "against": "per sample", **record, "target_share_of_an_epoch": 0.05,
             "share_of_an_epoch": epoch / (1 + epoch),
             "samples_a_second": {name: len(loader.dataset) / seconds for name, seconds in record["seconds"].items()}}]


def measure_decoding(rounds):
    """Decoding with cached keys and values against decoding anew, and the exhaustive check of some pairs against its
    products."""
    model = Seq2SeqTransformer(**default_sizes()).eval()
    source = random_batch(DECODED)["input"]

    def check():
        return [(predicted != target).any(dim=1) for *_, predicted, target in answers(model, 3, CHECKED, BATCH_SIZE)]
    floor, multiplications = products_alone(lambda: [predict(model, *all_pairs(3, start, start + BATCH_SIZE), 3)
                                                     for start in range(0, CHECKED, BATCH_SIZE)])
    times = times_in_turn({"cached": lambda: model.generate(source, 4),
                           "uncached": lambda: generate_uncached(model, source, 4),
                           "exhaustive check": check, "matrix products": floor}, rounds)
    return [{"section": "decoding", "batch_size": DECODED, "tokens": 4, "against": "uncached",
             **compare(times, "cached", "uncached")},
            {"section": "exhaustive check", "batch_size": BATCH_SIZE, "pairs": CHECKED, "against": "matrix products",
             "target": 2.0,
             "multiplications": multiplications, **compare(times, "exhaustive check", "matrix products")}]


def measure_growth(rounds, what, sizes):
    """The training step at several sizes, the other sizes at their defaults: seconds, peak memory, fitted exponents,
    one record."""
    steps = {}
    for size in sizes:
        changes = {"layers": {"num_encoder_layers": size, "num_decoder_layers": size},
                   "width": {"d_model": size, "d_ff": 4 * size}}.get(what, {})
        batch = random_batch(size if what == "batch" else TrainingConfig().batch_size, size if what == "length" else 7)
        steps[size] = training_step(Seq2SeqTransformer(**default_sizes() | changes), batch)
    times = times_in_turn(steps, rounds)
    seconds = [sorted(times[size])[rounds // 2] for size in sizes]
    memory = [peak_memory(steps[size]) for size in sizes]
    return {"section": "growth", "what": what, "sizes": list(sizes), "seconds": seconds, "peak_bytes": memory,
            "rounds": rounds,
            "exponent_of_seconds": fitted_exponent(sizes, seconds), "exponent_of_bytes": fitted_exponent(sizes, memory)}


def measure_time_to_quality(path):
    """Time to validation exact match from the records of seeds.py; nothing if there are none with their curves."""
    curves = [record["val_curve"] for record in read_runs(path, ("seed",)).values() if record["seed"] < 5]
    return [{"section": "time to quality", "measure": "exact match on validation", **record}
            for record in time_to_quality(curves, THRESHOLDS)] if curves else []


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=9, help="how often each figure is taken")
    parser.add_argument("--quick", action="store_true", help="one round at few sizes, to see that it works")
    parser.add_argument("--output-dir", type=Path, default=RESULTS_DIR,
                        help="folder for benchmark.json and benchmark.png")
    args = parser.parse_args(arguments)
    rounds, lengths = (1, LENGTHS[:2]) if args.quick else (args.rounds, LENGTHS)
    growth = {what: sizes[:2] if args.quick else sizes for what, sizes in GROWTH.items()}
    torch.manual_seed(0)
    parts = ([lambda: measure_training_step(rounds)] + [lambda length=length: measure_attention(rounds, length)
                                                        for length in lengths]
             + [lambda: measure_input_pipeline(rounds), lambda: measure_decoding(rounds)]
             + [lambda what=what, sizes=sizes: [measure_growth(rounds, what, sizes)] for what, sizes in growth.items()]
             + [lambda: measure_time_to_quality(RESULTS_DIR / "seeds.jsonl")])
    with locked(args.output_dir):
        records, progress = [], Progress("parts", len(parts), seconds=1)
        for done, part in enumerate(parts, 1):
            records += part()
            progress.update(done)
        record = {"environment": train.environment("cpu"), "records": records}
        write_json(args.output_dir / "benchmark.json", record)
        save_figure(args.output_dir / "benchmark.png", plot_benchmark(record))
    for entry in records:
        if "target" in entry:
            print(f"{entry['section']} against {entry['against']}: {entry['ratio']:.2f} (quartiles "
                  f"{entry['ratio_quartiles'][0]:.2f} to {entry['ratio_quartiles'][1]:.2f}; target at most "
                  f"{entry['target']:.0f})")
    print(f"written to {args.output_dir / 'benchmark.json'}")


if __name__ == "__main__":
    run(main)
