"""Intervals, colours, and the figures that both problems draw; nothing here runs a model.

Matplotlib is loaded when the first figure is made, with its own defaults whatever a notebook or
a matplotlibrc says: a command must not fail over its pictures.
"""

import math
import os
import sys

# Okabe & Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PINK, GREY = "#56B4E9", "#CC79A7", "#666666"


def wilson_interval(successes, trials):
    """Wilson's 95% interval `[low, high]` for a proportion (Wilson 1927).

    Unlike the normal interval it is sound near 0 and 1. It always holds successes / trials.
    """
    z = 1.959964
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return [max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))]


def new_figure(width, height, layout="constrained"):
    """An empty matplotlib figure of `width` x `height` inches."""
    if "matplotlib" not in sys.modules:
        os.environ["MPLBACKEND"] = "agg"
        import matplotlib

        matplotlib.rcdefaults()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def plot_training_curves(log, loss, measure, curves, chance=None, title=None, legend="best"):
    """Loss, a measure of accuracy and the learning rate against the epoch.

    Args:
        log: a training log with a record for each of its `epochs`.
        loss, measure: what to set on the axes of these two panels, such as `{"ylabel": ...}`.
        curves: of the measure, `[(split, key, line style, label)]`.
        chance: the measure of guessing, drawn as a line.
        legend: where the legend of the measure stands.
    """
    epochs = [record["epoch"] for record in log["epochs"]]

    def values(split, key):
        return [record[split][key] for record in log["epochs"]]

    figure = new_figure(12, 3.6)
    figure.suptitle(title or "")
    losses, measures, rates = figure.subplots(1, 3)
    losses.plot(epochs, values("train", "loss"), color=BLUE, label="training (running mean)")
    losses.plot(epochs, values("val", "loss"), color=ORANGE, linestyle="--", label="validation")
    losses.set(**loss)
    for (split, key, style, label), colour in zip(curves, (BLUE, ORANGE, GREEN)):
        measures.plot(epochs, values(split, key), color=colour, linestyle=style, label=label)
    if chance is not None:
        measures.axhline(chance, color=GREY, linewidth=0.8, linestyle=":", label="chance")
    measures.set(**measure)
    rates.plot(epochs, values("train", "learning_rate"), color=GREY)
    rates.set(ylim=(0, None), ylabel="learning rate at the epoch's end", title="Learning rate")
    for axes in (losses, measures, rates):
        label = f"best epoch ({log['best_epoch']})" if axes is losses else None
        axes.axvline(log["best_epoch"], color=GREY, linewidth=0.8, linestyle="-.", label=label)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(fontsize=8)
    measures.legend(fontsize=8, loc=legend)
    return figure
