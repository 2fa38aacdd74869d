"""Train the three encodings with several seeds at the default settings and test each beyond its lengths: results/seeds.json.

Each seed's runs are kept in runs/seed_N/ and recorded as they end; seeds already recorded are not run again.
"""

from pathlib import Path

import train
from analysis import MAIN_KINDS, classify_group, evaluation_groups, load_group, measure_group
from checkpoint import load_model
from cli import DATA_DIR, HERE, RESULTS_DIR, Parser, UserError, choose_device, run, whole_number
from files import read_json, write_json
from generate_data import TEST_LENGTHS
from positional_encoding import REQUIRED
from training import TrainingConfig


def measure_seed(seed, output_dir):
    """Train the three encodings with one seed, resuming what an interrupted run left; returns a record for each."""
    records = []
    for encoding in REQUIRED:
        train.main(["--encoding", encoding, "--seed", str(seed), "--output-dir", str(output_dir), "--resume"])
        log = read_json(output_dir / encoding / "training_log.json", "run python seeds.py again")
        model, _ = load_model(output_dir / encoding / "best_model.pth", choose_device())
        accuracy = []
        for group in evaluation_groups(TEST_LENGTHS):
            sets = load_group(DATA_DIR, group, kinds=MAIN_KINDS)
            accuracy += measure_group(classify_group(model, sets), sets, group)
        records.append({"seed": seed, "encoding": encoding, "test": log["test"], "accuracy": accuracy, "epochs": len(log["epochs"]),
                        "best_epoch": log["best_epoch"], "final_train_accuracy": log["epochs"][-1]["train"]["accuracy"],
                        "seconds": sum(epoch["seconds"] for epoch in log["epochs"]), "model": log["model"],
                        "training": log["training"], "environment": log["environment"]})
    return records


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1, 2, 3, 4], help="seeds to train with")
    parser.add_argument("--output", type=Path, default=RESULTS_DIR / "seeds.json", help="file of the records")
    args = parser.parse_args(arguments)
    records = read_json(args.output, "run python seeds.py again") if args.output.exists() else []
    for record in records:
        if TrainingConfig(**record["training"]) != TrainingConfig(seed=record["seed"]):
            raise UserError(f"{args.output} holds runs at other settings than the present defaults: move it and runs/ away")
    for seed in args.seeds:
        if all(record["seed"] != seed for record in records):
            print(f"seed {seed}", flush=True)
            records = sorted(records + measure_seed(seed, HERE / "runs" / f"seed_{seed}"), key=lambda record: record["seed"])
            write_json(args.output, records)
    for record in records:
        print(f"seed {record['seed']}, {record['encoding']:10}: test accuracy {record['test']['accuracy']:.2%}, {record['seconds']:.0f} s")


if __name__ == "__main__":
    run(main)
