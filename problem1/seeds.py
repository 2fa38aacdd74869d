"""Train with several seeds at the default settings and try every pair of numbers: results/seeds.json.

Each seed's run is kept in runs/seed_N/ and recorded as it ends; seeds already recorded are not run again. With --focus,
the same with another exponent of the focal loss, in results/seeds_focus_X.json and runs/focus_X/: a control for the
choice of the loss.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

import train
from dataset import AdditionDataset
from learning.checkpoint import load_model
from learning.exhaustive import check_all_pairs
from learning.loop import TrainingConfig
from support.cli import (DATA_DIR, HERE, RESULTS_DIR, Parser, UserError, choose_device, number_from_zero, run,
                         whole_number)
from support.digests import KEY
from support.files import locked, read_json, write_json


def measure_seed(seed, focus, output_dir):
    """Train with one seed in `output_dir`, unless that is done, continuing what an interrupted run left there.

    Returns:
        The seed's record; its `val_curve` has `[seconds, training problems, exact match on validation]` for each epoch,
        the first two counted from the start of training.
    """
    train.main(["--seed", str(seed), "--focus", str(focus), "--output-dir", str(output_dir), "--resume"])
    log = read_json(output_dir / "training_log.json", "run python seeds.py again")
    model, about = load_model(output_dir / "best_model.pth", choose_device())
    training_sources = AdditionDataset(DATA_DIR / "train.json").inputs
    exhaustive = check_all_pairs(model, about["num_digits"], training_sources)
    seconds = accumulate(epoch["seconds"] for epoch in log["epochs"])
    return {"seed": seed, KEY: log[KEY], "pairs": exhaustive["pairs"], "errors": exhaustive["errors"],
            "unseen": exhaustive["unseen"],
            "error_list": exhaustive["error_list"], "epochs": len(log["epochs"]), "best_epoch": log["best_epoch"],
            "first_epoch_at_full_validation": next(
                (epoch["epoch"] for epoch in log["epochs"] if epoch["val"]["exact_match"] == 1), None),
            "val_curve": [[round(elapsed, 3), epoch["epoch"] * len(training_sources), epoch["val"]["exact_match"]]
                          for elapsed, epoch in zip(seconds, log["epochs"])],
            "test_exact_match": log["test"]["exact_match"], "seconds": sum(epoch["seconds"] for epoch in log["epochs"]),
            "model": log["model"], "training": log["training"], "environment": log["environment"]}


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1, 2, 3, 4], help="seeds to train with")
    parser.add_argument("--focus", type=number_from_zero, default=TrainingConfig.focus,
                        help="exponent of the focal loss; 0 is plain cross-entropy")
    parser.add_argument("--output", type=Path, default=None, help="file of the records (default: in results/)")
    args = parser.parse_args(arguments)
    control = "" if args.focus == TrainingConfig.focus else f"focus_{args.focus:g}"
    args.output = args.output or RESULTS_DIR / (f"seeds_{control}.json" if control else "seeds.json")
    with locked(HERE / "runs"):
        records = read_json(args.output, "run python seeds.py again") if args.output.exists() else []
        for record in records:
            if record["training"] != asdict(TrainingConfig(seed=record["seed"], focus=args.focus)):
                raise UserError(f"{args.output} holds runs at other settings than the present ones: move it and runs/ "
                                "away")
        for seed in args.seeds:
            if all(record["seed"] != seed for record in records):
                print(f"seed {seed}", flush=True)
                records.append(measure_seed(seed, args.focus, HERE / "runs" / control / f"seed_{seed}"))
                write_json(args.output, sorted(records, key=lambda record: record["seed"]))
    for record in records:
        print(f"seed {record['seed']}: {record['errors']:,} errors in {record['pairs']:,} pairs, "
              f"{record['seconds']:.0f} s")


if __name__ == "__main__":
    run(main)
