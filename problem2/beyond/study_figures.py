"""Figures of the study from its records; nothing here runs a model or touches the disk."""

import math
import statistics
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from model import POOLINGS
from positional_encoding import ENCODINGS
from support.plots import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY)
MARKS = "os^Dv<>"
# Student's 97.5% points, by number of values.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def mean_interval(values):
    """Mean and half the width of its 95% interval (Student's t; 0 for a single value) of up to ten values."""
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.mean(values), half


def accuracy_of(record, length, negatives, gap_source=None):
    """The accuracy of a run on one test set."""
    return next(entry["accuracy"] for entry in record["accuracy"]
                if (entry["length"], entry["negatives"], entry["gap_source"]) == (length, negatives, gap_source))


def by_variant(records):
    """`{variant: its records}`, in the order of the records."""
    groups = {}
    for record in records:
        groups.setdefault(record["variant"], []).append(record)
    return groups


def legend_below(figure, axes):
    """One legend for all panels, under them."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)


def beside(values, number, count):
    """The places on a logarithmic axis of line `number` of `count`: shifted a little, so that none hides another."""
    return [value * 2 ** (0.14 * (number - (count - 1) / 2)) for value in values]


def make_panels(count, columns=3, **options):
    """A figure with `count` panels, three in a row: `(figure, its axes)`."""
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3.4 * min(count, columns), 3.1 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, min(count, columns), squeeze=False, **options).flatten()
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def draw_seeds(axes, rows, records_of_rows, length, negatives, colour, label):
    """A dot a seed and the mean with its 95% interval at each row: accuracy at that length on one kind of negatives."""
    for row, records in zip(rows, records_of_rows):
        values = [accuracy_of(record, length, negatives) for record in records]
        mean, half = mean_interval(values)
        axes.plot(values, [row] * len(values), "o", color=colour, markersize=3.5, alpha=0.6, label=f"one seed{label}")
        axes.errorbar(mean, row, xerr=half, fmt="|", color="black", capsize=2, markersize=7, linewidth=0.8,
                      label="mean, 95% interval")
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=0.8, label="chance")
    axes.set(xlim=(0.4, 1.02))
    axes.grid(alpha=0.3)


def plot_grid(records, negatives, lengths=(16, 64, 256)):
    """The grid, or that of the scaled scores, on one kind of negatives: a row a length, a column a pooling, in each the
    encodings with and without augmentation.

    Args:
        records: runs with scaled scores, or runs without, of one training setting a cell.
    """
    cells = {}
    for record in records:
        chosen = record["settings"]
        cells.setdefault((chosen["pooling"], chosen["augmentation"] != "none", chosen["encoding_type"]),
                         []).append(record)
    poolings, encodings = (sorted({cell[place] for cell in cells}, key=list(order).index)
                           for place, order in ((0, POOLINGS), (2, ENCODINGS)))
    figure = Figure(figsize=(3 * len(poolings) + 1.5, len(lengths) * (0.9 + 0.23 * len(encodings)) + 0.8),
                    layout="constrained")
    scores = "; scores scaled by log n" if records[0]["settings"]["log_scaling"] else ""
    figure.suptitle("Accuracy by encoding, pooling, augmentation and length\n"
                    f"negatives: {negatives.replace('_', ' ')}{scores}", fontsize=11)
    panels = figure.subplots(len(lengths), len(poolings), sharex=True, sharey=True, squeeze=False)
    for (length, pooling), axes in zip(product(lengths, poolings), panels.flat):
        for augmented, shift, colour, label in [(True, -0.2, BLUE, ", augmented"), (False, 0.2, ORANGE, ", plain")]:
            run = {row: cells[pooling, augmented, encoding] for row, encoding in enumerate(encodings)
                   if (pooling, augmented, encoding) in cells}
            draw_seeds(axes, [row + shift for row in run], run.values(), length, negatives, colour, label)
        axes.set_title(f"{pooling} pooling, {length} values", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("accuracy")
    panels[0, 0].set_yticks(range(len(encodings)), labels=encodings)
    panels[0, 0].set_ylim(len(encodings) - 0.5, -0.5)
    legend_below(figure, panels[0, 0])
    return figure


def plot_parts(records, negatives="one_inversion", lengths=(16, 64, 256)):
    """Variants beside the grid, with those that they descend from: a panel a length."""
    groups = by_variant(records)
    figure = Figure(figsize=(4 * len(lengths) + 2, 1.4 + 0.26 * len(groups)), layout="constrained")
    figure.suptitle(f"Accuracy, negatives: {negatives.replace('_', ' ')}")
    panels = figure.subplots(1, len(lengths), sharey=True)
    for length, axes in zip(lengths, panels):
        draw_seeds(axes, range(len(groups)), groups.values(), length, negatives, BLUE, "")
        axes.set(title=f"{length} values", xlabel="accuracy")
    panels[0].set_yticks(range(len(groups)), labels=groups, fontsize=8)
    panels[0].invert_yaxis()
    legend_below(figure, panels[0])
    return figure


def plot_shortcut(records, length=16):
    """Accuracy in distribution against accuracy on one inversion; and against the agreement with the trend model."""
    figure = Figure(figsize=(11, 5.1), layout="constrained")
    figure.suptitle("Each dot is a run: does accuracy on the test split mean that neighbours are compared?")
    inversion, agreement = figure.subplots(1, 2)
    kinds = [("without augmentation", lambda record: record["settings"]["augmentation"] == "none", "o", ORANGE),
             ("with augmentation", lambda record: record["settings"]["augmentation"] != "none", "s", BLUE)]
    for name, belongs, mark, colour in kinds:
        chosen = [record for record in records if belongs(record)]
        test = [record["test"]["accuracy"] for record in chosen]
        inversion.plot(test, [accuracy_of(record, length, "one_inversion") for record in chosen], mark, color=colour,
                       alpha=0.6, label=name)
        agreement.plot(test, [record["shortcut"]["agreement"] for record in chosen], mark, color=colour, alpha=0.6,
                       label=name)
    trend = records[0]["shortcut"]["trend_accuracy"]
    for axes in (inversion, agreement):
        axes.axvline(trend, color=GREY, linestyle="--", label=f"the trend model ({trend:.1%})")
        axes.set_xlabel("accuracy on the test split (8 to 16 values)")
        axes.grid(alpha=0.3)
    inversion.axhline(0.5, color=GREY, linestyle=":", label="chance")
    inversion.set(ylabel=f"accuracy on one inversion, {length} values", title="Comparing neighbours")
    agreement.set(ylabel="share of answers that are the trend model's", title="Following the trend")
    legend_below(figure, inversion)
    return figure


def plot_untrained_rows(records):
    """Learned positions past the trained rows: accuracy against length under each policy, a panel a variant."""
    groups = by_variant(record for record in records if "untrained_rows" in record)
    figure = Figure(figsize=(4.2 * len(groups), 6.4), layout="constrained")
    figure.suptitle("Learned rows past the training lengths, replaced after training: what brings accuracy back?\n"
                    "(a dot a seed, a line their mean; interpolation: the trained rows stretched)")
    kinds = ("swap", "one_inversion")
    panels = figure.subplots(len(kinds), len(groups), sharex=True, sharey=True, squeeze=False)
    for (negatives, (variant, group)), axes in zip(product(kinds, groups.items()), panels.flat):
        entries = [entry for record in group for entry in record["untrained_rows"] if entry["negatives"] == negatives]
        lengths = sorted({entry["length"] for entry in entries})
        policies = list(dict.fromkeys(entry["policy"] for entry in entries))
        for number, policy in enumerate(policies):
            seeds = [[entry["accuracy"] for entry in entries if (entry["length"], entry["policy"]) == (length, policy)]
                     for length in lengths]
            places = beside(lengths, number, len(policies))
            axes.plot(places, seeds, MARKS[number], color=PALETTE[number], markersize=4, alpha=0.5)
            axes.plot(places, [statistics.mean(values) for values in seeds], color=PALETTE[number],
                      marker=MARKS[number], markersize=4, label=policy)
        axes.axhline(0.5, color=GREY, linestyle=":", label="chance")
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, labels=map(str, lengths))
        axes.set_title(f"{variant}: {negatives.replace('_', ' ')}", fontsize=9)
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylim(0.4, 1.02)
    for axes in panels[-1]:
        axes.set_xlabel("sequence length (values)")
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy")
    legend_below(figure, panels[0, 0])
    return figure


def plot_dilution(records):
    """Margin against length, sorted and with one violation, a panel a variant: mean over seeds, band one standard
    deviation."""
    groups = by_variant(records)
    figure, panels = make_panels(len(groups), sharey=True)
    figure.suptitle("What one inversion moves: where the lines meet it is not seen; below zero all is called unsorted")
    for axes, (variant, group) in zip(panels, groups.items()):
        lengths = [entry["length"] for entry in group[0]["dilution"]]
        for name, colour, mark in [("sorted", BLUE, "o"), ("one_inversion", ORANGE, "s")]:
            mean, std = (np.mean([[entry[f"margin_{name}_{measure}"] for entry in record["dilution"]]
                                  for record in group], axis=0)
                         for measure in ("mean", "std"))
            axes.plot(lengths, mean, color=colour, marker=mark, label=name.replace("_", " "))
            axes.fill_between(lengths, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0, color=GREY, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, labels=map(str, lengths))
        axes.set(title=variant, xlabel="sequence length (values)")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("margin (logit)")
    legend_below(figure, axes)
    return figure


def neighbour_head(record):
    """`(layer, head, side)` of the head that looks most at one neighbour, "before" or "after", at the shortest
    length."""
    shortest = min(entry["length"] for entry in record["heads"])
    entries = [(entry[side], entry["layer"], entry["head"], side) for entry in record["heads"] if entry["length"]
               == shortest
               for side in ("before", "after")]
    return max(entries)[1:]


def plot_neighbour_head(records):
    """Of each run's neighbour head, against length: entropy, top weight, and the weight of its neighbour; a line a
    variant."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle("The head that looks most at one neighbour: does it keep looking as sequences grow?")
    panels = figure.subplots(1, 3)
    for number, (variant, group) in enumerate(by_variant(records).items()):
        chosen = []
        for record in group:
            layer, head, side = neighbour_head(record)
            chosen.append([(entry["length"], entry["entropy"], entry["top_weight"], entry[side])
                           for entry in record["heads"]
                           if (entry["layer"], entry["head"]) == (layer, head)])
        lengths, *curves = np.mean(chosen, axis=0).T
        for axes, curve in zip(panels, curves):
            axes.plot(lengths, curve, color=PALETTE[number % 7], marker=MARKS[number % 7], label=variant)
    for axes, name in zip(panels, ("entropy (nats)", "largest weight", "weight of the neighbour")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, labels=[f"{length:.0f}" for length in lengths])
        axes.set(xlabel="sequence length (values)", ylabel=name, ylim=(0, None))
        axes.grid(alpha=0.3)
    legend_below(figure, axes)
    return figure


def plot_gap(records, negatives="one_inversion"):
    """Length against gap: accuracy at each length, and at 16 values with the gaps of that length; a panel a variant."""
    groups = by_variant(records)
    figure, panels = make_panels(len(groups), sharey=True)
    figure.suptitle("Length or gap? Where the lines part, length itself is the obstacle")
    for axes, (variant, group) in zip(panels, groups.items()):
        sources = sorted({entry["gap_source"] for entry in group[0]["accuracy"]} - {None})
        for name, points, style, mark in [
                ("at that length", [mean_interval([accuracy_of(record, n, negatives) for record in group])
                                    for n in sources], "-", "o"),
                ("16 values, the gaps of that length",
                 [mean_interval([accuracy_of(record, 16, negatives, n) for record in group])
                                                        for n in sources], "--", "s")]:
            axes.errorbar(sources, *zip(*points), linestyle=style, marker=mark, capsize=2, color=BLUE if mark == "o"
                          else ORANGE, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sources, labels=map(str, sources))
        axes.set(title=variant, xlabel="sequence length (values)", ylim=(0.4, 1.02))
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(f"accuracy, {negatives.replace('_', ' ')}")
    legend_below(figure, axes)
    return figure


def plot_ties(records):
    """Accuracy against the number of distinct values that sequences were drawn from; a line a variant."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle("Many ties: right on both kinds of sequences, or calling everything the same?")
    groups = by_variant(records)
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("sorted", "one_inversion")):
        for number, (variant, group) in enumerate(groups.items()):
            distinct = [entry["distinct"] for entry in group[0]["ties"] if entry["set"] == kind]
            points = [mean_interval([entry["accuracy"] for record in group for entry in record["ties"]
                                     if (entry["set"], entry["distinct"]) == (kind, n)]) for n in distinct]
            axes.errorbar(beside(distinct, number, len(groups)), *zip(*points), color=PALETTE[number % 7],
                          marker=MARKS[number % 7], markersize=5, capsize=2, label=variant)
        axes.set_xscale("log", base=2)
        axes.set_xticks(distinct, labels=map(str, distinct))
        axes.set(title=kind.replace("_", " "), xlabel="distinct values (16 in a sequence)", ylabel="accuracy",
                 ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    legend_below(figure, axes)
    return figure


def plot_pairs(table, errors):
    """The comparison as a heatmap: margin of sorted for v (row) before w (column), with the pairs on the wrong side
    marked."""
    table = np.asarray(table)
    figure = Figure(figsize=(12, 5), layout="constrained")
    heatmap, profile = figure.subplots(1, 2)
    limit = np.abs(table).max()
    image = heatmap.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, ax=heatmap, label='margin: logit of "sorted" minus "unsorted"')
    if errors:
        heatmap.plot([w for _, w in errors], [v for v, _ in errors], "kx", markersize=5, label="wrong")
        heatmap.legend()
    heatmap.set(title=f"{len(errors)} of {table.size:,} pairs wrong", xlabel="w, the value after",
                ylabel="v, the value before")
    steps = range(-8, 9)
    for name, choose, colour in [("mean", np.mean, BLUE), ("smallest", np.min, ORANGE), ("largest", np.max, GREEN)]:
        profile.plot(steps, [choose(np.diagonal(table, step)) for step in steps], marker="o", color=colour,
                     label=f"{name} over v")
    profile.axhline(0, color=GREY, linestyle=":")
    profile.axvline(-0.5, color="black", linestyle="--", linewidth=0.8, label="where a step function steps")
    profile.set(title="Margin by difference", xlabel="w - v", ylabel="margin (logit)")
    profile.legend(fontsize=8)
    profile.grid(alpha=0.3)
    return figure


def plot_bias(weights, reach):
    """The learned bias `[heads][2 reach + 1]` against the offset, a line a head."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(weights):
        axes.plot(range(-reach, reach + 1), row, color=PALETTE[number % 7], marker=MARKS[number % 7],
                  label=f"head {number}")
    axes.set(title="Learned bias", xlabel="offset of the key from the query (values)", ylabel="added to the score")
    axes.set_xticks(range(-reach, reach + 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
