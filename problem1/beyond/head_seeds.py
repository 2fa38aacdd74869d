"""Train with several seeds, study the heads of each model briefly, and compare them.

The records are in results/beyond/head_seeds.jsonl, the figure beside them in head_seeds.png; with
--order right-to-left both are in results/beyond/right_to_left/.
"""

import time
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle
from pathlib import Path

from support import cli, files, plots, studies

import numpy as np

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
from heads.examination import choose_problems
from heads.study import study_briefly


def do_run(seed, folder, order):
    """Train with one seed and study the model: the run's record."""
    start = time.perf_counter()
    config = replace(recipe("sinusoidal"), seed=seed)
    model, log = train_model(order, "sinusoidal", config, default_sizes(), cli.DATA_DIR, folder)
    train, test = (
        AdditionDataset(cli.DATA_DIR / f"{split}.json", order=order) for split in ("train", "test")
    )
    return {
        "seed": seed,
        files.WEIGHTS_DIGEST: log[files.WEIGHTS_DIGEST],
        "train_sha256": log["data_sha256"]["train"],
        "training": log["training"],
        **study_briefly(model, choose_problems(train, test, order)),
        "seconds": time.perf_counter() - start,
    }


def plot_seeds(records):
    """Greedy removal curves, and what the smallest sets of heads carry in each column."""
    figure = plots.new_figure(13, 4.4)
    curves, bars = figure.subplots(1, 2, width_ratios=[1, 1.6])
    colours = plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED, plots.GREY
    for record, colour, marker in zip(records, cycle(colours), cycle("os^DvPX")):
        look = {"color": colour, "marker": marker, "markersize": 4}
        for order, style in zip(record["orders"], ("--", "-")):
            label = f"seed {record['seed']}" if style == "-" else None
            curves.plot(order["exact_match"], style, label=label, **look)
    curves.axhline(0.99, color=plots.GREY, linewidth=0.6, linestyle=":")
    curves.set(ylabel="exact match on test problems", ylim=(0.4, 1.02), title="Greedy removal")
    curves.set_xlabel("heads removed (solid: means in their place, dashed: zeros)")
    curves.legend(fontsize=8, loc="lower left")
    curves.xaxis.get_major_locator().set_params(integer=True)

    # Bars: for each column and seed the smallest set of heads, by condition.
    sets = [
        (found["column"], record["seed"], found)
        for record in records
        for found in record["sets"]
        if found["searched_on"][0] == "carry"
    ]
    sets.sort(key=lambda item: item[:2])
    for number, (condition, colour, meaning) in enumerate(
        [
            ("carry", plots.BLUE, "answer as implied"),
            ("other digits", plots.GREEN, "answer as implied"),
            ("same carry", plots.RED, "answer changed"),
        ]
    ):
        scores = [found["conditions"].get(condition) for *_, found in sets]
        place = [i + (number - 1) * 0.27 for i, score in enumerate(scores) if score]
        exact = np.array([score["exact"] for score in scores if score])
        low, high = np.array([score["interval"] for score in scores if score]).T
        control = " (control)" if condition == "same carry" else ""
        bars.bar(
            place,
            exact,
            width=0.27,
            color=colour,
            label=f"{condition}{control}: {meaning}",
            yerr=[np.maximum(exact - low, 0), np.maximum(high - exact, 0)],
            error_kw={"linewidth": 0.8},
        )
    labels = [
        f"s{10**column}\nseed {seed}\n{len(found['sites'])} site{'s'[: len(found['sites']) > 1]}"
        for column, seed, found in sets
    ]
    bars.set_xticks(range(len(sets)), labels=labels, fontsize=7)
    bars.set(ylim=(0, 1.02), xlim=(-0.7, len(sets) - 0.3), ylabel="share of pairs")
    bars.set_title("Carry injected through the smallest set of heads")
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=8)
    for axes in (curves, bars):
        axes.grid(axis="y", alpha=0.3)
    return figure


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser, seeds=(1, 2, 3, 4, 5))  # others than train.py's
    parser.add_argument(
        "--order", choices=ORDERS, default=ORDERS[0], help="order in which an answer is written"
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=None,
        help="folder of records and figure (default: results/beyond, units first right_to_left)",
    )
    args = parser.parse_args(arguments)
    folder = args.output_dir or records_folder(args.order)

    # Do the runs that are not in the file yet, unless it is about something else.
    ensure_data(cli.DATA_DIR)
    path, data = folder / "head_seeds.jsonl", files.file_digest(cli.DATA_DIR / "train.json")
    config = recipe("sinusoidal")
    refuse_others(
        path,
        lambda record: {
            "train_sha256": data,
            "training": asdict(replace(config, seed=record["seed"])),
        },
    )
    function = partial(do_run, order=args.order)
    records = studies.do_runs(function, [(seed,) for seed in args.seeds], path, ("seed",), args)

    # Compare the models.
    if records:
        with files.reading(path, MOVE_AWAY):
            figure = plot_seeds(records)
        files.save_figure(folder / "head_seeds.png", figure)
    print(f"{len(records)} seeds in {path}")
