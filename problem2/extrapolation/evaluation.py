"""How well a model tells sorted from unsorted: accuracy with its interval, AUC, sorted share."""

from support.plots import wilson_interval

import torch
from torch.nn import functional as F

from model import evaluating


def area_under_curve(scores, labels):
    """Probability that a random sorted sequence scores above a random unsorted one.

    Ties count half (Mann & Whitney 1947).

    Args:
        scores: `[N]`, higher for sorted.
        labels: `[N]`, 1 sorted, 0 unsorted.

    Returns:
        A float; None if one of the classes is missing.
    """
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # ties share the mean of their ranks
    wins = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return (wins / (positives * negatives)).item()


def summarize(logits, labels):
    """Measures of logits `[N, 2]` against labels `[N]`.

    Returns:
        A dict: `n`, `loss` (mean cross-entropy), `accuracy` with `accuracy_interval` (Wilson, 95%),
        `auc`, and `sorted_share`, the share called sorted: 0 or 1 for a constant answer.
    """
    predicted = logits.argmax(dim=1)
    right = int((predicted == labels).sum())
    return {
        "n": len(labels),
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": right / len(labels),
        "accuracy_interval": wilson_interval(right, len(labels)),
        "auc": area_under_curve(logits[:, 1] - logits[:, 0], labels),
        "sorted_share": (predicted == 1).double().mean().item(),
    }


@torch.no_grad()
def evaluate(model, loader):
    """`summarize` of a model, in evaluation mode, on every sequence of a loader."""
    device = next(model.parameters()).device
    logits, labels = [], []
    with evaluating(model):
        for batch in loader:
            mask = None if batch["mask"].all() else batch["mask"].to(device)
            logits.append(model(batch["sequence"].to(device), mask).cpu())
            labels.append(batch["label"])
    return summarize(torch.cat(logits), torch.cat(labels))
