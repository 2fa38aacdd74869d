"""How well a model tells sorted from unsorted: accuracy with its interval, AUC, and the share it calls sorted."""

import math
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from positional_encoding import ENCODINGS

MOST_VALUES = 2048  # of a sequence that a model is asked about


def most_values(model):
    """The longest sequence that a model takes: the rows of the learned positions, else what memory allows."""
    return model.config.max_len if ENCODINGS[model.config.encoding_type].bounded else MOST_VALUES


def wilson_interval(successes, trials, z=1.959964):
    """Wilson's 95% interval `[low, high]` for a proportion (Wilson 1927): sound near 0 and 1, unlike the normal one."""
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def area_under_curve(scores, labels):
    """Probability that a random sorted sequence scores above a random unsorted one, ties counting half (Mann &
    Whitney).

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
    return ((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)).item()


@contextmanager
def evaluating(model):
    """Within the block of code the model is in evaluation mode; then each of its modules is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def logits_of(model, loader):
    """Logits `[N, 2]` and labels `[N]` of every sequence of a loader, on the CPU; the model in evaluation mode."""
    device = next(model.parameters()).device
    logits, labels = [], []
    with evaluating(model):
        for batch in loader:
            mask = None if batch["mask"].all() else batch["mask"].to(device)
            logits.append(model(batch["sequence"].to(device), mask).cpu())
            labels.append(batch["label"])
    return torch.cat(logits), torch.cat(labels)


def summarize(logits, labels):
    """Measures of logits `[N, 2]` against labels `[N]`.

    Returns:
        A dict: `n`, `loss` (mean cross-entropy), `accuracy` with `accuracy_interval` (Wilson, 95%), `auc`, and
        `sorted_share`, the share of sequences called sorted: 0 or 1 for a constant predictor.
    """
    predicted = logits.argmax(dim=1)
    right = int((predicted == labels).sum())
    return {"n": len(labels), "loss": F.cross_entropy(logits, labels).item(), "accuracy": right / len(labels),
            "accuracy_interval": wilson_interval(right, len(labels)),
            "auc": area_under_curve(logits[:, 1] - logits[:, 0], labels),
            "sorted_share": (predicted == 1).double().mean().item()}


def evaluate(model, loader):
    """`summarize` of a model on every sequence of a loader."""
    return summarize(*logits_of(model, loader))
