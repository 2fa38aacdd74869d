"""The training curves, from a training log; nothing here runs a model or touches the disk."""

from matplotlib.figure import Figure

from support.plots import BLUE, GREY, ORANGE


def plot_training_curves(log):
    """Loss, accuracy and learning rate against the epoch, from a training log."""
    epochs = [record["epoch"] for record in log["epochs"]]

    def curve(split, key):
        return [record[split][key] for record in log["epochs"]]

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(f"encoding: {log['model']['encoding_type']}")
    loss, accuracy, rate = figure.subplots(1, 3)
    loss.plot(epochs, curve("train", "loss"), color=BLUE, label="training (running mean)")
    loss.plot(epochs, curve("val", "loss"), color=ORANGE, linestyle="--", label="validation")
    loss.set(ylim=(0, None), ylabel="cross-entropy (nats)", title="Loss")
    accuracy.plot(epochs, curve("train", "accuracy"), color=BLUE, label="training (running mean)")
    accuracy.plot(epochs, curve("val", "accuracy"), color=ORANGE, linestyle="--", label="validation")
    accuracy.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":", label="chance")
    accuracy.set(ylim=(0.4, 1.02), ylabel="share right", title="Accuracy")
    rate.plot(epochs, curve("train", "learning_rate"), color=GREY)
    rate.set(ylim=(0, None), ylabel="learning rate at the epoch's end", title="Learning rate")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.axvline(log["best_epoch"], color=GREY, linewidth=0.8, linestyle="-.",
                     label=f"best epoch ({log['best_epoch']})" if axes is loss else None)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(fontsize=8)
    accuracy.legend(fontsize=8)
    return figure
