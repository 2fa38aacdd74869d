"""Numbers of 1 to 10 digits in both orders of writing: right answers by the longest carry chain.

Every model has columns as positions. Both orders have one recipe. So that this does not decide
between them, models of 5 and 6 digits that write the highest digit first are also trained in other
ways. The records are in results/beyond/sizes/runs.jsonl, the figure beside them in sizes.png.
"""

from dataclasses import asdict, replace
from pathlib import Path

from support import cli, files, plots, studies

from beyond.chains import count_right, problem_classes
from beyond.recipes import MOVE_AWAY, default_sizes, recipe, refuse_others, train_model
from dataset import ORDERS, SPLITS, AdditionDataset, to_numbers
from generate_data import as_tokens, ensure_data
from heads.exhaustive import MOST_PAIRS, check_all_pairs, count_pairs

SEEDS = {1: 5, 2: 5, 3: 5, 4: 5, 5: 3, 6: 3, 8: 3, 10: 3}  # how many for each number of digits
CLASS_SIZE = 1000
CLASS_SEED = 1_000_000  # of the classes' problems; far from the seeds of training data
LAYERS = 2  # of encoder and decoder each, as train.py has them
KEYS = ("digits", "order", "way", "layers", "seed")
# How models are trained: by the recipe of all sizes, by that of train.py, by the latter with twice
# as many epochs, or with as many training problems of each length of the longest carry chain.
SHARED, OWN, LONGER, BALANCED = "shared", "own", "longer", "balanced"
WAYS = {SHARED: recipe("columns"), OWN: recipe("sinusoidal")}
WAYS |= {LONGER: replace(WAYS[OWN], epochs=2 * WAYS[OWN].epochs), BALANCED: WAYS[OWN]}
AGAIN = (5, 6)  # digits of the models that are trained in the other ways
BALANCED_SEED = 641


def data_folder(digits, way=SHARED):
    return cli.HERE / "runs" / f"data_{digits}{'_balanced' * (way == BALANCED)}"


def make_data(digits, way):
    """Write the problems of these numbers if there are none yet."""
    ensure_data(data_folder(digits), digits)
    folder = data_folder(digits, way)
    if way == BALANCED and not (folder / "train.json").is_file():
        contents = {
            folder / f"{split}.json": (data_folder(digits) / f"{split}.json").read_bytes()
            for split in SPLITS[1:]
        }
        size = len(AdditionDataset(data_folder(digits) / "train.json"))
        classes = problem_classes(digits, size // (digits + 1), BALANCED_SEED)
        pairs = [
            pair
            for length in range(digits + 1)
            for pair in zip(*(to_numbers(part).tolist() for part in classes[f"chain {length}"]))
        ]
        problems = [as_tokens(pair, digits) for pair in pairs]
        files.write_files(contents | {folder / "train.json": files.json_bytes(problems, None)})


def do_run(digits, order, way, layers, seed, folder):
    """Train with one seed in `folder`, and measure: the run's record.

    It has the `right` answers of each class of `n` problems (see `problem_classes`) and, where all
    pairs can be tried, how many `errors` there are in how many `pairs`.
    """
    sizes = default_sizes() | {"num_encoder_layers": layers, "num_decoder_layers": layers}
    config, data = replace(WAYS[way], seed=seed), data_folder(digits, way)
    model, log = train_model(order, "columns", config, sizes, data, folder)
    classes = problem_classes(digits, CLASS_SIZE, CLASS_SEED + digits)
    record = {
        "digits": digits,
        "order": order,
        "way": way,
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
        sources = AdditionDataset(data / "train.json").inputs
        exhaustive = check_all_pairs(model, sources)
        record |= {"pairs": exhaustive["pairs"], "errors": exhaustive["errors"]}
    return record


def summary(records):
    """Text: of each kind of model the worst class, and errors in all pairs."""
    groups, lines = {}, []
    for record in records:
        groups.setdefault(tuple(record[key] for key in KEYS[:-1]), []).append(record)
    for (digits, order, way, layers), runs in groups.items():
        share, name, seed = min(
            (right / record["n"], name, record["seed"])
            for record in runs
            for name, right in record["right"].items()
        )
        errors = [f"{record['errors']:,}" for record in runs if "errors" in record]
        lines.append(
            f"{digits:2} digits, {order}, {way} recipe, {layers}+{layers} layers: worst class "
            f"{name}, {share:.1%} right (seed {seed} of {len(runs)})"
            + (f"; wrong of all pairs: {', '.join(errors)}" if errors else "")
        )
    return "\n".join(lines)


def plot_sizes(records):
    """Share right against the longest carry chain: a panel an order and recipe, a line a seed."""
    kinds = list(dict.fromkeys((record["order"], record["way"]) for record in records))
    sizes = sorted({record["digits"] for record in records})
    figure = plots.new_figure(2.6 * len(kinds) + 1.2, 3.6)
    from matplotlib import colormaps

    panels = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    lines = {}
    for axes, kind in zip(panels, sorted(kinds, key=lambda kind: list(WAYS).index(kind[1]))):
        for record in records:
            if (record["order"], record["way"]) == kind:
                number = sizes.index(record["digits"])
                # Sizes side by side, so that no dot hides another's.
                shift = 0.07 * (number - (len(sizes) - 1) / 2)
                lengths = range(record["digits"] + 1)
                (lines[record["digits"]],) = axes.plot(
                    [length + shift for length in lengths],
                    [record["right"][f"chain {length}"] / record["n"] for length in lengths],
                    "osD^vPX*"[number % 8] + "-",
                    color=colormaps["viridis"](0.9 * number / max(1, len(sizes) - 1)),
                    markersize=4,
                    linewidth=0.7,
                    alpha=0.8,
                )
        first = "highest digit" if kind[0] == ORDERS[0] else "units"
        axes.set(title=f"{first} first,\n{kind[1]} recipe", ylim=(-0.03, 1.03))
        axes.set_xlabel("columns of the longest carry chain")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("share right (a line: one seed)")
    handles = [lines[digits] for digits in sizes]
    figure.legend(handles, map(str, sizes), title="digits", loc="outside right upper")
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

    # Which runs: in the other ways only the order that fails in the shared way.
    todo = [
        (digits, order, way, args.layers, seed)
        for way in WAYS
        for digits in args.digits
        for order in args.orders
        if way == SHARED or (digits in AGAIN and order == ORDERS[0])
        for seed in args.seeds or range(SEEDS[digits])
    ]
    data = {}
    for digits, way in dict.fromkeys((digits, way) for digits, _, way, *_ in todo):
        make_data(digits, way)
        data[digits, way] = files.file_digest(data_folder(digits, way) / "train.json")

    # Do the runs that are not in the file yet, unless it is about something else.
    path = args.output_dir / "runs.jsonl"
    refuse_others(
        path,
        lambda record: {
            "training": asdict(replace(WAYS[record["way"]], seed=record["seed"])),
            "train_sha256": data.get((record["digits"], record["way"]), record["train_sha256"]),
        },
    )
    records = studies.do_runs(do_run, todo, path, KEYS, args)

    # Draw the models of the usual number of layers.
    drawn = [record for record in records if record["layers"] == LAYERS]
    with files.reading(path, MOVE_AWAY):
        print(summary(records))
        if drawn:
            files.save_figure(args.output_dir / "sizes.png", plot_sizes(drawn))
