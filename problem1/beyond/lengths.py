"""Train on numbers of 1 to 5 digits, and answer longer ones, with each kind of positions.

Answers are written right to left; there are 10,000 training problems in all. The records are in
results/beyond/lengths/runs.jsonl, the figure beside them in lengths.png.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

from support import cli, files, plots, studies

import torch

from beyond import POSITIONS
from beyond.chains import NINES, count_right, draw_chain, draw_nines, draw_random
from beyond.recipes import MOVE_AWAY, default_sizes, make_start, recipe, refuse_others
from dataset import ORDERS, AdditionDataset, BatchIndices
from generate_data import as_tokens, draw_pairs
from train import EVALUATION_BATCH, fit

TRAINED = {1: 59, 2: 2485, 3: 2485, 4: 2485, 5: 2486}  # digits: training problems
HELD_OUT = {1: 11, 2: 497, 3: 497, 4: 497, 5: 498}  # digits: validation problems
TESTED = (5, 6, 8, 10, 15, 20, 30, 40)
TEST_SIZE = 1000
TEST_SEED = 2_000_000
ORDER = ORDERS[1]
DATA = cli.HERE / "runs" / "data_lengths"
KEYS = ("positions", "seed")


class MixedBatches:
    """Batches of several datasets, each of problems of one size; in random order if `shuffle`."""

    def __init__(self, datasets, batch_size, shuffle):
        self.parts = [
            (dataset, BatchIndices(len(dataset), batch_size, shuffle)) for dataset in datasets
        ]
        self.shuffle = shuffle

    def __len__(self):
        return sum(len(batches) for _, batches in self.parts)

    def __iter__(self):
        batches = [(dataset, rows) for dataset, indices in self.parts for rows in indices]
        order = torch.randperm(len(batches)) if self.shuffle else range(len(batches))
        return (batches[i][0][batches[i][1]] for i in order)


def make_data():
    """Write the problems of each size, drawn as generate_data.py draws them."""
    contents = {}
    for digits in TRAINED:
        seen = set()
        for split, sizes, seed in (("train", TRAINED, 641), ("val", HELD_OUT, 642)):
            pairs = draw_pairs(sizes[digits], digits, seed, seen)
            problems = [as_tokens(pair, digits) for pair in pairs]
            contents[DATA / f"{split}_{digits}.json"] = json.dumps(problems).encode()
    files.write_files(contents)


def test_problems(digits):
    """`{class: (a, b)}`: random problems, a carry through every column, and NINES."""
    generator = torch.Generator().manual_seed(TEST_SEED + digits)
    return {
        "random": draw_random(digits, TEST_SIZE, generator),
        "a carry through every column": draw_chain(digits, digits, TEST_SIZE, generator),
        NINES: draw_nines(digits, TEST_SIZE, generator),
    }


def do_run(positions, seed, folder):
    """Train with one kind of positions and one seed, and measure: the run's record.

    For each length tested it has the `right` answers of each class of `n` problems.
    """
    config = replace(recipe("columns"), seed=seed)
    train_sets, val_sets = (
        [AdditionDataset(DATA / f"{split}_{digits}.json", order=ORDER) for digits in TRAINED]
        for split in ("train", "val")
    )
    model = make_start(ORDER, positions, config, default_sizes())
    log = fit(
        model,
        MixedBatches(train_sets, config.batch_size, shuffle=True),
        MixedBatches(val_sets, EVALUATION_BATCH, shuffle=False),
        config,
    )
    return {
        "positions": positions,
        "seed": seed,
        files.WEIGHTS_DIGEST: files.weights_digest(model),
        "training": asdict(config),
        "trained_digits": list(TRAINED),
        "best_epoch": log["best_epoch"],
        "val_exact_match": log["epochs"][log["best_epoch"] - 1]["val"]["exact_match"],
        "seconds": sum(epoch["seconds"] for epoch in log["epochs"]),
        "n": TEST_SIZE,
        "right": [
            {"digits": digits, "right": count_right(model, test_problems(digits), ORDER)}
            for digits in TESTED
        ],
    }


def summary(records):
    """Text: the lowest and the highest share right of any seed, by positions, length and class."""
    lines = []
    for positions in dict.fromkeys(record["positions"] for record in records):
        chosen = [record for record in records if record["positions"] == positions]
        for place, digits in enumerate(TESTED):
            parts = []
            for name in chosen[0]["right"][place]["right"]:
                shares = [record["right"][place]["right"][name] / record["n"] for record in chosen]
                parts.append(f"{name} {min(shares):.1%} to {max(shares):.1%}")
            lines.append(f"{positions}, {digits:2} digits, {len(chosen)} seeds: {'; '.join(parts)}")
    return "\n".join(lines)


def plot_lengths(records):
    """Share right against the number of digits, a panel a class of problems; a dot is a seed."""
    kinds = list(dict.fromkeys(record["positions"] for record in records))
    names = list(records[0]["right"][0]["right"])
    figure = plots.new_figure(3.6 * len(names) + 1.4, 3.8)
    panels = figure.subplots(1, len(names), sharey=True)
    colours = plots.BLUE, plots.ORANGE, plots.GREEN
    for axes, name in zip(panels, names):
        trained = max(records[0]["trained_digits"])
        axes.axvspan(1, trained, color=plots.SKY, alpha=0.2, label="trained")
        for positions, colour, marker, width in zip(kinds, colours, "osD", (1.2, 4.5, 1.2)):
            curves = [
                [test["right"][name] / record["n"] for test in record["right"]]
                for record in records
                if record["positions"] == positions
            ]
            digits = [test["digits"] for test in records[0]["right"]]
            for curve in curves:
                axes.plot(digits, curve, marker, color=colour, markersize=4, alpha=0.5)
            means = [sum(shares) / len(shares) for shares in zip(*curves)]
            label = f"{positions} (seeds: {len(curves)}; line: mean)"
            axes.plot(digits, means, color=colour, linewidth=width, label=label)
        axes.set(title=name, xlabel="digits of each number", ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share right (a dot: one seed)")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser)
    parser.add_argument(
        "--positions",
        choices=POSITIONS,
        nargs="+",
        default=list(POSITIONS),
        help="kinds of positions",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=cli.RESULTS_DIR / "beyond" / "lengths",
        help="folder of runs.jsonl and figure",
    )
    args = parser.parse_args(arguments)

    # Do the runs that are not in the file yet, unless it is about something else.
    make_data()
    path = args.output_dir / "runs.jsonl"
    refuse_others(
        path,
        lambda record: {
            "trained_digits": list(TRAINED),
            "training": asdict(replace(recipe("columns"), seed=record["seed"])),
        },
    )
    todo = [(positions, seed) for seed in args.seeds for positions in args.positions]
    records = studies.do_runs(do_run, todo, path, KEYS, args)

    # Draw and print what there is.
    with files.reading(path, MOVE_AWAY):
        print(summary(records))
        if records:
            files.save_figure(args.output_dir / "lengths.png", plot_lengths(records))
