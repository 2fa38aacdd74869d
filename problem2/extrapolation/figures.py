"""Figures of the analysis, from its records; nothing here runs a model or touches the disk."""

from itertools import cycle

from support.plots import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, new_figure, wilson_interval

import numpy as np

# Colour and marker of each model, then of the others; markers tell curves apart in grey.
MODEL_LOOKS = {
    "sinusoidal": (BLUE, "o"),
    "learned": (RED, "s"),
    "none": (GREY, "^"),
    "recommended": (GREEN, "D"),
}
OTHER_COLOURS, OTHER_MARKERS = (PINK, ORANGE, SKY, "#000000", "#F0E442"), "vP*X"
# Colour and marker of curves that stand for something else than a model.
LOOKS = [(BLUE, "o"), (RED, "s"), (GREEN, "^"), (ORANGE, "D"), (GREY, "v"), (SKY, "P")]
WIDTHS = {"sinusoidal": 4.5}  # so that it is seen under a curve that covers it


def distinct(records, key):
    """The values of `key` in the records, each once, in their order."""
    return list(dict.fromkeys(record[key] for record in records))


def log_lengths(axes, lengths):
    """Make the x axis logarithmic, with these lengths as ticks."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, labels=map(str, lengths))
    axes.minorticks_off()


def plot_extrapolation(records, trained_lengths):
    """Accuracy with 95% bands against length: a curve for each model, a panel for each negatives.

    Args:
        records: those of `measure_group` for all models. The gap control is drawn, hollow, at the
            length that it is a control of.
        trained_lengths: the shortest and the longest training sequence.
    """
    kinds = distinct(records, "negatives")
    others = zip(cycle(OTHER_COLOURS), cycle(OTHER_MARKERS))
    names = distinct(records, "encoding")
    looks = {name: MODEL_LOOKS.get(name) or next(others) for name in names}
    lengths = sorted({record["length"] for record in records if record["set"] == "length"})
    figure = new_figure(9, 7)
    figure.suptitle(f"Trained to {trained_lengths[1]} values: which encoding holds beyond?")
    # Two large panels above three small ones.
    mosaic = [np.repeat(kinds[:2], 3).tolist(), np.repeat(kinds[2:], 2).tolist()]
    panels = figure.subplot_mosaic(mosaic, height_ratios=[1.6, 1], sharey=True)
    for kind, axes in panels.items():
        axes.axvspan(*trained_lengths, color=SKY, alpha=0.2, label="trained lengths")
        axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":", label="chance")
        for name, (colour, marker) in looks.items():
            solid = {"linewidth": WIDTHS.get(name, 1.5), "label": name}
            hollow = {"linestyle": "--", "linewidth": 1, "markerfacecolor": "white"}
            for group, x, style in [
                ("length", "length", solid),
                ("gap control", "gap_source", hollow),
            ]:
                wanted = group, name, kind
                chosen = [r for r in records if (r["set"], r["encoding"], r["negatives"]) == wanted]
                points = sorted((r[x], r["accuracy"], *r["accuracy_interval"]) for r in chosen)
                if points:
                    x_values, accuracy, low, high = zip(*points)
                    style = {"color": colour, "marker": marker, "markersize": 5, **style}
                    axes.plot(x_values, accuracy, **style)
                    axes.fill_between(x_values, low, high, color=colour, alpha=0.15, linewidth=0)
        log_lengths(axes, lengths)
        title = "swaps (the course's)" if kind == "swap" else kind.replace("_", " ")
        axes.set(title=title, xlabel="sequence length (values)", ylim=(0.4, 1.02))
        axes.grid(alpha=0.3)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("accuracy (band: 95% interval)")
    label = "hollow: 16 values with the gaps of that length"
    axes.plot([], [], color="black", marker="o", label=label, **hollow)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def draw_heatmap(axes, table, limit, label, aspect="auto"):
    """A table as colours from -limit to limit, with their scale."""
    style = {"aspect": aspect, "cmap": "RdBu_r", "interpolation": "nearest"}
    image = axes.imshow(table, vmin=-limit, vmax=limit, **style)
    axes.figure.colorbar(image, ax=axes, label=label)


def plot_position_embeddings(learned, initial, trained_rows):
    """The learned table; the norm of each row and how far training moved it; cosine similarities.

    Args:
        learned: the table, numpy `[rows, d_model]`.
        initial: the table before training, likewise.
        trained_rows: how many of the first rows training sequences reached.
    """
    border, line = trained_rows - 0.5, {"color": "black", "linewidth": 1.2, "linestyle": "--"}
    figure = new_figure(11, 3.5)
    heatmap, norms, cosine = figure.subplots(1, 3)
    draw_heatmap(heatmap, learned, np.abs(learned).max(), "value")
    heatmap.axhline(border, **line)
    title = f"Rows (trained: 0 to {trained_rows - 1})"
    heatmap.set(title=title, xlabel="dimension", ylabel="position")

    norm, moved = np.linalg.norm(learned, axis=1), np.linalg.norm(learned - initial, axis=1)
    for values, colour, marker, size, label in [
        (norm, RED, ".", 4, "norm of the row"),
        (moved, BLUE, "s", 3, "distance from its first value"),
    ]:
        style = {"color": colour, "marker": marker, "markersize": size, "linewidth": 0.8}
        norms.plot(np.arange(len(values)), values, label=label, **style)
    norms.axvspan(-0.5, border, color=SKY, alpha=0.2, label="trained rows")
    norms.set(title="What training did to each row", xlabel="position", ylabel="Euclidean norm")
    norms.set_ylim(-0.2, None)
    norms.grid(alpha=0.3)
    norms.legend(loc="center right", fontsize=8)

    unit = learned / norm[:, None]
    draw_heatmap(cosine, unit @ unit.T, 1, "cosine similarity", aspect="equal")
    cosine.axhline(border, **line)
    cosine.axvline(border, **line)
    cosine.set(title="Similarity between rows", xlabel="position", ylabel="position")
    return figure


def plot_encodings(tables, trained_rows):
    """What each encoding adds to the input, side by side.

    Args:
        tables: `{name: numpy [rows, d_model]}`.
        trained_rows: how many of the first positions training sequences reached.
    """
    figure = new_figure(3.7 * len(tables), 3.5)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    ylabel = f"position (trained: 0 to {trained_rows - 1})"
    for axes, (name, table) in zip(panels, tables.items()):
        draw_heatmap(axes, table, np.abs(table).max() or 1.0, "value")
        axes.axhline(trained_rows - 0.5, color="black", linewidth=1.2, linestyle="--")
        axes.set(title=name, xlabel="dimension", ylabel=ylabel)
    return figure


def plot_attention(records):
    """Scores by block of keys, trained and never trained: a panel a layer, a line an encoding."""
    layers = sorted(distinct(records, "layer"))
    figure = new_figure(4 * len(layers), 4.2)
    panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for axes, layer in zip(panels, layers):
        of_layer = [record for record in records if record["layer"] == layer]
        for name in distinct(of_layer, "encoding"):
            blocks = [record for record in of_layer if record["encoding"] == name]
            means, spreads = zip(*((block["score_mean"], block["score_sd"]) for block in blocks))
            style = dict(zip(("color", "marker"), MODEL_LOOKS[name]))
            axes.errorbar(range(len(blocks)), means, spreads, capsize=3, label=name, **style)
        axes.axvspan(-0.5, 0.5, color=SKY, alpha=0.2, label="trained positions")
        labels = [f"{block['keys_from']}-{block['keys_to']}" for block in blocks]
        axes.set_xticks(range(len(blocks)), labels=labels, rotation=30)
        axes.set(title=f"layer {layer}", xlabel="key positions")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("attention logit, centred for each query (mean, sd)")
    figure.suptitle(f"Attention logits on sorted sequences of {records[0]['length']} values")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def plot_dissection(records):
    """Accuracy of sequences moved along, and of positions stretched over the trained range.

    Args:
        records: those of `measure_dissection`, each with its `encoding`; a row for each encoding.
    """
    names = distinct(records, "encoding")
    figure = new_figure(11, 3.6 * len(names) + 0.4)
    panels = figure.subplots(len(names), 2, sharey=True, squeeze=False)
    for (moved, stretched), name in zip(panels, names):
        # Trained lengths are moved, longer ones are stretched.
        chosen = [record for record in records if record["encoding"] == name]
        lengths = {r["length"] for r in chosen if r["treatment"].startswith("moved")}
        short = [record for record in chosen if record["length"] in lengths]
        long = [record for record in chosen if record["length"] not in lengths]
        for length, look in zip(sorted(lengths), LOOKS):
            curve = [record for record in short if record["length"] == length]
            shifts = [
                int(r["treatment"].removeprefix("moved by ").replace("original", "0"))
                for r in curve
            ]
            draw_counts(moved, shifts, curve, look, f"{length} values")
        for treatment, look in zip(distinct(long, "treatment"), LOOKS):
            curve = [record for record in long if record["treatment"] == treatment]
            draw_counts(stretched, [r["length"] for r in curve], curve, look, treatment)
        title = f"{name}: sequences moved along"
        ylabel = "accuracy on swaps (95% interval)"
        moved.set(title=title, xlabel="moved by (positions)", ylabel=ylabel, ylim=(0.4, 1.02))
        title = f"{name}: positions stretched over the trained range"
        stretched.set(title=title, xlabel="sequence length (values)")
        log_lengths(stretched, sorted(distinct(long, "length")))
        for axes in (moved, stretched):
            axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
            axes.grid(alpha=0.3)
            if axes.lines[1:]:
                axes.legend(fontsize=8)
    return figure


def draw_counts(axes, x, records, look, label):
    """A curve of the share `right` of `n`, with its intervals, at the places `x`."""
    points = sorted(
        (place, record["right"] / record["n"], *wilson_interval(record["right"], record["n"]))
        for place, record in zip(x, records)
    )
    x, share, low, high = map(np.array, zip(*points))
    style = {"color": look[0], "marker": look[1], "markersize": 4, "capsize": 2}
    axes.errorbar(x, share, [share - low, high - share], label=label, **style)
