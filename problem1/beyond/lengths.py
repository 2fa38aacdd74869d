"""Train on numbers of 1 to 5 digits, 10,000 problems in all, and answer longer ones, with each kind of positions.

Answers are written right to left. Every run is a line in results/lengths/runs.jsonl; one that has its line is not done
again, and an interrupted one goes on where it was. The figure is results/lengths/lengths.png.
"""

import support.interrupt  # first: Ctrl-C while torch loads

import json
from dataclasses import asdict
from pathlib import Path

import torch

from dataset import AdditionDataset, BatchIndices, get_vocab_size
from generate_data import as_tokens, draw_pairs
from learning.chains import NINES, count_right, draw_chain, draw_nines, draw_random, encode_digits
from learning.checkpoint import load_model
from learning.figures import plot_lengths
from learning.loop import fit
from learning.runs import do_runs
from model import POSITIONS, Seq2SeqTransformer
from support.cli import HERE, RESULTS_DIR, Parser, run, whole_number
from support.digests import file_digest, KEY, weights_digest
from support.files import locked, replacing, save_figure
from train import default_config, environment

TRAINED = {1: 59, 2: 2485, 3: 2485, 4: 2485, 5: 2486}  # digits: training problems
HELD_OUT = {1: 11, 2: 497, 3: 497, 4: 497, 5: 498}  # digits: validation problems
TESTED = (5, 6, 8, 10, 15, 20, 30, 40)
TEST_SIZE = 1000
TEST_SEED = 2_000_000
KEYS = ("positions", "seed")


class MixedBatches:
    """Batches of several datasets, each batch of problems of one size, in random order if `shuffle`."""

    def __init__(self, datasets, batch_size, shuffle):
        self.parts = [(dataset, BatchIndices(len(dataset), batch_size, shuffle)) for dataset in datasets]
        self.shuffle = shuffle

    def __len__(self):
        return sum(len(batches) for _, batches in self.parts)

    def __iter__(self):
        batches = [(dataset, rows) for dataset, indices in self.parts for rows in indices]
        order = torch.randperm(len(batches)) if self.shuffle else range(len(batches))
        return (batches[i][0][batches[i][1]] for i in order)


def make_data(folder):
    """Write the training and validation problems of each size, drawn as generate_data.py draws them, unless they are
    there."""
    for digits in TRAINED:
        seen = set()
        for split, size, seed in (("train", TRAINED[digits], 641), ("val", HELD_OUT[digits], 642)):
            pairs = draw_pairs(size, digits, seed, seen)
            path = folder / f"{split}_{digits}.json"
            if not path.exists():
                with replacing(path) as file:
                    file.write(json.dumps([as_tokens(pair, digits) for pair in pairs]).encode())


def test_problems(digits):
    """`{class: (source, target)}`: random problems, those in which a carry runs through every column, and NINES."""
    generator = torch.Generator().manual_seed(TEST_SEED + digits)
    drawn = {"random": draw_random(digits, TEST_SIZE, generator),
             "a carry through every column": draw_chain(digits, digits, TEST_SIZE, generator),
             NINES: draw_nines(digits, TEST_SIZE, generator)}
    return {name: encode_digits(*pair) for name, pair in drawn.items()}


def do_run(positions, seed, folder):
    """Train with one kind of positions and one seed in `folder`, and measure: the run's record. For each of the lengths
    tested it has the `right` answers of each class of `n` problems."""
    data = folder.parent / "data"
    train_sets, val_sets = ([AdditionDataset(data / f"{split}_{digits}.json") for digits in TRAINED]
                            for split in ("train", "val"))
    config = default_config("right-to-left", positions, seed=seed)
    torch.manual_seed(seed * 1_000_000)
    model = Seq2SeqTransformer(get_vocab_size(), dropout=0.0, order="right-to-left", positions=positions)
    log = {"num_digits": max(TRAINED), "model": asdict(model.config), "environment": environment("cpu"),
           "data_sha256": {"train": file_digest(data / f"train_{max(TRAINED)}.json")}}
    log = fit(model, MixedBatches(train_sets, config.batch_size, True), MixedBatches(val_sets, 500, False), config, log,
              folder, (folder / "resume.pth").exists())
    model, _ = load_model(folder / "best_model.pth")
    return {"positions": positions, "seed": seed, KEY: weights_digest(model.state_dict()), "training": log["training"],
            "trained_digits": list(TRAINED), "best_epoch": log["best_epoch"],
            "val_exact_match": log["epochs"][log["best_epoch"] - 1]["val"]["exact_match"],
            "seconds": sum(epoch["seconds"] for epoch in log["epochs"]), "n": TEST_SIZE,
            "right": [{"digits": digits, "right": count_right(model, test_problems(digits))} for digits in TESTED]}


def summary(records):
    """Text: for each kind of positions and each length the lowest and highest share right of any seed, by class."""
    lines = []
    for positions in dict.fromkeys(record["positions"] for record in records):
        chosen = [record for record in records if record["positions"] == positions]
        for place, digits in enumerate(TESTED):
            shares = {name: [record["right"][place]["right"][name] / record["n"] for record in chosen]
                      for name in chosen[0]["right"][place]["right"]}
            lines.append(f"{positions}, {digits:2} digits, {len(chosen)} seeds: " + "; ".join(
                f"{name} {min(values):.1%} to {max(values):.1%}" for name, values in shares.items()))
    return "\n".join(lines)


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--positions", choices=POSITIONS, nargs="+", default=list(POSITIONS), help="kinds of positions")
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1, 2, 3, 4], help="seeds to train with")
    parser.add_argument("--workers", type=whole_number(1, 256), default=2, help="runs at a time, each on one core")
    parser.add_argument("--minutes", type=whole_number(1), default=None, help="start no run after so many minutes")
    parser.add_argument("--output-dir", type=Path, default=RESULTS_DIR / "lengths",
                        help="folder of runs.jsonl and figure")
    args = parser.parse_args(arguments)
    scratch = HERE / "runs" / "lengths"
    with locked(args.output_dir):
        make_data(scratch / "data")
        todo = [(positions, seed) for seed in args.seeds for positions in args.positions]
        records = do_runs(do_run, todo, scratch, args.output_dir / "runs.jsonl", KEYS, args.workers, args.minutes)
        if records:
            save_figure(args.output_dir / "lengths.png", plot_lengths(records))
    print(summary(records))


if __name__ == "__main__":
    run(main)
