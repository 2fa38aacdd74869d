"""The training curves, from a training log; nothing here runs a model or touches the disk."""

from matplotlib.figure import Figure

from support.plots import BLUE, GREEN, GREY, ORANGE


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
