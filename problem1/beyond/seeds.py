"""Train with several seeds at the default settings and try every pair of numbers: results/seeds.jsonl.

Each seed's run is in runs/seed_N/ and a line of the file; one that has its line is not done again, and an interrupted
one goes on where it was. With --order right-to-left the same in results/right_to_left/ and runs/right_to_left/. With
another --focus or number of --epochs the same in seeds_focus_X.jsonl or seeds_epochs_X.jsonl and a folder of that name
in runs/: controls for the choice of these.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import train
from dataset import AdditionDataset
from generate_data import ensure_data
from learning.checkpoint import load_model, results_of, runs_of
from learning.exhaustive import check_all_pairs, predict_forced
from learning.loop import TrainingConfig
from learning.runs import do_runs, read_runs
from model import ORDERS, POSITIONS
from support.cli import DATA_DIR, Parser, UserError, number_from_zero, run, whole_number
from support.digests import KEY
from support.files import locked, read_json

KEYS = ("seed",)


def do_run(seed, folder, order, focus, epochs):
    """Train with one seed in `folder`, and try all pairs: the run's record.

    Its `val_curve` has `[seconds, training problems, exact match on validation]` for each epoch, the first two counted
    from the start of training.
    """
    train.main(["--seed", str(seed), "--focus", str(focus), "--epochs", str(epochs), "--order", order, "--output-dir",
                str(folder), "--device", "cpu", "--resume"])
    log = read_json(folder / "training_log.json", "run python seeds.py again")
    model, about = load_model(folder / "best_model.pth")
    training_sources = AdditionDataset(DATA_DIR / "train.json").inputs
    exhaustive = check_all_pairs(model, about["num_digits"], training_sources, predict=predict_forced)
    seconds = accumulate(epoch["seconds"] for epoch in log["epochs"])
    return {"seed": seed, KEY: log[KEY], "pairs": exhaustive["pairs"], "errors": exhaustive["errors"],
            "unseen": exhaustive["unseen"],
            "error_list": [{"a": error["a"], "b": error["b"]} for error in exhaustive["error_list"]],
            "epochs": len(log["epochs"]), "best_epoch": log["best_epoch"],
            "first_epoch_at_full_validation": next(
                (epoch["epoch"] for epoch in log["epochs"] if epoch["val"]["exact_match"] == 1), None),
            "val_curve": [[round(elapsed, 3), epoch["epoch"] * len(training_sources), epoch["val"]["exact_match"]]
                          for elapsed, epoch in zip(seconds, log["epochs"])],
            "test_exact_match": log["test"]["exact_match"], "seconds": sum(epoch["seconds"] for epoch in log["epochs"]),
            "model": log["model"], "training": log["training"], "environment": log["environment"]}


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1, 2, 3, 4], help="seeds to train with")
    parser.add_argument("--order", choices=ORDERS, default=ORDERS[0], help="in which order answers are written")
    parser.add_argument("--focus", type=number_from_zero, default=TrainingConfig.focus,
                        help="exponent of the focal loss; 0 is plain cross-entropy")
    parser.add_argument("--epochs", type=whole_number(1), default=None,
                        help="passes over the training problems (default: as train.py)")
    parser.add_argument("--workers", type=whole_number(1, 256), default=2, help="runs at a time, each on one core")
    parser.add_argument("--minutes", type=whole_number(1), default=None, help="start no run after so many minutes")
    parser.add_argument("--output-dir", type=Path, default=None,
                        help="folder of the records (default: results/, or results/right_to_left/)")
    args = parser.parse_args(arguments)
    default = train.default_config(args.order, POSITIONS[0])
    args.epochs = args.epochs or default.epochs
    controls = [f"{name}_{getattr(args, name):g}" for name in ("focus", "epochs")
                if getattr(args, name) != getattr(default, name)]
    path = (args.output_dir or results_of(args.order)) / f"{'_'.join(['seeds', *controls])}.jsonl"
    scratch = runs_of(args.order) / "_".join(controls)
    with locked(scratch):
        for record in read_runs(path, KEYS).values():
            if record["training"] != asdict(replace(default, seed=record["seed"], focus=args.focus,
                                                    epochs=args.epochs)):
                raise UserError(f"{path} holds runs at other settings than the present ones: move it and {scratch} "
                                "away")
        ensure_data(DATA_DIR)
        records = do_runs(partial(do_run, order=args.order, focus=args.focus, epochs=args.epochs),
                          [(seed,) for seed in args.seeds], scratch, path, KEYS, args.workers, args.minutes)
    for record in records:
        print(f"seed {record['seed']}: {record['errors']:,} errors in {record['pairs']:,} pairs, "
              f"{record['seconds']:.0f} s")


if __name__ == "__main__":
    run(main)
