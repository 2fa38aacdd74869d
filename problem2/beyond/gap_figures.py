"""The figure of gaps.jsonl, from its records; nothing here runs a model or touches the disk."""

import math

from support.plots import GREY, new_figure

from beyond.gap_measures import LEVEL, LONGEST_PREDICTED, measured_length, needed
from extrapolation.figures import LOOKS

WORDS = {
    "plain": "scores as they are",
    "scaled": "scores times log n",
    "learned": "scores times s log n + b",
}
FROZEN = "frozen at "  # the same weights with the scale fixed at that length


def plot_gaps(records):
    """Where each model fails, predicted against measured; and the score gap of each head.

    Args:
        records: a line of gaps.jsonl each.
    """
    groups = {}
    for record in records:
        groups.setdefault((record["encoding"], record["scores"]), []).append(record)
    figure = new_figure(11, 5)
    lengths, gaps = figure.subplots(1, 2)
    never, beyond = 2 * LONGEST_PREDICTED, 2 * max(record["longest"] for record in records)
    rows = {}
    for number, ((encoding, scores), group) in enumerate(groups.items()):
        colour, mark = LOOKS[number % len(LOOKS)]
        words = WORDS.get(scores) or f"scores scaled as at {scores.removeprefix(FROZEN)} values"
        style = {"color": colour, "markersize": 5}
        points = []
        for place, record in enumerate(group):
            # A few percent apart, so that models at one place are seen side by side.
            apart = 1.06 ** (place - (len(group) - 1) / 2)
            measured = measured_length(record["lengths"]) or beyond
            points.append((record["predicted"] or never, measured * apart))
        lengths.plot(*zip(*points), mark, **style, alpha=0.7, label=f"{encoding}, {words}")
        if scores.startswith(FROZEN):
            continue
        row = rows.setdefault(f"{encoding},\n{words}", len(rows))
        for record in group:
            for head in record["heads"]:
                fill = "full" if needed(head) else "none"
                gaps.plot(head["gap_percentile"], row, mark, **style, alpha=0.6, fillstyle=fill)

    ends = records[0]["lengths"][0]["length"], beyond
    lengths.plot(ends, ends, color=GREY, linewidth=0.8, label="predicted = measured")
    lengths.axvline(LONGEST_PREDICTED * 2**0.5, color=GREY, linestyle=":", linewidth=0.8)
    lengths.axhline(beyond / 2**0.5, color=GREY, linestyle=":", linewidth=0.8)
    lengths.set_xscale("log", base=2)
    lengths.set_yscale("log", base=2)
    lengths.set(
        xlabel=f"predicted (right of the dotted line: nowhere up to {LONGEST_PREDICTED:,})",
        ylabel=f"measured (above the dotted line: nowhere up to {beyond // 2:,})",
        title=f"First length with less than {LEVEL:.0%} on one inversion",
    )

    gaps.axvline(1, color=GREY, linestyle="--", label="beyond it log n keeps far keys down")
    label = "hollow: the answer does not need this head"
    gaps.plot(math.nan, math.nan, "o", color=GREY, fillstyle="none", label=label)
    gaps.set_yticks(list(rows.values()), labels=list(rows), fontsize=8)
    gaps.set_ylim(len(rows) - 0.5, -0.5)
    gaps.set_xlabel("1st percentile of the gap, before scaling")
    gaps.set_title("Gap of each head, a dot a head and seed")
    # A second axis: ticks at whole powers of 10 of the number whose logarithm the gap is.
    powers = gaps.twiny()
    powers.set_xlim(gaps.get_xlim())
    exponents = range(math.floor(gaps.get_xlim()[1] / math.log(10)) + 1)
    ticks = [exponent * math.log(10) for exponent in exponents]
    powers.set_xticks(ticks, labels=[f"$10^{exponent}$" for exponent in exponents])
    powers.set_xlabel("$e^{gap}$: so many far keys weigh as much as the best")
    for axes in (lengths, gaps):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure
