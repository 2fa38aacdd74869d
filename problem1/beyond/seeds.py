"""Train with several seeds, and try every pair of numbers: results/beyond/seeds.jsonl.

With --order right-to-left the records are in results/beyond/right_to_left/. With another --focus,
--exchange, --weight-decay or number of --epochs they are in a file of that name, such as
seeds_focus_0.jsonl: controls of these choices. On a GPU all seeds are trained at once, elsewhere
each on one core.
"""

from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

from support import cli, files, studies

import torch

from beyond.ensemble import fit_ensemble
from beyond.recipes import (
    MOVE_AWAY,
    default_sizes,
    make_start,
    recipe,
    records_folder,
    refuse_others,
)
from dataset import ORDERS, create_dataloaders
from generate_data import ensure_data
from heads.exhaustive import check_all_pairs
from train import EVALUATION_BATCH, evaluate, fit

TRAIN_FILE = cli.DATA_DIR / "train.json"


def train_seeds(seeds, order, config, device):
    """Train with each seed and try all pairs: the runs' records. On a GPU all train at once.

    A `val_curve` has `[seconds, training problems, exact match on validation]` for each epoch, the
    first two counted from the start of training. Seconds are those of all seeds that train at once.
    """
    # Read the problems, and make the model that each seed starts from.
    train_loader, *_ = create_dataloaders(cli.DATA_DIR, config.batch_size, order=order)
    _, val_loader, test_loader = create_dataloaders(cli.DATA_DIR, EVALUATION_BATCH, order=order)
    configs = [replace(config, seed=seed) for seed in seeds]
    models = [make_start(order, "sinusoidal", each, default_sizes(), device) for each in configs]

    # Train; each model then has the weights of its best epoch on validation.
    if device.type == "cuda":
        logs = fit_ensemble(models, train_loader, val_loader, config, seeds)
    else:
        logs = [fit(model, train_loader, val_loader, each) for model, each in zip(models, configs)]

    # Test these weights, and try all pairs.
    records, sources = [], train_loader.dataset.inputs
    for model, log, each in zip(models, logs, configs):
        model.training_info = {"order": order}
        exhaustive = check_all_pairs(model.eval(), sources)
        epochs, seconds = log["epochs"], [epoch["seconds"] for epoch in log["epochs"]]
        matches = [epoch["val"]["exact_match"] for epoch in epochs]
        record = {
            "seed": each.seed,
            files.WEIGHTS_DIGEST: files.weights_digest(model),
            "train_sha256": files.file_digest(TRAIN_FILE),
            **{name: exhaustive[name] for name in ("pairs", "errors", "unseen", "error_list")},
            "epochs": len(epochs),
            "best_epoch": log["best_epoch"],
            "first_epoch_at_full_validation": matches.index(1) + 1 if 1 in matches else None,
            "val_curve": [
                [round(elapsed, 3), (number + 1) * len(sources), match]
                for number, (elapsed, match) in enumerate(zip(accumulate(seconds), matches))
            ],
            "test_exact_match": evaluate(model, test_loader)["exact_match"],
            "seconds": sum(seconds),
            "order": order,
            "model": asdict(model.config),
            "training": asdict(each),
            "environment": cli.environment(device),
        }
        records.append(record)
    return records


def do_run(seed, folder, order, config):
    """The record of one run, on one core."""
    return train_seeds([seed], order, config, torch.device("cpu"))[0]


def do_together(seeds, path, order, config, device):
    """As `studies.do_runs`, the runs that have no line in the file `path` yet, all at once."""
    with files.locked(studies.scratch_folder(path)):
        records = studies.read_records(path, ("seed",))
        todo = sorted(set(seeds) - {record["seed"] for record in records})
        print(f"{len(todo)} runs to do, all at once", flush=True)
        if todo:
            records += train_seeds(todo, order, config, device)
            studies.write_records(path, sorted(records, key=lambda record: record["seed"]))
    return studies.read_records(path, ("seed",))


def main(arguments=None):
    parser, default = cli.Parser(description=__doc__), recipe("sinusoidal")
    studies.add_arguments(parser)
    parser.add_argument(
        "--order", choices=ORDERS, default=ORDERS[0], help="order in which an answer is written"
    )
    parser.add_argument(
        "--focus",
        type=cli.number_from_zero,
        default=default.focus,
        help="exponent of the focal loss; 0 is plain cross-entropy",
    )
    parser.add_argument(
        "--exchange",
        type=cli.probability,
        default=default.exchange,
        help="probability that the two digits of a column are exchanged in training",
    )
    parser.add_argument(
        "--weight-decay",
        type=cli.number_from_zero,
        default=default.weight_decay,
        help="weight decay of AdamW",
    )
    parser.add_argument(
        "--epochs",
        type=cli.whole_number(1),
        default=default.epochs,
        help="passes over the training problems",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default=None,
        help="cuda: all seeds at once; cpu: each on one core (default: cuda if there is one)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=None,
        help="folder of the records (default: results/beyond, units first right_to_left in it)",
    )
    args = parser.parse_args(arguments)

    # The file's name tells which setting differs from the recipe.
    settings = "focus", "exchange", "weight_decay", "epochs"
    name, given = "seeds", {setting: getattr(args, setting) for setting in settings}
    for setting, value in given.items():
        if value != getattr(default, setting):
            name += f"_{setting}_{value:g}"
    config = replace(default, **given)
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
    device = cli.choose_device(args.device)
    if device.type == "cuda":
        records = do_together(args.seeds, path, args.order, config, device)
    else:
        function = partial(do_run, order=args.order, config=config)
        records = studies.do_runs(function, [(seed,) for seed in args.seeds], path, ("seed",), args)
    with files.reading(path, MOVE_AWAY):
        for record in records:
            print(
                f"seed {record['seed']}: {record['errors']:,} errors in {record['pairs']:,} pairs, "
                f"{record['seconds']:.0f} s"
            )
