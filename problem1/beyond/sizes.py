"""Train on numbers of 1 to 10 digits in both orders of writing, and count right answers by the longest carry chain.

Every run is trained by train.py with places by columns, all else at its defaults, and is a line in
results/sizes/runs.jsonl; one that has its line is not done again, and an interrupted one goes on where it was. The
figure is results/sizes/sizes.png.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from itertools import product
from pathlib import Path

import train
from dataset import AdditionDataset
from generate_data import ensure_data
from learning.chains import count_right, problem_classes
from learning.checkpoint import load_model
from learning.exhaustive import MOST_PAIRS, check_all_pairs, count_pairs, predict_forced
from learning.figures import plot_sizes
from learning.runs import do_runs
from model import ORDERS
from support.cli import HERE, RESULTS_DIR, Parser, run, whole_number
from support.digests import KEY
from support.files import locked, read_json, save_figure

SEEDS = {1: 5, 2: 5, 3: 5, 4: 5, 5: 3, 6: 3, 8: 3, 10: 3}  # how many for each number of digits
CLASS_SIZE = 1000
CLASS_SEED = 1_000_000  # of the drawing of the classes; far from those of training data
LAYERS = 2  # of encoder and decoder each, as train.py has them
KEYS = ("digits", "order", "layers", "seed")


def do_run(digits, order, layers, seed, folder):
    """Train with one seed in `folder`, and measure: the run's record.

    The record has the `right` answers of each class of `n` problems (see `problem_classes`) and, where all pairs can be
    tried, how many of them are wrong, `errors`, and how many `pairs` there are.
    """
    data_dir = folder.parent / f"data_{digits}"
    train.main(["--data-dir", str(data_dir), "--output-dir", str(folder), "--order", order, "--seed", str(seed),
                "--num-layers", str(layers), "--positions", "columns", "--device", "cpu", "--resume"])
    log = read_json(folder / "training_log.json", "run python sizes.py again")
    model, _ = load_model(folder / "best_model.pth")
    record = {"digits": digits, "order": order, "layers": layers, "seed": seed, KEY: log[KEY],
              "training": log["training"],
              "data_sha256": log["data_sha256"]["train"], "best_epoch": log["best_epoch"],
              "seconds": sum(epoch["seconds"] for epoch in log["epochs"]), "n": CLASS_SIZE,
              "right": count_right(model, problem_classes(digits, CLASS_SIZE, CLASS_SEED + digits))}
    if count_pairs(digits) <= MOST_PAIRS:
        every = check_all_pairs(model, digits, AdditionDataset(data_dir / "train.json").inputs,
                                predict=predict_forced)
        record |= {"pairs": every["pairs"], "errors": every["errors"]}
    return record


def summary(records):
    """Text: for each size, order and number of layers the lowest share right of any class in any seed, and the errors
    in all pairs."""
    lines = []
    for digits, order, layers in product(SEEDS, ORDERS, sorted({record["layers"] for record in records})):
        chosen = [record for record in records
                  if (record["digits"], record["order"], record["layers"]) == (digits, order, layers)]
        if chosen:
            worst = min((right / record["n"], name, record["seed"]) for record in chosen
                        for name, right in record["right"].items())
            errors = [f"{record['errors']:,}" for record in chosen if "errors" in record]
            lines.append(f"{digits:2} digits, {order}, {layers}+{layers} layers: worst class {worst[1]}, "
                         f"{worst[0]:.1%} right (seed {worst[2]} of {len(chosen)})"
                         + (f"; wrong of all pairs: {', '.join(errors)}" if errors else ""))
    return "\n".join(lines)


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--digits", type=int, choices=SEEDS, nargs="+", default=list(SEEDS), help="sizes of numbers")
    parser.add_argument("--orders", choices=ORDERS, nargs="+", default=list(ORDERS), help="orders of writing")
    parser.add_argument("--layers", type=whole_number(1, 100), default=LAYERS,
                        help="encoder layers, and as many decoder layers")
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=None,
                        help="seeds to train with (default: 0 to 4, from five digits on 0 to 2)")
    parser.add_argument("--workers", type=whole_number(1, 256), default=2, help="runs at a time, each on one core")
    parser.add_argument("--minutes", type=whole_number(1), default=None, help="start no run after so many minutes")
    parser.add_argument("--output-dir", type=Path, default=RESULTS_DIR / "sizes",
                        help="folder of runs.jsonl and figure")
    args = parser.parse_args(arguments)
    scratch = HERE / "runs" / "sizes"
    with locked(args.output_dir):
        for digits in args.digits:
            ensure_data(scratch / f"data_{digits}", digits)
        todo = [(digits, order, args.layers, seed) for digits in args.digits for order in args.orders
                for seed in args.seeds or range(SEEDS[digits])]
        records = do_runs(do_run, todo, scratch, args.output_dir / "runs.jsonl", KEYS, args.workers, args.minutes)
        drawn = [record for record in records if record["layers"] == LAYERS]
        if drawn:
            save_figure(args.output_dir / "sizes.png", plot_sizes(drawn))
    print(summary(records))


if __name__ == "__main__":
    run(main)
