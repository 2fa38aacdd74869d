"""The figure of gaps.jsonl, from its records; nothing here runs a model or touches the disk."""

import math

from matplotlib.figure import Figure

from extrapolation.figures import LOOKS
from extrapolation.gaps import LEVEL, LONGEST_PREDICTED, measured_length, needed
from support.plots import GREY

WORDS = {"plain": "scores as they are", "scaled": "scores times log n", "learned": "scores times s log n + b"}
HELD = "frozen at "  # the same weights as before, with the scale for good what it is at that length


def plot_gaps(records):
    """Where each model fails, predicted from its scores at a trained length against measured; and the gap of each head.

    Args:
        records: one a model: `encoding`, `seed`, `scores`, `longest`, `heads`, `predicted`, `lengths`.
    """
    groups = {}
    for record in records:
        groups.setdefault((record["encoding"], record["scores"]), []).append(record)
    figure = Figure(figsize=(11, 5), layout="constrained")
    lengths, gaps = figure.subplots(1, 2)
    never, beyond = 2 * LONGEST_PREDICTED, 2 * max(record["longest"] for record in records)
    rows = {}
    for number, ((encoding, scores), group) in enumerate(groups.items()):
        colour, mark = LOOKS[number % len(LOOKS)]
        words = WORDS.get(scores) or f"scores scaled as at {scores.removeprefix(HELD)} values"
        # A few percent apart, so that models at one place are seen side by side.
        points = [(record["predicted"] or never,
                   (measured_length(record["lengths"]) or beyond) * 1.06 ** (place - (len(group) - 1) / 2))
                  for place, record in enumerate(group)]
        lengths.plot(*zip(*points), mark, color=colour, alpha=0.7, markersize=5, label=f"{encoding}, {words}")
        if scores.startswith(HELD):
            continue
        row = rows.setdefault(f"{encoding},\n{words}", len(rows))
        for head in (head for record in group for head in record["heads"]):
            gaps.plot(head["gap_percentile"], row, mark, color=colour, alpha=0.6, markersize=5,
                      fillstyle="full" if needed(head) else "none")
    ends = [record["lengths"][0]["length"] for record in records][0], beyond
    lengths.plot(ends, ends, color=GREY, linewidth=0.8, label="predicted = measured")
    lengths.axvline(LONGEST_PREDICTED * 2 ** 0.5, color=GREY, linestyle=":", linewidth=0.8)
    lengths.axhline(beyond / 2 ** 0.5, color=GREY, linestyle=":", linewidth=0.8)
    lengths.set_xscale("log", base=2)
    lengths.set_yscale("log", base=2)
    lengths.set(xlabel=f"predicted (right of the dotted line: nowhere up to {LONGEST_PREDICTED:,})",
                ylabel=f"measured (above the dotted line: nowhere up to {beyond // 2:,})",
                title=f"First length with less than {LEVEL:.0%} on one inversion")
    gaps.axvline(1, color=GREY, linestyle="--", label="beyond it log n keeps far keys down")
    gaps.plot(math.nan, math.nan, "o", color=GREY, fillstyle="none", label="hollow: the answer does not need this head")
    gaps.set_yticks(list(rows.values()), labels=list(rows), fontsize=8)
    gaps.set_ylim(len(rows) - 0.5, -0.5)
    gaps.set(xlabel="1st percentile of the gap, before scaling", title="Gap of each head, a dot a head and seed")
    # Ticks at whole powers of 10, where the gap is their logarithm.
    powers = gaps.twiny()
    powers.set_xlim(gaps.get_xlim())
    exponents = range(math.floor(gaps.get_xlim()[1] / math.log(10)) + 1)
    powers.set_xticks([exponent * math.log(10) for exponent in exponents], labels=[f"$10^{e}$" for e in exponents])
    powers.set_xlabel("$e^{gap}$: so many far keys weigh as much as the best")
    for axes in (lengths, gaps):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure
