"""How few of the 24 heads are enough if training knows of it, tried on every pair of numbers.

Heads of the committed model are replaced by constants, as many as cost less than one or five points
(see analyze.py), and what is left, these constants included, is trained for one more epoch. Other
models have few heads from the start. The records are in results/beyond/few_heads.jsonl.
"""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from support import cli, files, studies

from beyond.recipes import MOVE_AWAY, default_sizes, make_start, recipe, refuse_others
from dataset import ORDERS, create_dataloaders
from generate_data import ensure_data
from heads.exhaustive import check_all_pairs
from heads.pruning import mean_outputs, without_heads
from heads.sites import all_heads
from model import load_model
from train import EVALUATION_BATCH, fit

CONFIG = recipe("sinusoidal")
MORE = replace(CONFIG, epochs=1, lr=5e-4)  # training after pruning
KEYS = ("way", "seed")
COMMITTED = "committed_weights_sha256"


def committed_model():
    """The model that analyze.py prunes."""
    return load_model(cli.RESULTS_DIR / "best_model.pth")


def pruned_model(number, sources, seed):
    """The committed model without the heads of a record of pruning by means: 0 first, -1 last."""
    path, model = cli.RESULTS_DIR / "head_analysis" / "pruning.json", committed_model()
    record = files.read_json(path, "run python analyze.py")
    if record[files.WEIGHTS_DIGEST] != files.weights_digest(model):
        raise cli.UserError(f"{path} is of other weights: run python analyze.py")
    pruned = [each for each in record["pruned_models"] if each["method"] == "mean"]
    removed = pruned[number]["removed"]
    heads = [site for site in all_heads(model) if site.name() in removed]
    return without_heads(model, heads, mean_outputs(model, sources))


def small_model(heads, layers, sources, seed):
    """A new model with so many heads a layer, and so many layers of encoder and decoder each."""
    sizes = {"num_heads": heads, "num_encoder_layers": layers, "num_decoder_layers": layers}
    config, sizes = replace(CONFIG, seed=seed), default_sizes() | sizes
    model = make_start(ORDERS[0], "sinusoidal", config, sizes)
    model.training_info = {"order": ORDERS[0]}
    return model


# From which model a training starts, and how it is trained.
WAYS = {
    "pruned for less than one point": (partial(pruned_model, 0), MORE),
    "pruned for less than five points": (partial(pruned_model, -1), MORE),
    "one head a layer, 2+2 layers": (partial(small_model, 1, 2), CONFIG),
    "one head a layer, 1+1 layers": (partial(small_model, 1, 1), CONFIG),
}


def do_run(way, seed, folder):
    """Train one model with one seed, and try all pairs: the run's record."""
    start, config = WAYS[way]
    config = replace(config, seed=seed)
    train_loader, *_ = create_dataloaders(cli.DATA_DIR, config.batch_size)
    _, val_loader, _ = create_dataloaders(cli.DATA_DIR, EVALUATION_BATCH)
    sources = train_loader.dataset.inputs
    model = start(sources, seed)
    record = {"way": way, "seed": seed, "training": asdict(config)}
    record |= {COMMITTED: files.weights_digest(committed_model()), "heads": len(all_heads(model))}
    record |= {"parameters": sum(parameter.numel() for parameter in model.parameters())}

    # A pruned model has learned already: what does it get wrong before it is trained on?
    if way.startswith("pruned"):
        record["errors_before"] = check_all_pairs(model.eval(), sources)["errors"]
    log = fit(model, train_loader, val_loader, config)
    pairs = check_all_pairs(model.eval(), sources)
    record |= {name: pairs[name] for name in ("pairs", "errors")}
    record["val_exact_match"] = log["epochs"][log["best_epoch"] - 1]["val"]["exact_match"]
    return record | {"seconds": sum(epoch["seconds"] for epoch in log["epochs"])}


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser, seeds=(0, 1, 2))
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=cli.RESULTS_DIR / "beyond",
        help="folder of few_heads.jsonl",
    )
    args = parser.parse_args(arguments)
    ensure_data(cli.DATA_DIR)
    # Do the runs that are not in the file yet, unless it is about other weights or settings.
    path, digest = args.output_dir / "few_heads.jsonl", files.weights_digest(committed_model())

    def settings(record):
        config = replace(WAYS[record["way"]][1], seed=record["seed"])
        return {COMMITTED: digest, "training": asdict(config)}

    refuse_others(path, settings)
    todo = [(way, seed) for seed in args.seeds for way in WAYS]
    records = studies.do_runs(do_run, todo, path, KEYS, args)
    # Print what there is.
    with files.reading(path, MOVE_AWAY):
        for record in records:
            before = f"{record['errors_before']:,}, then " if "errors_before" in record else ""
            print(
                f"{record['way']}, seed {record['seed']}: {record['heads']} heads, "
                f"{record['parameters']:,} parameters, {before}{record['errors']:,} of "
                f"{record['pairs']:,} pairs wrong"
            )
