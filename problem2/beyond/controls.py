"""What do the required models check, and is it lost on long sequences or hidden by the threshold?

The required models and the recommended one are trained with several seeds. A line of
results/beyond/controls.jsonl is a model: how many sequences of each control it calls sorted, and at
each length its AUC and its accuracy at the best threshold. A model that has its line is not trained
again.
"""

import time
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path

from support import cli, files, plots, studies

from beyond.order_measures import (
    LENGTH,
    draw_controls,
    measure_controls,
    measure_ranking,
    place_distances,
)
from beyond.records import mean_interval, read_whole
from beyond.variants import RECOMMENDED, VARIANTS
from dataset import create_dataloaders
from extrapolation.analysis import MAIN_KINDS, read_log
from extrapolation.dissection import ABSOLUTE
from generate_data import TEST_LENGTHS, ensure_data, ensure_test_set
from model import load_model
from positional_encoding import REQUIRED
from train import fit, make_model

RUN = ("encoding", "seed")  # the entries that identify a run
NEEDED = (files.WEIGHTS_DIGEST, "train_sha256", "controls", "ranking", "seconds")
NAMES = (*REQUIRED, RECOMMENDED)
SAMPLES = 1000  # sequences of each set, of which half are sorted
MEASURES = {"AUC": "auc", "accuracy": "right", "at best threshold": "right_at_best_threshold"}


def kept_weights(name, seed, data_dir, results_dir):
    """The file of the weights that this training gave, or None if they are not kept."""
    variant, digest = VARIANTS[name], files.file_digest(data_dir / "train.json")
    wanted = asdict(variant.training_config(seed)), asdict(variant.model), digest
    for folder in (results_dir / name, results_dir / "beyond" / name):
        path = folder / "best_model.pth"
        if path.is_file():
            log = read_log(path)
            if wanted == (log["training"], log["model"], log["data_sha256"]["train"]):
                return path
    return None


def make_trained(name, seed, data_dir, results_dir):
    """The model that training with this seed gives; it is loaded if its weights are kept."""
    if path := kept_weights(name, seed, data_dir, results_dir):
        return load_model(path)
    variant = VARIANTS[name]
    model = make_model(seed, "cpu", variant.kind, **variant.arguments())
    loaders = create_dataloaders(data_dir, variant.training.batch_size)
    fit(model, *loaders[:2], variant.training_config(seed))
    return model.eval()


def run_one(name, seed, folder, data_dir, results_dir):
    """Train one model with one seed: its record."""
    start = time.perf_counter()
    model = make_trained(name, seed, data_dir, results_dir)
    return {
        "encoding": name,
        "seed": seed,
        files.WEIGHTS_DIGEST: files.weights_digest(model),
        "train_sha256": files.file_digest(data_dir / "train.json"),
        "controls": measure_controls(model),
        "ranking": measure_ranking(model, data_dir, TEST_LENGTHS, SAMPLES),
        "environment": cli.environment("cpu"),
        "seconds": time.perf_counter() - start,
    }


def by_name(records):
    """`{name: its records}` of the models that were measured."""
    groups = {name: [each for each in records if each["encoding"] == name] for name in NAMES}
    return {name: group for name, group in groups.items() if group}


def shares(group, control):
    """The share of a control that each model of a group calls sorted."""
    found = (line for record in group for line in record["controls"] if line["control"] == control)
    return [line["called_sorted"] / line["n"] for line in found]


def controls_table(records, distances):
    """Text: the share of each control that is called sorted, a column a model, mean over seeds."""
    groups = by_name(records)
    title = "called sorted, mean of seeds".ljust(34) + f"{'distance':>14}"
    lines = [title + "".join(f"{name:>14}" for name in groups)]
    for control, distance in distances.items():
        means = (mean_interval(shares(group, control))[0] for group in groups.values())
        cells = "".join(f"{mean:14.1%}" for mean in means)
        lines.append(f"  {control:32}{distance:14.0f}{cells}")
    return "\n".join(lines)


def ranking_table(records):
    """Text: the measures by length, and sinusoidal minus learned of the same seed (95%, t)."""
    lines = []
    for kind, (title, measure) in product(MAIN_KINDS, MEASURES.items()):
        lines.append(f"{kind}, {title}".ljust(34) + "".join(f"{n:>16}" for n in TEST_LENGTHS))
        rows = {name: {} for name in by_name(records)}  # {name: {seed: a value for each length}}
        for record in records:
            chosen = [line for line in record["ranking"] if line["negatives"] == kind]
            values = [line[measure] / (1 if measure == "auc" else line["n"]) for line in chosen]
            rows[record["encoding"]][record["seed"]] = values
        for name, row in rows.items():
            means = (mean_interval(values)[0] for values in zip(*row.values()))
            lines.append(f"  {name:32}" + "".join(f"{mean:16.3f}" for mean in means))
        first, second = (rows.get(name, {}) for name in ABSOLUTE)
        paired = [zip(row, second[seed]) for seed, row in first.items() if seed in second]
        if len(paired) > 1:
            differences = zip(*([one - other for one, other in pair] for pair in paired))
            cells = ("{:+.3f} ± {:.3f}".format(*mean_interval(each)) for each in differences)
            lines.append(f"  {' - '.join(ABSOLUTE):32}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def plot_controls(records, distances):
    """The share of each control that is called sorted: a row a control, a dot a seed.

    Args:
        records: a line of controls.jsonl each.
        distances: those of `place_distances`; the rows are in their order.
    """
    figure = plots.new_figure(9, 5.5)
    axes, groups = figure.subplots(), by_name(records)
    controls = sorted(distances, key=distances.get)
    looks = list(zip("os^D", (plots.BLUE, plots.ORANGE, plots.GREY, plots.GREEN)))
    for row, control in enumerate(controls):
        answer = float(control.startswith("sorted"))
        label = None if row else "right answer"
        axes.plot([answer] * 2, [row - 0.42, row + 0.42], color="black", linewidth=3, label=label)
        axes.axhline(row + 0.5, color=plots.GREY, linewidth=0.4)
        for number, (name, group) in enumerate(groups.items()):
            (mark, colour), values = looks[number], shares(group, control)
            heights = [row + 0.22 * (number - 1.5)] * len(values)
            label = None if row else name
            axes.plot(values, heights, mark, color=colour, alpha=0.6, label=label)
    labels = [f"{control} ({distances[control]:.0f})" for control in controls]
    axes.set_yticks(range(len(controls)), labels=labels)
    axes.set(ylim=(len(controls) - 0.5, -0.5), xlim=(-0.03, 1.03), xlabel="share called sorted")
    axes.set_title(
        f"What is called sorted? Sequences of {LENGTH} values, a dot a training seed\n"
        "(in brackets: distance of the values from those usual at their places)",
        fontsize=11,
    )
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return figure


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="these models")
    studies.add_arguments(parser)
    for option, value, text in [
        ("--data-dir", cli.DATA_DIR, "folder of the data; made if empty"),
        ("--results-dir", cli.RESULTS_DIR, "folder of the models whose weights are kept"),
        ("--output", cli.RESULTS_DIR / "beyond" / "controls.jsonl", "file of the records"),
    ]:
        parser.add_argument(option, type=Path, default=value, help=text)
    args = parser.parse_args(arguments)
    # Make all data now: the runs, which are processes of their own, only read them.
    ensure_data(args.data_dir)
    for length in TEST_LENGTHS:
        ensure_test_set(args.data_dir, length)
    train_sha256 = files.file_digest(args.data_dir / "train.json")
    for record in read_whole(args.output, RUN, NEEDED):
        if record["train_sha256"] != train_sha256:
            raise cli.UserError(f"{args.output} holds models of other data: move the file away")
        path = kept_weights(*(record[key] for key in RUN), args.data_dir, args.results_dir)
        if path and files.weights_digest(load_model(path)) != record[files.WEIGHTS_DIGEST]:
            raise cli.UserError(f"{args.output} is of other weights than {path}: move it away")
    # Train and measure the models that are missing; then show all.
    todo = [(name, seed) for seed in args.seeds for name in args.only]
    run = partial(run_one, data_dir=args.data_dir, results_dir=args.results_dir)
    records = studies.do_runs(run, todo, args.output, RUN, args)
    distances = place_distances(draw_controls(SAMPLES))
    print(controls_table(records, distances), ranking_table(records), sep="\n\n")
    files.save_figure(args.output.with_suffix(".png"), plot_controls(records, distances))
