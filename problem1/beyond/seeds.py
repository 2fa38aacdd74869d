"""Train with several seeds, and try every pair of numbers: results/beyond/seeds.jsonl.

With --order right-to-left the records are in results/beyond/right_to_left/. With another --focus,
--exchange or number of --epochs they are in a file of that name, such as seeds_focus_0.jsonl:
controls of these choices.
"""

from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

from support import cli, files, studies

from beyond.recipes import (
    MOVE_AWAY,
    default_sizes,
    recipe,
    records_folder,
    refuse_others,
    train_model,
)
from dataset import ORDERS, AdditionDataset
from generate_data import ensure_data
from heads.exhaustive import check_all_pairs

TRAIN_FILE = cli.DATA_DIR / "train.json"


def do_run(seed, folder, order, config):
    """Train with one seed and try all pairs: the run's record.

    Its `val_curve` has `[seconds, training problems, exact match on validation]` for each epoch,
    the first two counted from the start of training.
    """
    config = replace(config, seed=seed)
    model, log = train_model(order, "sinusoidal", config, default_sizes(), cli.DATA_DIR, folder)
    sources = AdditionDataset(TRAIN_FILE).inputs
    exhaustive = check_all_pairs(model, sources)
    epochs, seconds = log["epochs"], [epoch["seconds"] for epoch in log["epochs"]]
    matches = [epoch["val"]["exact_match"] for epoch in epochs]
    return {
        "seed": seed,
        files.WEIGHTS_DIGEST: log[files.WEIGHTS_DIGEST],
        "train_sha256": log["data_sha256"]["train"],
        "pairs": exhaustive["pairs"],
        "errors": exhaustive["errors"],
        "unseen": exhaustive["unseen"],
        "error_list": [{name: error[name] for name in "ab"} for error in exhaustive["error_list"]],
        "epochs": len(epochs),
        "best_epoch": log["best_epoch"],
        "first_epoch_at_full_validation": matches.index(1) + 1 if 1 in matches else None,
        "val_curve": [
            [round(elapsed, 3), (number + 1) * len(sources), match]
            for number, (elapsed, match) in enumerate(zip(accumulate(seconds), matches))
        ],
        "test_exact_match": log["test"]["exact_match"],
        "seconds": sum(seconds),
        "order": order,
        "model": log["model"],
        "training": log["training"],
        "environment": log["environment"],
    }


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser)
    parser.add_argument(
        "--order", choices=ORDERS, default=ORDERS[0], help="order in which an answer is written"
    )
    parser.add_argument(
        "--focus",
        type=cli.number_from_zero,
        default=recipe(ORDERS[0], "sinusoidal").focus,
        help="exponent of the focal loss; 0 is plain cross-entropy",
    )
    parser.add_argument(
        "--exchange",
        type=cli.probability,
        default=recipe(ORDERS[0], "sinusoidal").exchange,
        help="probability that a training problem is shown with its operands exchanged",
    )
    parser.add_argument(
        "--epochs",
        type=cli.whole_number(1),
        default=None,
        help="passes over the training problems (default: 22, units first 11)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=None,
        help="folder of the records (default: results/beyond, units first right_to_left in it)",
    )
    args = parser.parse_args(arguments)

    # The file's name tells which setting differs from the recipe.
    default = recipe(args.order, "sinusoidal")
    given = {"focus": args.focus, "exchange": args.exchange}
    config = replace(default, epochs=args.epochs or default.epochs, **given)
    name = "seeds"
    for setting in ("focus", "exchange", "epochs"):
        if getattr(config, setting) != getattr(default, setting):
            name += f"_{setting}_{getattr(config, setting):g}"
    path = (args.output_dir or records_folder(args.order)) / f"{name}.jsonl"

    # Do the runs that are not in the file yet, unless it is about something else.
    ensure_data(cli.DATA_DIR)
    data = files.file_digest(TRAIN_FILE)
    refuse_others(
        path,
        lambda record: {
            "order": args.order,
            "train_sha256": data,
            "training": asdict(replace(config, seed=record["seed"])),
        },
    )
    function = partial(do_run, order=args.order, config=config)
    records = studies.do_runs(function, [(seed,) for seed in args.seeds], path, ("seed",), args)
    with files.reading(path, MOVE_AWAY):
        for record in records:
            print(
                f"seed {record['seed']}: {record['errors']:,} errors in {record['pairs']:,} pairs, "
                f"{record['seconds']:.0f} s"
            )
