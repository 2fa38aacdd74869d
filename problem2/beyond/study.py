"""Train the variants of beyond/variants.py with several seeds, and measure each run.

A run is a line in results/beyond/study/runs.jsonl; its weights are not kept. A run that has its
line is not done again, so that the study can be stopped and started at will. --figures trains
nothing: it takes the recommended model apart (recommended.json) and plots that and the runs.
"""

import time
from functools import partial
from pathlib import Path

from support import cli, files, studies

from beyond import study_figures as plot
from beyond import study_measures as measures
from beyond.order_measures import measure_order_in_pooling
from beyond.records import read_whole, to_counts
from beyond.shortcut import TrendModel, measure_shortcut
from beyond.variants import (
    CELLS,
    NEIGHBOUR_POOLINGS,
    NEIGHBOURS,
    RECOMMENDED,
    REFERENCE_CELL,
    SCALED_CELLS,
    VARIANTS,
)
from beyond.verification import judge, window_margins, windows_decide
from dataset import create_dataloaders
from extrapolation import analysis
from extrapolation.evaluation import evaluate
from generate_data import NEGATIVES, TEST_LENGTHS, ensure_data, ensure_test_set
from model import load_model
from positional_encoding import REQUIRED
from train import fit, make_model

STUDY_DIR = cli.RESULTS_DIR / "beyond" / "study"
RUN = ("variant", "seed", "num_samples")  # the entries that identify a run
NEEDED = ("settings", "training_sha256", "parent", "test", "accuracy", "shortcut", "heads")
NEEDED += ("dilution", "ties", "seconds")
REMEDY = "move the file away and run python problem2/beyond study again"
HEAD_SAMPLES = 64
LONGER = tuple(length for length in TEST_LENGTHS if length >= 16)
# Figures of a few variants.
COMPARED = (
    "sinusoidal-mean-plain",
    "causal-mean-plain",
    "local_bias-mean-augmented",
    "local_bias-max-augmented",
    "relative_bias-max-augmented",
    RECOMMENDED,
)
SCALING = (
    "relative_bias-max-augmented",
    "relative_bias-max-augmented-scaled",
    "sinusoidal-max-augmented",
    "sinusoidal-max-augmented-scaled",
    REFERENCE_CELL,
)
LEARNED = ("learned-mean-plain", "learned-max-augmented")


def run_one(name, seed, num_samples, folder, data_dir):
    """Train and measure one variant with one seed: its record."""
    start, variant = time.perf_counter(), VARIANTS[name]
    loaders = create_dataloaders(data_dir, variant.training.batch_size)
    model = make_model(seed, "cpu", variant.kind, **variant.arguments())
    log = fit(model, *loaders[:2], variant.training_config(seed))
    model.eval()
    epochs = log["epochs"]
    return {
        "variant": name,
        "parent": variant.parent,
        "seed": seed,
        "settings": variant.settings(),
        "training_sha256": files.file_digest(data_dir / "train.json"),
        "num_samples": num_samples,
        files.WEIGHTS_DIGEST: files.weights_digest(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "best_epoch": log["best_epoch"],
        "train": epochs[-1]["train"],
        "val": to_counts(epochs[log["best_epoch"] - 1]["val"]),
        "training_seconds": sum(epoch["seconds"] for epoch in epochs),
        **measure_run(model, loaders, data_dir, num_samples),
        "environment": cli.environment("cpu"),
        "seconds": time.perf_counter() - start,
    }


def measure_run(model, loaders, data_dir, num_samples):
    """Everything that the study asks of a trained model: a dict of records."""
    # How many answers are right, and how many of them the trend explains.
    record = {"test": to_counts(evaluate(model, loaders[2])), "accuracy": []}
    for group in analysis.evaluation_groups(TEST_LENGTHS):
        sets = analysis.load_group(data_dir, group, num_samples)
        fields = {"length": group["length"], "gap_source": group["gap_source"]}
        results = analysis.measure_group(analysis.classify_group(model, sets), sets, fields)
        record["accuracy"] += [to_counts(result) for result in results]
    train, _, test = ([(each["sequence"], each["label"]) for each in loader] for loader in loaders)
    record["shortcut"] = measure_shortcut(model, TrendModel(train), test)

    # What becomes of margins and attention as sequences grow, and of ties and single pairs.
    record["dilution"] = measures.measure_dilution(model, data_dir, LONGER, num_samples)
    record["heads"] = measures.measure_heads(model, data_dir, LONGER, HEAD_SAMPLES)
    record["ties"] = measures.measure_ties(model)
    record["pair_errors"] = len(measures.pair_errors(measures.measure_pairs(model)))

    # What makes sense for some models alone.
    if model.config.encoding_type == "learned":
        trained = int(loaders[0].dataset.lengths.max())
        record["untrained_rows"] = measures.measure_untrained_rows(
            model, data_dir, LONGER[1:], num_samples, trained
        )
    if model.config.pooling in NEIGHBOUR_POOLINGS:
        record |= measure_order_in_pooling(model, data_dir, num_samples)
    if windows_decide(model):
        verdict = judge(window_margins(model))
        del verdict["every_sequence_right"]  # it follows from the counts
        record["every_window"] = verdict
    return record


def read_runs(path, data_dir=None):
    """The records of the runs, `{(variant, seed): record}`, in the order of the table of variants.

    Of several records of one run that of the largest test sets counts.

    Raises:
        UserError: if one is of a variant with other settings, or of other data than `data_dir`.
    """
    records, order = {}, list(VARIANTS)
    trained_on = data_dir and files.file_digest(data_dir / "train.json")
    for record in read_whole(path, RUN, NEEDED):
        name, seed, _ = values = [record[key] for key in RUN]
        if name not in VARIANTS or record["settings"] != VARIANTS[name].settings():
            raise cli.UserError(
                f"{path}: {name}, seed {seed}, has other settings than beyond/variants.py: {REMEDY}"
            )
        if data_dir and record["training_sha256"] != trained_on:
            raise cli.UserError(
                f"{path}: {name}, seed {seed}, was trained on other data than {data_dir}: {REMEDY}"
            )
        records[tuple(values[:2])] = record  # in ascending order of num_samples
    return dict(sorted(records.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def list_variants(records, names):
    """Print each variant with its parent, the setting that differs, and the seeds of its runs."""
    for name in names:
        variant, origin = VARIANTS[name], "without parent"
        if variant.parent:
            changes = variant.settings().items() - VARIANTS[variant.parent].settings().items()
            origin = ", ".join([variant.parent, *(f"{key} = {value}" for key, value in changes)])
        seeds = ", ".join(str(seed) for other, seed in records if other == name) or "none yet"
        print(f"{name:46} {origin:70} seeds: {seeds}")


def make_figures(args):
    """Take the recommended model apart, and plot that and the runs."""
    records = list(read_runs(args.runs).values())
    if not records:
        raise cli.UserError(f"{args.runs} holds no records: run python problem2/beyond study")
    model = load_model(args.results_dir / RECOMMENDED / "best_model.pth")
    ensure_data(args.data_dir)
    examined = measures.examine(model, args.data_dir)
    files.write_json(args.output_dir / "recommended.json", examined)

    figures = {
        "shortcut": plot.plot_shortcut(records),
        "pairs": plot.plot_pairs(
            examined["pair_margins"]["alone"], examined["pair_errors"]["alone"]
        ),
        "bias": plot.plot_bias(**examined["bias"]),
    }
    parts = set()  # the variants beside the grid, and their parents
    for record in records:
        if record["variant"] not in (*CELLS, *SCALED_CELLS, *NEIGHBOURS):
            parts |= {record["variant"], record["parent"]}
    plots = [
        ("parts", plot.plot_parts, parts),
        ("untrained_rows", plot.plot_untrained_rows, LEARNED),
        ("dilution", plot.plot_dilution, COMPARED),
        ("neighbour_head", plot.plot_neighbour_head, SCALING),
        ("gap", plot.plot_gap, COMPARED),
        ("ties", plot.plot_ties, COMPARED),
        ("neighbours", partial(plot.plot_parts, negatives="swap"), NEIGHBOURS),
    ]
    for negatives in NEGATIVES:
        grid = partial(plot.plot_grid, negatives=negatives)
        plots += [(f"grid_{negatives}", grid, CELLS)]
        plots += [(f"grid_scaled_{negatives}", grid, SCALED_CELLS)]
    for name, function, names in plots:
        if chosen := [record for record in records if record["variant"] in names]:
            figures[name] = function(chosen)
    for name, figure in figures.items():
        files.save_figure(args.output_dir / f"{name}.png", figure)
    print(f"{len(figures)} figures of {len(records)} runs and recommended.json: {args.output_dir}")


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the variants and their runs")
    parser.add_argument(
        "--figures", action="store_true", help="train nothing; plot, and write recommended.json"
    )
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, metavar="NAME", help="these variants (default: all)"
    )
    studies.add_arguments(parser)
    for option, kind, value, text in [
        ("--num-samples", cli.whole_number(4), 500, "sequences of each test set"),
        ("--data-dir", Path, cli.DATA_DIR, "folder of the data; made if empty"),
        ("--runs", Path, STUDY_DIR / "runs.jsonl", "file of the records"),
        ("--results-dir", Path, STUDY_DIR.parent, "folder of the recommended model, for --figures"),
        ("--output-dir", Path, STUDY_DIR, "folder of the figures"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)
    args = parser.parse_args(arguments)
    if args.list:
        return list_variants(read_runs(args.runs), args.only or VARIANTS)
    if args.figures:
        return make_figures(args)

    # Make all data now: the runs, which are processes of their own, only read them.
    ensure_data(args.data_dir)
    for group in analysis.evaluation_groups(TEST_LENGTHS):
        ensure_test_set(args.data_dir, group["length"], group["gap_source"])
    # Do the runs that have no record of so many sequences yet, a seed of all variants at a time.
    done = read_runs(args.runs, args.data_dir)
    names = args.only or [name for name in VARIANTS if name not in REQUIRED]
    todo = []
    for key in [(name, seed) for seed in args.seeds for name in names]:
        if key not in done or done[key]["num_samples"] < args.num_samples:
            todo.append((*key, args.num_samples))
    run = partial(run_one, data_dir=args.data_dir)
    records = studies.do_runs(run, todo, args.runs, RUN, args)
    # Of a run that was measured again on larger test sets, the larger record stays.
    largest = read_runs(args.runs).values()
    if len(largest) < len(records):
        studies.write_records(args.runs, largest)
    return None
