"""Figures of the study from its records; nothing here runs a model or touches the disk."""

import math
import statistics
from itertools import product

from support.plots import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, new_figure

import numpy as np

from beyond.records import accuracy
from extrapolation.figures import log_lengths
from model import POOLINGS
from positional_encoding import ENCODINGS

# Names of encodings and poolings as the report has them, where the code's are other ones.
WORDS = {
    "sinusoidal_offset": "sinusoidal, random start",
    "learned_offset": "learned, random start",
    "random_positions": "random positions",
    "alibi_symmetric": "ALiBi, symmetric",
    "alibi_directed": "ALiBi, directed",
    "relative_bias": "relative bias",
    "relative_keys": "relative key vectors",
    "local_bias": "local bias",
    "causal": "causal mask",
    "five_features": "five features",
    "one_inversion": "one inversion",
    "cross_entropy": "cross-entropy",
}
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY)
MARKS = "os^Dv<>"


def curve_of(records, key, x, **wanted):
    """`{value of x: accuracies, one a record}` of the entries under `key` with `wanted` values."""
    curve = {}
    for record in records:
        for entry in record[key]:
            if all(entry[name] == value for name, value in wanted.items()):
                curve.setdefault(entry[x], []).append(accuracy(entry))
    return curve


def accuracies(records, length, negatives):
    """The accuracy of each run on one test set."""
    wanted = {"length": length, "negatives": negatives, "gap_source": None}
    return curve_of(records, "accuracy", "length", **wanted)[length]


def words(variant):
    """The name of a variant, or of a part of it, in the report's words."""
    return ", ".join(WORDS.get(part, part) for part in variant.split("-"))


def by_variant(records):
    """`{variant in words: its records}`, in the order of the records."""
    groups = {}
    for record in records:
        groups.setdefault(words(record["variant"]), []).append(record)
    return groups


def look(number):
    """Colour and marker of line `number`."""
    return {"color": PALETTE[number % len(PALETTE)], "marker": MARKS[number % len(MARKS)]}


def legend_below(figure, axes):
    """One legend for all panels, under them."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)


def beside(values, number, count):
    """Places on a logarithmic axis, shifted so that line `number` of `count` hides no other."""
    return [value * 2 ** (0.14 * (number - (count - 1) / 2)) for value in values]


def plot_seeds(axes, groups, length, negatives, colour, label=""):
    """A dot for each seed, and a bar at their mean: accuracy on one test set.

    Args:
        groups: `{height: records that differ in their seed}`.
        length, negatives: which test set.
    """
    dots = {"color": colour, "markersize": 3.5, "alpha": 0.6, "label": f"one seed{label}"}
    for row, records in groups.items():
        values = accuracies(records, length, negatives)
        axes.plot(values, [row] * len(values), "o", **dots)
        axes.plot(statistics.mean(values), row, "|", color="black", markersize=7, label="mean")
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=0.8, label="chance")
    axes.set(xlim=(0.4, 1.02))
    axes.grid(alpha=0.3)


def plot_curve(axes, places, curve, style, label):
    """A dot for each seed, and a line through their means, of a `curve` as `curve_of` gives it."""
    axes.plot(places, list(curve.values()), **style | {"linestyle": "none"}, alpha=0.5)
    means = [statistics.mean(values) for values in curve.values()]
    axes.plot(places, means, **style, label=label)


def plot_grid(records, negatives, lengths=(16, 64, 256)):
    """The grid on one kind of negatives: a row a length, a column a pooling, in each the encodings.

    Args:
        records: runs with scaled scores, or runs without, of one training setting a cell.
    """
    cells = {}
    for record in records:
        chosen = record["settings"]
        cell = chosen["pooling"], chosen["augmentation"] != "none", chosen["encoding_type"]
        cells.setdefault(cell, []).append(record)
    encodings = [name for name in ENCODINGS if any(cell[2] == name for cell in cells)]
    poolings = [name for name in POOLINGS if any(cell[0] == name for cell in cells)]
    height = len(lengths) * (0.9 + 0.23 * len(encodings)) + 0.8
    figure = new_figure(3 * len(poolings) + 1.5, height)
    scores = "; scores scaled by log n" if records[0]["settings"]["log_scaling"] else ""
    figure.suptitle(
        "Accuracy by encoding, pooling, augmentation and length\n"
        f"negatives: {negatives.replace('_', ' ')}{scores}",
        fontsize=11,
    )
    panels = figure.subplots(len(lengths), len(poolings), sharex=True, sharey=True, squeeze=False)
    for (length, pooling), axes in zip(product(lengths, poolings), panels.flat):
        for augmented, shift in ((True, -0.2), (False, 0.2)):
            colour, label = (BLUE, ", augmented") if augmented else (ORANGE, ", plain")
            groups = {}
            for row, encoding in enumerate(encodings):
                if (pooling, augmented, encoding) in cells:
                    groups[row + shift] = cells[pooling, augmented, encoding]
            plot_seeds(axes, groups, length, negatives, colour, label)
        axes.set_title(f"{pooling} pooling, {length} values", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("accuracy")
    panels[0, 0].set_yticks(range(len(encodings)), labels=map(words, encodings))
    panels[0, 0].set_ylim(len(encodings) - 0.5, -0.5)
    legend_below(figure, panels[0, 0])
    return figure


def plot_parts(records, negatives="one_inversion", lengths=(16, 64, 256)):
    """Variants beside the grid, with those that they descend from: a panel a length."""
    groups = by_variant(records)
    figure = new_figure(4 * len(lengths) + 2, 1.4 + 0.26 * len(groups))
    figure.suptitle(f"Accuracy, negatives: {negatives.replace('_', ' ')}")
    panels = figure.subplots(1, len(lengths), sharey=True)
    for length, axes in zip(lengths, panels):
        plot_seeds(axes, dict(enumerate(groups.values())), length, negatives, BLUE)
        axes.set(title=f"{length} values", xlabel="accuracy")
    panels[0].set_yticks(range(len(groups)), labels=groups, fontsize=8)
    panels[0].invert_yaxis()
    legend_below(figure, panels[0])
    return figure


def plot_shortcut(records, length=16):
    """Accuracy on the test split against that on one inversion, and where the trend is wrong."""
    figure = new_figure(11, 5.1)
    figure.suptitle(
        "Each dot is a run: does accuracy on the test split mean that neighbours are compared?"
    )
    inversion, exceptions = figure.subplots(1, 2, sharex=True)
    groups = {False: [], True: []}  # {augmented: records}
    for record in records:
        groups[record["settings"]["augmentation"] != "none"].append(record)
    for (augmented, chosen), mark, colour in zip(groups.items(), "os", (ORANGE, BLUE)):
        style = {"color": colour, "alpha": 0.6}
        style["label"] = f"{'with' if augmented else 'without'} augmentation"
        test = [accuracy(record["test"]) for record in chosen]
        if chosen:
            inversion.plot(test, accuracies(chosen, length, "one_inversion"), mark, **style)
        against = [
            record["shortcut"]["right_where_trend_is_wrong"] / record["shortcut"]["trend_wrong"]
            for record in chosen
        ]
        exceptions.plot(test, against, mark, **style)
    wrong = records[0]["shortcut"]["trend_wrong"]
    trend = 1 - wrong / records[0]["shortcut"]["n"]
    label = "errors without regard to the trend"
    exceptions.plot([0.45, 1], [0.45, 1], color="black", linewidth=0.8, label=label)
    for axes in (inversion, exceptions):
        label = f"the trend model ({trend:.1%})"
        axes.axvline(trend, color=GREY, linestyle="--", label=label)
        axes.axhline(0.5, color=GREY, linestyle=":", label="chance")
        axes.set_xlabel("accuracy on the test split (8 to 16 values)")
        axes.grid(alpha=0.3)
    inversion.set(
        ylabel=f"accuracy on one inversion, {length} values", title="Comparing neighbours"
    )
    exceptions.set(
        ylabel="accuracy on these", title=f"The {wrong} test sequences that the trend gets wrong"
    )
    legend_below(figure, exceptions)
    return figure


def plot_untrained_rows(records):
    """Learned positions past the trained rows: accuracy under each policy, a panel a variant."""
    groups = by_variant(record for record in records if "untrained_rows" in record)
    figure = new_figure(4.2 * len(groups), 6.4)
    figure.suptitle(
        "Learned rows past the training lengths, replaced after training: what brings accuracy "
        "back?\n(a dot a seed, a line their mean; interpolation: the trained rows stretched)"
    )
    kinds = ("swap", "one_inversion")
    panels = figure.subplots(len(kinds), len(groups), sharex=True, sharey=True, squeeze=False)
    for (kind, (variant, group)), axes in zip(product(kinds, groups.items()), panels.flat):
        policies = list(dict.fromkeys(entry["policy"] for entry in group[0]["untrained_rows"]))
        for number, policy in enumerate(policies):
            wanted = {"negatives": kind, "policy": policy}
            curve = curve_of(group, "untrained_rows", "length", **wanted)
            places, style = beside(curve, number, len(policies)), look(number) | {"markersize": 4}
            plot_curve(axes, places, curve, style, policy)
        axes.axhline(0.5, color=GREY, linestyle=":", label="chance")
        log_lengths(axes, list(curve))
        axes.set_title(f"{variant}: {kind.replace('_', ' ')}", fontsize=9)
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylim(0.4, 1.02)
    for axes in panels[-1]:
        axes.set_xlabel("sequence length (values)")
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy")
    legend_below(figure, panels[0, 0])
    return figure


def plot_panels(records, title, ylabel, plot_panel, xlabel="sequence length (values)"):
    """A panel for each variant, three in a row, with a logarithmic x axis.

    `plot_panel(axes, records of the variant)` plots one and returns its places on that axis.
    """
    groups = by_variant(records)
    columns, rows = min(3, len(groups)), math.ceil(len(groups) / 3)
    figure = new_figure(3.4 * columns, 3.1 * rows + 0.4)
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(groups) :]:
        axes.set_axis_off()
    for axes, (variant, group) in zip(panels.flat, groups.items()):
        log_lengths(axes, plot_panel(axes, group))
        axes.set_title(variant, fontsize=9)
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel)
    legend_below(figure, panels[0, 0])
    return figure


def plot_dilution(records):
    """Margin against length, sorted and with one violation: mean over seeds, band one deviation."""

    def plot_panel(axes, group):
        lengths = [entry["length"] for entry in group[0]["dilution"]]
        for name, colour, mark in (("sorted", BLUE, "o"), ("one_inversion", ORANGE, "s")):
            keys = f"margin_{name}_mean", f"margin_{name}_std"
            seeds = [[[entry[key] for entry in run["dilution"]] for key in keys] for run in group]
            mean, std = np.mean(seeds, axis=0)
            axes.plot(lengths, mean, color=colour, marker=mark, label=name.replace("_", " "))
            axes.fill_between(
                lengths, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0
            )
        axes.axhline(0, color=GREY, linestyle=":")
        return lengths

    title = (
        "What one inversion moves: where the lines meet it is not seen; below zero all is called "
        "unsorted"
    )
    return plot_panels(records, title, "margin (logit)", plot_panel)


def plot_gap(records, negatives="one_inversion"):
    """Length against gap: accuracy at each length, and at 16 values with that length's gaps."""

    def plot_panel(axes, group):
        at_length = curve_of(group, "accuracy", "length", negatives=negatives, gap_source=None)
        with_gaps = curve_of(group, "accuracy", "gap_source", negatives=negatives, length=16)
        del with_gaps[None]
        for name, curve, line, mark, colour in [
            ("at that length", at_length, "-", "o", BLUE),
            ("16 values, the gaps of that length", with_gaps, "--", "s", ORANGE),
        ]:
            style = {"linestyle": line, "marker": mark, "markersize": 4, "color": colour}
            shown = {length: curve[length] for length in with_gaps}
            plot_curve(axes, list(shown), shown, style, name)
        axes.set_ylim(0.4, 1.02)
        return list(with_gaps)

    title = "Length or gap? Where the lines part, length itself is the obstacle"
    return plot_panels(records, title, f"accuracy, {negatives.replace('_', ' ')}", plot_panel)


def neighbour_head(record):
    """`(layer, head, side)` of the head that looks most at one neighbour, at the shortest length.

    `side` is "before" or "after".
    """
    shortest = min(entry["length"] for entry in record["heads"])
    weights = {
        (entry[side], entry["layer"], entry["head"], side)
        for entry in record["heads"]
        for side in ("before", "after")
        if entry["length"] == shortest
    }
    return max(weights)[1:]


def plot_neighbour_head(records):
    """Of each run's neighbour head: entropy, top weight, weight of its neighbour, by length."""
    figure = new_figure(13, 4.4)
    figure.suptitle(
        "The head that looks most at one neighbour: does it keep looking as sequences grow?"
    )
    panels = figure.subplots(1, 3)
    for number, (variant, group) in enumerate(by_variant(records).items()):
        seeds = []
        for record in group:
            *place, side = neighbour_head(record)
            entries = [each for each in record["heads"] if [each["layer"], each["head"]] == place]
            keys = ("length", "entropy", "top_weight", side)
            seeds.append([[entry[key] for entry in entries] for key in keys])
        lengths, *curves = np.mean(seeds, axis=0)
        for axes, curve in zip(panels, curves):
            axes.plot(lengths, curve, **look(number), label=variant)
    names = ("entropy (nats)", "largest weight", "weight of the neighbour")
    for axes, name in zip(panels, names):
        log_lengths(axes, [round(length) for length in lengths])
        axes.set(xlabel="sequence length (values)", ylabel=name, ylim=(0, None))
        axes.grid(alpha=0.3)
    legend_below(figure, axes)
    return figure


def plot_ties(records):
    """Accuracy against the number of distinct values in a sequence: a panel a variant."""

    def plot_panel(axes, group):
        for name, line, mark, colour in (
            ("sorted", "-", "o", BLUE),
            ("one_inversion", "--", "s", ORANGE),
        ):
            curve = curve_of(group, "ties", "distinct", set=name)
            style = {"linestyle": line, "marker": mark, "markersize": 4, "color": colour}
            plot_curve(axes, list(curve), curve, style, words(name))
        axes.set_ylim(-0.02, 1.04)
        return [1, *curve]

    title = (
        "Many ties (16 values in a sequence): right on both kinds, or calling everything the same?"
    )
    return plot_panels(records, title, "accuracy", plot_panel, "distinct values")


def plot_pairs(table, errors):
    """The comparison as a heatmap, with the pairs of the wrong sign marked, and by difference.

    Args:
        table: margins `[100][100]` for v (row) before w (column).
        errors: pairs `[v, w]`.
    """
    table = np.asarray(table)
    figure = new_figure(12, 5)
    heatmap, profile = figure.subplots(1, 2)
    limit = np.abs(table).max()
    image = heatmap.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, ax=heatmap, label='margin: logit of "sorted" minus "unsorted"')
    if errors:
        rows, columns = zip(*errors)
        heatmap.plot(columns, rows, "kx", markersize=5, label="wrong")
        heatmap.legend()
    heatmap.set_title(f"{len(errors)} of {table.size:,} pairs wrong")
    heatmap.set(xlabel="w, the value after", ylabel="v, the value before")
    steps = range(-8, 9)
    for name, choose, colour in [
        ("mean", np.mean, BLUE),
        ("smallest", np.min, ORANGE),
        ("largest", np.max, GREEN),
    ]:
        curve = [choose(np.diagonal(table, step)) for step in steps]
        profile.plot(steps, curve, marker="o", color=colour, label=f"{name} over v")
    profile.axhline(0, color=GREY, linestyle=":")
    label = "where a step function steps"
    profile.axvline(-0.5, color="black", linestyle="--", linewidth=0.8, label=label)
    profile.set(title="Margin by difference", xlabel="w - v", ylabel="margin (logit)")
    profile.legend(fontsize=8)
    profile.grid(alpha=0.3)
    return figure


def plot_bias(weights, reach):
    """The learned bias `[heads][2 reach + 1]` against the offset, a line a head."""
    figure = new_figure(5.5, 4)
    axes = figure.subplots()
    offsets = range(-reach, reach + 1)
    for number, row in enumerate(weights):
        axes.plot(offsets, row, **look(number), label=f"head {number}")
    axes.set(title="Learned bias", xlabel="offset of the key from the query (values)")
    axes.set(ylabel="added to the score", xticks=offsets)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
