"""Numbers of 1 to 10 digits in both orders of writing: right answers by the longest carry chain.

Every model has columns as positions. The records are in results/beyond/sizes/runs.jsonl, the figure
beside them in sizes.png.
"""

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from support import cli, files, plots, studies

from beyond.chains import count_right, problem_classes
from beyond.recipes import MOVE_AWAY, default_sizes, recipe, refuse_others, train_model
from dataset import ORDERS, AdditionDataset
from generate_data import ensure_data
from heads.exhaustive import MOST_PAIRS, check_all_pairs, count_pairs

SEEDS = {1: 5, 2: 5, 3: 5, 4: 5, 5: 3, 6: 3, 8: 3, 10: 3}  # how many for each number of digits
CLASS_SIZE = 1000
CLASS_SEED = 1_000_000  # of the classes' problems; far from the seeds of training data
LAYERS = 2  # of encoder and decoder each, as train.py has them
KEYS = ("digits", "order", "layers", "seed")


def data_folder(digits):
    return cli.HERE / "runs" / f"data_{digits}"


def do_run(digits, order, layers, seed, folder):
    """Train with one seed in `folder`, and measure: the run's record.

    It has the `right` answers of each class of `n` problems (see `problem_classes`) and, where all
    pairs can be tried, how many `errors` there are in how many `pairs`.
    """
    sizes = default_sizes() | {"num_encoder_layers": layers, "num_decoder_layers": layers}
    config = replace(recipe("columns"), seed=seed)
    model, log = train_model(order, "columns", config, sizes, data_folder(digits), folder)
    classes = problem_classes(digits, CLASS_SIZE, CLASS_SEED + digits)
    record = {
        "digits": digits,
        "order": order,
        "layers": layers,
        "seed": seed,
        files.WEIGHTS_DIGEST: log[files.WEIGHTS_DIGEST],
        "training": log["training"],
        "train_sha256": log["data_sha256"]["train"],
        "best_epoch": log["best_epoch"],
        "seconds": sum(epoch["seconds"] for epoch in log["epochs"]),
        "n": CLASS_SIZE,
        "right": count_right(model, classes, order),
    }
    if count_pairs(digits) <= MOST_PAIRS:
        sources = AdditionDataset(data_folder(digits) / "train.json").inputs
        exhaustive = check_all_pairs(model, sources)
        record |= {"pairs": exhaustive["pairs"], "errors": exhaustive["errors"]}
    return record


def summary(records):
    """Text: of each size, order and number of layers the worst class, and errors in all pairs."""
    lines = []
    for digits, order, layers in product(SEEDS, ORDERS, sorted({r["layers"] for r in records})):
        chosen = [
            r for r in records if (r["digits"], r["order"], r["layers"]) == (digits, order, layers)
        ]
        if chosen:
            share, name, seed = min(
                (right / record["n"], name, record["seed"])
                for record in chosen
                for name, right in record["right"].items()
            )
            errors = [f"{record['errors']:,}" for record in chosen if "errors" in record]
            lines.append(
                f"{digits:2} digits, {order}, {layers}+{layers} layers: worst class {name}, "
                f"{share:.1%} right (seed {seed} of {len(chosen)})"
                + (f"; wrong of all pairs: {', '.join(errors)}" if errors else "")
            )
    return "\n".join(lines)


def plot_sizes(records):
    """Share right against the longest carry chain: a panel an order, a line a size of numbers.

    A line is the mean over the seeds, a dot one seed.
    """
    orders = list(dict.fromkeys(record["order"] for record in records))
    sizes = sorted({record["digits"] for record in records})
    figure = plots.new_figure(4.6 * len(orders) + 1.2, 4)
    from matplotlib import colormaps

    panels = figure.subplots(1, len(orders), sharex=True, sharey=True, squeeze=False)[0]
    for axes, order in zip(panels, orders):
        for number, digits in enumerate(sizes):
            runs = [r for r in records if (r["order"], r["digits"]) == (order, digits)]
            if not runs:
                continue
            shares = [
                [record["right"][f"chain {length}"] / record["n"] for record in runs]
                for length in range(digits + 1)
            ]
            colour = colormaps["viridis"](0.9 * number / max(1, len(sizes) - 1))
            width = 1.2 + 0.9 * (len(sizes) - 1 - number)  # none hides one that it covers
            means = [sum(values) / len(values) for values in shares]
            axes.plot(means, color=colour, label=f"{digits}", linewidth=width)
            # Sizes side by side, so that no dot hides another's.
            shift = 0.07 * (number - (len(sizes) - 1) / 2)
            dots = [
                (length + shift, value) for length, values in enumerate(shares) for value in values
            ]
            axes.plot(*zip(*dots), "osD^vPX*"[number % 8], color=colour, markersize=4, alpha=0.8)
        axes.set(title=f"answer written {order}", ylim=(-0.03, 1.03))
        axes.set_xlabel("columns of the longest carry chain")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("share right (line: mean; a dot: one seed)")
    handles = dict(zip(*reversed(panels[-1].get_legend_handles_labels())))
    figure.legend(handles.values(), handles.keys(), title="digits", loc="outside right upper")
    return figure


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser)
    for option, kind, default, text in [
        ("--digits", int, SEEDS, "sizes of numbers"),
        ("--orders", str, ORDERS, "orders of writing"),
    ]:
        parser.add_argument(
            option, type=kind, choices=default, nargs="+", default=list(default), help=text
        )
    parser.add_argument(
        "--layers",
        type=cli.whole_number(1, 100),
        default=LAYERS,
        help="encoder layers, and as many decoder layers",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=cli.RESULTS_DIR / "beyond" / "sizes",
        help="folder of runs.jsonl and figure",
    )
    parser.set_defaults(seeds=None)
    args = parser.parse_args(arguments)

    # Make the problems of each size if there are none yet.
    data = {}
    for digits in args.digits:
        ensure_data(data_folder(digits), digits)
        data[digits] = files.file_digest(data_folder(digits) / "train.json")

    # Do the runs that are not in the file yet, unless it is about something else.
    path = args.output_dir / "runs.jsonl"
    refuse_others(
        path,
        lambda record: {
            "training": asdict(replace(recipe("columns"), seed=record["seed"])),
            "train_sha256": data.get(record["digits"], record["train_sha256"]),
        },
    )
    todo = [
        (digits, order, args.layers, seed)
        for digits in args.digits
        for order in args.orders
        for seed in args.seeds or range(SEEDS[digits])
    ]
    records = studies.do_runs(do_run, todo, path, KEYS, args)

    # Draw the models of the usual number of layers.
    drawn = [record for record in records if record["layers"] == LAYERS]
    with files.reading(path, MOVE_AWAY):
        print(summary(records))
        if drawn:
            files.save_figure(args.output_dir / "sizes.png", plot_sizes(drawn))
