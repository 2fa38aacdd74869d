"""Train the three encodings with several seeds, and test each beyond its lengths.

A run is a line in results/beyond/seeds.jsonl; a run that has its line is not done again.
"""

from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

from support import cli, files, studies

from beyond.records import read_whole
from dataset import SortingDataset
from extrapolation import analysis
from extrapolation.dissection import ABSOLUTE, measure_positions
from generate_data import TEST_LENGTHS, ensure_data, ensure_test_set
from model import ModelConfig, load_model
from positional_encoding import REQUIRED
from train import TrainingConfig, train

RUN = ("seed", "encoding")  # the entries that identify a run


def run_one(seed, encoding, folder):
    """Train one encoding with one seed: its record.

    `val_curve` has `[seconds, training sequences, accuracy on validation]` for each epoch, the
    first two counted from the start of training.
    """
    # Train as train.py does.
    data_dir = cli.DATA_DIR
    arguments = asdict(ModelConfig(dropout=0.0, encoding_type=encoding))
    log = train(encoding, arguments, TrainingConfig(seed=seed), data_dir, folder, "cpu")
    model = load_model(folder / encoding / "best_model.pth")

    # Test at every length, with the negatives that the findings rest on; then the control.
    accuracy, control = [], None
    for group in analysis.evaluation_groups(TEST_LENGTHS):
        sets = analysis.load_group(data_dir, group, kinds=analysis.MAIN_KINDS)
        accuracy += analysis.measure_group(analysis.classify_group(model, sets), sets, group)
    if encoding in ABSOLUTE:
        control = measure_positions(model, data_dir)
    epochs, size = log["epochs"], len(SortingDataset(data_dir / "train.json"))
    seconds = [round(elapsed, 3) for elapsed in accumulate(each["seconds"] for each in epochs)]
    return {
        "seed": seed,
        "encoding": encoding,
        "test": log["test"],
        "accuracy": accuracy,
        "position_control": control,
        "epochs": len(epochs),
        "best_epoch": log["best_epoch"],
        "final_train_accuracy": epochs[-1]["train"]["accuracy"],
        "val_curve": [
            [elapsed, epoch["epoch"] * size, epoch["val"]["accuracy"]]
            for elapsed, epoch in zip(seconds, epochs)
        ],
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "train_sha256": log["data_sha256"]["train"],
        "model": log["model"],
        "training": log["training"],
        files.WEIGHTS_DIGEST: log[files.WEIGHTS_DIGEST],
        "environment": log["environment"],
    }


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser)
    path = cli.RESULTS_DIR / "beyond" / "seeds.jsonl"
    parser.add_argument("--output", type=Path, default=path, help="file of the records")
    args = parser.parse_args(arguments)
    # Make all data now: the runs, which are processes of their own, only read them.
    ensure_data(cli.DATA_DIR)
    for group in analysis.evaluation_groups(TEST_LENGTHS):
        ensure_test_set(cli.DATA_DIR, group["length"], group["gap_source"])
    # A file holds runs of one recipe on one set of data.
    train_sha256 = files.file_digest(cli.DATA_DIR / "train.json")
    for record in read_whole(args.output, RUN, ("training", "test", "seconds")):
        recipe = asdict(TrainingConfig(seed=record["seed"]))
        if (
            recipe | record["training"] != recipe
            or record.get("train_sha256", train_sha256) != train_sha256
        ):
            raise cli.UserError(
                f"{args.output} holds runs with other settings or data: move it away, or name "
                "another file with --output"
            )
    # Do the runs that are missing, and say what all came to.
    todo = [(seed, encoding) for seed in args.seeds for encoding in REQUIRED]
    for record in studies.do_runs(run_one, todo, args.output, RUN, args):
        print(
            f"seed {record['seed']}, {record['encoding']:10}: test accuracy "
            f"{record['test']['accuracy']:.2%}, {record['seconds']:.0f} s"
        )
