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

from dataset import VOCAB_SIZE, collate_fn, create_dataloaders
from extrapolation.analysis import TOKENS_AT_ONCE, classify
from generate_data import generate
from learning.loop import TrainingConfig, make_optimizer, train_epoch
from learning.variants import BASELINE, VARIANTS
from model import MultiHeadAttention, SortingClassifier, scaled_dot_product_attention
from speed.measuring import compare, fitted_exponent, peak_memory, products_alone, time_to_quality, times_in_turn
from speed.references import PyTorchClassifier
from support.cli import RESULTS_DIR, Parser, Progress, run, whole_number
from support.files import locked, read_json, save_figure, write_json
from support.plots import plot_benchmark
from train import environment

LENGTHS = (16, 64, 256, 512, 1024, 2048)
TOKENS = 2048  # of all sequences of a batch together, whatever their length
GROWTH = {"batch": (16, 32, 64, 128, 256, 512), "length": (16, 32, 64, 128, 256, 512), "layers": (1, 2, 4, 8),
          "width": (32, 64, 128, 256)}
THRESHOLDS = (0.98,)
TRAINED_LENGTH = 12  # halfway between the shortest and the longest training sequence
CLASSIFIED = {16: 512, 256: 32}  # sequences of each length


def default_sizes():
    """The arguments of `SortingClassifier` with which train.py trains by default."""
    arguments = VARIANTS[BASELINE].model_arguments()
    return {"vocab_size": VOCAB_SIZE} | {key: arguments[key] for key in ("d_model", "num_heads", "num_layers", "d_ff",
                                                                         "dropout")}


def random_batch(batch_size, length=TRAINED_LENGTH):
    """A batch of random values `[batch_size, length]` with random labels."""
    return {"sequence": torch.randint(100, (batch_size, length)), "label": torch.randint(2, (batch_size,)),
            "mask": torch.ones(batch_size, length, dtype=torch.bool)}


def training_step(model, batch):
    """A function that does one step of `train_epoch` on the batch: forward, backward, clipping, optimizer,
    bookkeeping."""
    config = TrainingConfig()
    optimizer = make_optimizer(model, config)
    return lambda: train_epoch(model, [batch], optimizer, config, 1)


def measure_training_step(rounds):
    """The training step at the default size against PyTorch's modules and against its matrix products: two records."""
    batch = random_batch(TrainingConfig().batch_size)
    ours = training_step(SortingClassifier(**default_sizes()), batch)
    floor, multiplications = products_alone(ours)
    times = times_in_turn({"ours": ours, "nn.TransformerEncoder": training_step(PyTorchClassifier(**default_sizes()),
                                                                                batch),
                           "matrix products": floor}, rounds)
    about = {"section": "training step", "batch_size": len(batch["label"]), "length": TRAINED_LENGTH, **default_sizes(),
             "multiplications": multiplications}
    return [{**about, "against": "nn.TransformerEncoder", "target": 1.0,
             **compare(times, "ours", "nn.TransformerEncoder")},
            {**about, "against": "matrix products", "target": 2.0, **compare(times, "ours", "matrix products")}]


def measure_attention(rounds, length):
    """Attention alone at one length against PyTorch's, without and with weights asked for: time and memory, four
    records."""
    batch_size = max(1, TOKENS // length)
    ours, theirs = MultiHeadAttention(128, 4), nn.MultiheadAttention(128, 4, batch_first=True)
    x = torch.randn(batch_size, length, 128, requires_grad=True)
    Q, K, V = (torch.randn(batch_size, 4, length, 32, requires_grad=True) for _ in range(3))
    pairs = {("F.scaled_dot_product_attention", "none"): (lambda: scaled_dot_product_attention(Q, K, V)[0],
                                                          lambda: F.scaled_dot_product_attention(Q, K, V)),
             ("nn.MultiheadAttention with weights", "none"): (lambda: ours(x, x, x)[0],
                                                              lambda: theirs(x, x, x, average_attn_weights=False)[0])}
    records = []
    for (against, masked), functions in pairs.items():
        for passes, wrap in {"forward": without_gradient, "forward and backward": with_gradient}.items():
            a, b = map(wrap, functions)
            records.append({"section": "attention", "length": length, "batch_size": batch_size, "heads": 4,
                            "width_of_a_head": 32, "mask": masked, "passes": passes, "against": against,
                            **compare(times_in_turn({"ours": a, against: b}, rounds), "ours", against),
                            "peak_bytes": {"ours": peak_memory(a), against: peak_memory(b)}})
    return records


def without_gradient(function):
    return torch.no_grad()(function)


def with_gradient(function):
    return lambda: function().sum().backward()


def measure_input_pipeline(rounds):
    """A pass over the training data: batches by indexing against one sequence at a time, and its share of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        generate(folder, generate_extrapolation=False)
        loader, *_ = create_dataloaders(folder, TrainingConfig().batch_size)
    plain = DataLoader(loader.dataset, TrainingConfig().batch_size, shuffle=True, collate_fn=collate_fn)
    step = training_step(SortingClassifier(**default_sizes()), random_batch(TrainingConfig().batch_size))
    times = times_in_turn({"ours": lambda: list(loader), "per sample": lambda: list(plain), "training step": step},
                          rounds)
    record = compare(times, "ours", "per sample")
    epoch = compare(times, "ours", "training step")["ratio"] / len(loader)
    return [{"section": "input pipeline", "against": "per sample", **record, "target_share_of_an_epoch": 0.05,
             "share_of_an_epoch": epoch / (1 + epoch),
             "samples_a_second": {name: len(loader.dataset) / seconds for name, seconds in record["seconds"].items()}}]


def measure_classification(rounds, length, number):
    """Classifying `number` sequences of one length, as analyze.py does, against the matrix products alone: one
    record."""
    model = SortingClassifier(**default_sizes()).eval()
    sequences = random_batch(number, length)["sequence"]
    floor, multiplications = products_alone(lambda: [model(part) for part in sequences.split(TOKENS_AT_ONCE // length)])
    times = times_in_turn({"ours": lambda: classify(model, sequences), "matrix products": floor}, rounds)
    return {"section": f"classification at {length}", "length": length, "sequences": number,
            "against": "matrix products", "target": 2.0,
            "multiplications": multiplications, **compare(times, "ours", "matrix products")}


def measure_growth(rounds, what, sizes):
    """The training step at several sizes, the other sizes at their defaults: seconds, peak memory, fitted exponents,
    one record."""
    steps = {}
    for size in sizes:
        changes = {"layers": {"num_layers": size}, "width": {"d_model": size, "d_ff": 4 * size}}.get(what, {})
        batch = random_batch(size if what == "batch" else 16 if what == "length" else TrainingConfig().batch_size,
                             size if what == "length" else TRAINED_LENGTH)
        steps[size] = training_step(SortingClassifier(**default_sizes() | changes), batch)
    times = times_in_turn(steps, rounds)
    seconds = [sorted(times[size])[rounds // 2] for size in sizes]
    memory = [peak_memory(steps[size]) for size in sizes]
    return {"section": "growth", "what": what, "sizes": list(sizes), "seconds": seconds, "peak_bytes": memory,
            "rounds": rounds,
            "exponent_of_seconds": fitted_exponent(sizes, seconds), "exponent_of_bytes": fitted_exponent(sizes, memory)}


def measure_time_to_quality(path):
    """Time to validation accuracy, for each encoding, from the records of seeds.py; nothing if there are none with
    their curves."""
    records = read_json(path, "run python seeds.py") if path.exists() else []
    curves = {}
    for record in records:
        if record["seed"] < 5 and "val_curve" in record:
            curves.setdefault(record["encoding"], []).append(record["val_curve"])
    return [{"section": "time to quality", "measure": "accuracy on validation", "encoding": encoding, **record}
            for encoding, of_encoding in curves.items() for record in time_to_quality(of_encoding, THRESHOLDS)]


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=21, help="how often each figure is taken")
    parser.add_argument("--quick", action="store_true", help="one round at few sizes, to see that it works")
    parser.add_argument("--output-dir", type=Path, default=RESULTS_DIR,
                        help="folder for benchmark.json and benchmark.png")
    args = parser.parse_args(arguments)
    rounds, lengths = (1, LENGTHS[:2]) if args.quick else (args.rounds, LENGTHS)
    growth = {what: sizes[:2] if args.quick else sizes for what, sizes in GROWTH.items()}
    torch.manual_seed(0)
    parts = ([lambda: measure_training_step(rounds)] + [lambda length=length: measure_attention(rounds, length)
                                                        for length in lengths]
             + [lambda: measure_input_pipeline(rounds)]
             + [lambda length=length, number=number: [measure_classification(rounds, length, number)]
                for length, number in CLASSIFIED.items()]
             + [lambda what=what, sizes=sizes: [measure_growth(rounds, what, sizes)] for what, sizes in growth.items()]
             + [lambda: measure_time_to_quality(RESULTS_DIR / "seeds.json")])
    with locked(args.output_dir):
        records, progress = [], Progress("parts", len(parts), seconds=1)
        for done, part in enumerate(parts, 1):
            records += part()
            progress.update(done)
        record = {"environment": environment("cpu"), "records": records}
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
