"""Figures of the analysis, from its records; nothing here runs a model or touches the disk."""

import math
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from learning.evaluation import wilson_interval
from support.plots import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

# Markers and lines tell the curves apart in grey.
COLOURS = {"sinusoidal": BLUE, "learned": RED, "none": GREY, "recommended": GREEN}
WIDTHS = {"sinusoidal": 4.5}  # so that it is seen under a curve that covers it
MARKERS = {"sinusoidal": "o", "learned": "s", "none": "^", "recommended": "D"}
LOOKS = [(BLUE, "o"), (RED, "s"), (GREEN, "^"), (ORANGE, "D"), (GREY, "v"), (SKY, "P")]  # of other curves
OTHER_COLOURS = (PINK, ORANGE, SKY, "#000000", "#F0E442")
TITLES = {"swap": "swaps (the course's)", "one_inversion": "one inversion", "one_swap": "one swap",
          "shuffled": "shuffled", "reversed": "reversed"}


def looks_of(names):
    """`{name: (colour, marker)}`: those of the models trained by default, and others for others."""
    others = zip(cycle(OTHER_COLOURS), cycle("vP*X"))
    return {name: (COLOURS[name], MARKERS[name]) if name in COLOURS else next(others) for name in names}


def plot_extrapolation(records, trained_lengths):
    """Accuracy against length for each encoding, a panel for each kind of negatives, the first two large, with 95%
    bands.

    Args:
        records: those of `measure_group`; the gap control is drawn, hollow, at the length it is a control of.
        trained_lengths: the shortest and the longest training sequence.
    """
    kinds = [kind for kind in TITLES if any(record["negatives"] == kind for record in records)]
    looks = looks_of(dict.fromkeys(record["encoding"] for record in records))
    lengths = sorted({record["length"] for record in records if record["set"] == "length"})
    rows = [kinds[:2], kinds[2:]] if len(kinds) > 2 else [kinds]
    columns = math.lcm(*map(len, rows))
    figure = Figure(figsize=(9, 4.2 if len(rows) == 1 else 7), layout="constrained")
    figure.suptitle(f"Trained to {trained_lengths[1]} values: which encoding holds beyond?")
    mosaic = [[kind for kind in row for _ in range(columns // len(row))] for row in rows]
    for kind, axes in figure.subplot_mosaic(mosaic, height_ratios=[1.6, 1][:len(rows)], sharey=True).items():
        axes.axvspan(*trained_lengths, color=SKY, alpha=0.2, label="trained lengths")
        axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":", label="chance")
        for encoding, (colour, marker) in looks.items():
            for name, x, style in [("length", "length", "-"), ("gap control", "gap_source", "--")]:
                points = sorted((record[x], record["accuracy"], *record["accuracy_interval"]) for record in records
                                if (record["set"], record["encoding"], record["negatives"]) == (name, encoding, kind))
                if not points:
                    continue
                x_values, accuracy, low, high = zip(*points)
                width = WIDTHS.get(encoding, 1.5) if name == "length" else 1
                axes.plot(x_values, accuracy, style, color=colour, marker=marker, markersize=5, linewidth=width,
                          markerfacecolor=None if name == "length" else "white",
                          label=encoding if name == "length" else None)
                axes.fill_between(x_values, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, labels=map(str, lengths))
        axes.minorticks_off()
        axes.set(title=TITLES[kind], xlabel="sequence length (values)", ylim=(0.4, 1.02))
        axes.grid(alpha=0.3)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("accuracy (band: 95% interval)")
    axes.plot([], [], "--", color="black", marker="o", markerfacecolor="white", linewidth=1,
              label="hollow: 16 values with the gaps of that length")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def plot_position_embeddings(learned, initial, trained_rows):
    """The learned table as a heatmap, the norms of its rows and how far training moved them, and the cosine similarity
    between rows.

    Args:
        learned: the table, numpy `[rows, d_model]`.
        initial: the table before training, likewise.
        trained_rows: how many of the first rows training sequences reached.
    """
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    heatmap, norms, cosine = figure.subplots(1, 3)
    limit = np.abs(learned).max()
    image = heatmap.imshow(learned, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, ax=heatmap, label="value")
    heatmap.axhline(trained_rows - 0.5, color="black", linewidth=1.2, linestyle="--")
    heatmap.set(title=f"Rows (trained: 0 to {trained_rows - 1})", xlabel="dimension", ylabel="position")
    length = np.linalg.norm(learned, axis=1)
    norms.plot(np.arange(len(learned)), length, color=COLOURS["learned"], marker=".", markersize=4, linewidth=0.8,
               label="norm of the row")
    norms.plot(np.arange(len(learned)), np.linalg.norm(learned - initial, axis=1), color=BLUE, marker="s", markersize=3,
               linewidth=0.8, label="distance from its first value")
    norms.axvspan(-0.5, trained_rows - 0.5, color=SKY, alpha=0.2, label="trained rows")
    norms.set(title="What training did to each row", xlabel="position", ylabel="Euclidean norm", ylim=(-0.2, None))
    norms.grid(alpha=0.3)
    norms.legend(loc="center right", fontsize=8)
    unit = learned / length[:, None]
    image = cosine.imshow(unit @ unit.T, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=cosine, label="cosine similarity")
    for line in (cosine.axhline, cosine.axvline):
        line(trained_rows - 0.5, color="black", linewidth=1.2, linestyle="--")
    cosine.set(title="Similarity between rows", xlabel="position", ylabel="position")
    return figure


def plot_encodings(tables, trained_rows):
    """What each encoding adds to the input, side by side.

    Args:
        tables: `{name: numpy [rows, d_model]}`.
        trained_rows: how many of the first positions training sequences reached.
    """
    figure = Figure(figsize=(3.7 * len(tables), 3.5), layout="constrained")
    for axes, (name, table) in zip(np.atleast_1d(figure.subplots(1, len(tables))), tables.items()):
        limit = np.abs(table).max() or 1.0
        image = axes.imshow(table, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        figure.colorbar(image, ax=axes, label="value")
        axes.axhline(trained_rows - 0.5, color="black", linewidth=1.2, linestyle="--")
        axes.set(title=name, xlabel="dimension", ylabel=f"position (trained: 0 to {trained_rows - 1})")
    return figure


def plot_attention(records):
    """Attention by block of keys, trained and never trained, a panel a layer and a line an encoding."""
    layers = sorted({record["layer"] for record in records})
    length = records[0]["length"]
    figure = Figure(figsize=(4 * len(layers), 4.2), layout="constrained")
    panels = figure.subplots(1, len(layers), sharey=True)
    for axes, layer in zip(np.atleast_1d(panels), layers):
        for encoding in dict.fromkeys(record["encoding"] for record in records):
            chosen = [record for record in records if (record["layer"], record["encoding"]) == (layer, encoding)]
            if not chosen:  # a model of fewer layers
                continue
            blocks = [f"{record['keys_from']}-{record['keys_to']}" for record in chosen]
            axes.errorbar(range(len(chosen)), [record["score_mean"] for record in chosen],
                          [record["score_sd"] for record in chosen],
                          color=COLOURS[encoding], marker=MARKERS[encoding], capsize=3, label=encoding)
        axes.axvspan(-0.5, 0.5, color=SKY, alpha=0.2, label="trained positions")
        axes.set_xticks(range(len(blocks)), labels=blocks, rotation=30)
        axes.set(title=f"layer {layer}", xlabel="key positions")
        axes.grid(alpha=0.3)
    np.atleast_1d(panels)[0].set_ylabel("attention logit, centred for each query (mean, sd)")
    figure.suptitle(f"Attention logits on sorted sequences of {length} values")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def plot_dissection(records):
    """Accuracy when sequences are moved along, and when positions are stretched over the trained range; a row an
    encoding.

    Args:
        records: those of `measure_dissection`, each with its `encoding`.
    """
    encodings = list(dict.fromkeys(record["encoding"] for record in records))
    figure = Figure(figsize=(11, 3.6 * len(encodings) + 0.4), layout="constrained")
    for (moved, stretched), encoding in zip(figure.subplots(len(encodings), 2, sharey=True, squeeze=False), encodings):
        chosen = [record for record in records if record["encoding"] == encoding]
        short = [record for record in chosen if record["treatment"].startswith("moved")]
        lengths = sorted({record["length"] for record in short})
        for length, look in zip(lengths, LOOKS):
            _draw(moved, [record for record in chosen if record["length"] == length], look, f"{length} values",
                  lambda record: int(record["treatment"].split()[-1]) if record in short else 0)
        long = [record for record in chosen if record["length"] not in lengths]
        for treatment, look in zip(dict.fromkeys(record["treatment"] for record in long), LOOKS):
            _draw(stretched, [record for record in long if record["treatment"] == treatment], look, treatment,
                  lambda record: record["length"])
        moved.set(title=f"{encoding}: sequences moved along", xlabel="moved by (positions)",
                  ylabel="accuracy on swaps (95% interval)", ylim=(0.4, 1.02))
        stretched.set_xscale("log", base=2)
        stretched.set(title=f"{encoding}: positions stretched over the trained range",
                      xlabel="sequence length (values)")
        ticks = sorted({record["length"] for record in long})
        stretched.set_xticks(ticks, labels=map(str, ticks))
        stretched.minorticks_off()
        for axes in (moved, stretched):
            axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
            axes.grid(alpha=0.3)
            if axes.lines[1:]:
                axes.legend(fontsize=8)
    return figure


def _draw(axes, records, look, label, place):
    """A curve of the records' accuracy with its intervals, each record at `place(record)`."""
    points = sorted((place(record), record["right"] / record["n"], *wilson_interval(record["right"], record["n"]))
                    for record in records)
    x, accuracy, low, high = map(np.array, zip(*points))
    axes.errorbar(x, accuracy, [accuracy - low, high - accuracy], color=look[0], marker=look[1], markersize=4,
                  capsize=2, label=label)
