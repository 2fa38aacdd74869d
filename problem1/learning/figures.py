"""Training curves and sizes of numbers, from records; nothing here runs a model or touches the disk."""

from matplotlib import colormaps
from matplotlib.figure import Figure

from support.plots import BLUE, GREEN, GREY, ORANGE, SKY


def plot_training_curves(log):
    """Loss, exact match and learning rate against the epoch, from a training log."""
    epochs = [record["epoch"] for record in log["epochs"]]

    def curve(split, key):
        return [record[split][key] for record in log["epochs"]]

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, match, rate = figure.subplots(1, 3)
    loss.plot(epochs, curve("train", "loss"), color=BLUE, label="training (running mean)")
    loss.plot(epochs, curve("val", "loss"), color=ORANGE, linestyle="--", label="validation")
    loss.set(yscale="log", ylabel="cross-entropy a token (nats)", title="Loss, teacher forcing")
    match.plot(epochs, curve("train", "teacher_forced_exact_match"), color=BLUE,
               label="training (teacher forcing, running mean)")
    match.plot(epochs, curve("val", "exact_match"), color=ORANGE, linestyle="--", label="validation (free-running)")
    match.plot(epochs, curve("val", "token_accuracy"), color=GREEN, linestyle=":",
               label="validation, tokens (free-running)")
    match.set(ylim=(-0.02, 1.02), ylabel="share right", title="Exact match")
    rate.plot(epochs, curve("train", "learning_rate"), color=GREY)
    rate.set(ylim=(0, None), ylabel="learning rate at the epoch's end", title="Learning rate")
    for axes in (loss, match, rate):
        axes.set_xlabel("epoch")
        axes.axvline(log["best_epoch"], color=GREY, linewidth=0.8, linestyle="-.",
                     label=f"best epoch ({log['best_epoch']})" if axes is loss else None)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(fontsize=8)
    match.legend(fontsize=8, loc="lower right")
    return figure


def plot_sizes(records):
    """Share right against the length of the longest carry chain: a panel an order of writing, a line a size of numbers.

    Args:
        records: those of sizes.py. A line is the mean over the seeds, a dot one seed.
    """
    orders = list(dict.fromkeys(record["order"] for record in records))
    sizes = sorted({record["digits"] for record in records})
    figure = Figure(figsize=(4.6 * len(orders) + 1.2, 4), layout="constrained")
    panels = figure.subplots(1, len(orders), sharex=True, sharey=True, squeeze=False)[0]
    for axes, order in zip(panels, orders):
        for number, digits in enumerate(sizes):
            runs = [record for record in records if (record["order"], record["digits"]) == (order, digits)]
            if runs:
                shares = [[record["right"][f"chain {length}"] / record["n"] for record in runs]
                          for length in range(digits + 1)]
                colour = colormaps["viridis"](0.9 * number / max(1, len(sizes) - 1))
                axes.plot([sum(values) / len(values) for values in shares], color=colour, label=f"{digits}",
                          linewidth=1.2 + 0.9 * (len(sizes) - 1 - number))  # none hides one that it covers
                # Sizes side by side, so that no dot hides another's.
                dots = [(length + 0.07 * (number - (len(sizes) - 1) / 2), value)
                        for length, values in enumerate(shares) for value in values]
                axes.plot(*zip(*dots), "osD^vPX*"[number % 8], color=colour, markersize=4, alpha=0.8)
        axes.set(title=f"answer written {order}", xlabel="columns of the longest carry chain", ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("share right (line: mean; a dot: one seed)")
    handles = dict(zip(*reversed(panels[-1].get_legend_handles_labels())))
    figure.legend(handles.values(), handles.keys(), title="digits", loc="outside right upper")
    return figure


def plot_lengths(records):
    """Share right against the number of digits, on random problems and the two extreme classes; a dot a seed.

    Args:
        records: those of lengths.py.
    """
    kinds = list(dict.fromkeys(record["positions"] for record in records))
    names = list(records[0]["right"][0]["right"])
    figure = Figure(figsize=(3.6 * len(names) + 1.4, 3.8), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True)
    for axes, name in zip(panels, names):
        axes.axvspan(1, max(records[0]["trained_digits"]), color=SKY, alpha=0.2, label="trained")
        for positions, colour, marker, width in zip(kinds, (BLUE, ORANGE, GREEN), "osD", (1.2, 4.5, 1.2)):
            curves = [[(test["digits"], test["right"][name] / record["n"]) for test in record["right"]]
                      for record in records if record["positions"] == positions]
            for curve in curves:
                axes.plot(*zip(*curve), marker, color=colour, markersize=4, alpha=0.5)
            digits = [x for x, _ in curves[0]]
            axes.plot(digits, [sum(share) / len(share) for share in zip(*([y for _, y in curve] for curve in curves))],
                      color=colour, linewidth=width, label=f"{positions} (seeds: {len(curves)}; line: mean)")
        axes.set(title=name, xlabel="digits of each number", ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share right (a dot: one seed)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure
