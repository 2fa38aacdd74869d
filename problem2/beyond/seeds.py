"""Train the three encodings with several seeds at the default settings and test each beyond its lengths:
results/seeds.json.

Each seed's runs are kept in runs/seed_N/ and recorded as they end; seeds already recorded are not run again.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from itertools import accumulate
from pathlib import Path

import train
from dataset import SortingDataset
from extrapolation.analysis import (ABSOLUTE, MAIN_KINDS, classify_group, evaluation_groups, load_group, measure_group,
                                    measure_positions)
from generate_data import TEST_LENGTHS, ensure_test_set
from learning.checkpoint import load_model
from learning.loop import TrainingConfig
from positional_encoding import REQUIRED
from support.cli import DATA_DIR, HERE, RESULTS_DIR, Parser, UserError, choose_device, run, whole_number
from support.digests import KEY, weights_digest
from support.files import locked, read_json, write_json


def measure_seed(seed, output_dir):
    """Train the three encodings with one seed, resuming what an interrupted run left.

    Returns:
        A record for each; its `val_curve` has `[seconds, training sequences, accuracy on validation]` for each epoch,
        the first two counted from the start of training.
    """
    training_size = len(SortingDataset(DATA_DIR / "train.json"))
    records = []
    for encoding in REQUIRED:
        train.main(["--encoding", encoding, "--seed", str(seed), "--output-dir", str(output_dir), "--resume"])
        log = read_json(output_dir / encoding / "training_log.json", "run python seeds.py again")
        model, _ = load_model(output_dir / encoding / "best_model.pth", choose_device())
        accuracy = []
        for group in evaluation_groups(TEST_LENGTHS):
            ensure_test_set(DATA_DIR, group["length"], group["gap_source"])
            sets = load_group(DATA_DIR, group, kinds=MAIN_KINDS)
            accuracy += measure_group(classify_group(model, sets), sets, group)
        seconds = accumulate(epoch["seconds"] for epoch in log["epochs"])
        records.append({"seed": seed, "encoding": encoding, "test": log["test"], "accuracy": accuracy,
                        "position_control": measure_positions(model, DATA_DIR, None, {}) if encoding in ABSOLUTE
                        else None, "epochs": len(log["epochs"]),
                        "best_epoch": log["best_epoch"], "final_train_accuracy": log["epochs"][-1]["train"]["accuracy"],
                        "val_curve": [[round(elapsed, 3), epoch["epoch"] * training_size, epoch["val"]["accuracy"]]
                                      for elapsed, epoch in zip(seconds, log["epochs"])],
                        "seconds": sum(epoch["seconds"] for epoch in log["epochs"]), "model": log["model"],
                        "training": log["training"], KEY: weights_digest(model.state_dict()),
                        "environment": log["environment"]})
    return records


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1, 2, 3, 4], help="seeds to train with")
    parser.add_argument("--output", type=Path, default=RESULTS_DIR / "seeds.json", help="file of the records")
    args = parser.parse_args(arguments)
    with locked(HERE / "runs"):
        records = read_json(args.output, "run python seeds.py again") if args.output.exists() else []
        for record in records:
            if TrainingConfig(**record["training"]) != TrainingConfig(seed=record["seed"]):
                raise UserError(f"{args.output} holds runs at other settings than the present defaults: move it and "
                                "runs/ away")
        for seed in args.seeds:
            if all(record["seed"] != seed for record in records):
                print(f"seed {seed}", flush=True)
                records = sorted(records + measure_seed(seed, HERE / "runs" / f"seed_{seed}"),
                                 key=lambda record: record["seed"])
                write_json(args.output, records)
    for record in records:
        print(f"seed {record['seed']}, {record['encoding']:10}: test accuracy {record['test']['accuracy']:.2%}, "
              f"{record['seconds']:.0f} s")


if __name__ == "__main__":
    run(main)
