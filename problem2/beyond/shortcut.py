"""The shortcut: sorted or not by how the values rise as a whole, without comparing neighbours.

Shapes in comments: N sequences, L length.
"""

import torch
from torch.nn import functional as F

from extrapolation.analysis import classify


def features(sequences):
    """The least-squares line of value against position of each of `sequences [N, L]`: `[N, 4]`.

    In columns: slope times length, standard deviation of the residuals, correlation, 1 / length.
    """
    values = sequences.double()
    length = values.size(1)
    positions = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    centred = values - values.mean(dim=1, keepdim=True)
    slope = centred @ positions / positions.square().sum().clamp(min=1)
    residual = (centred - slope.unsqueeze(1) * positions).square().mean(dim=1).sqrt()
    spread = centred.square().mean(dim=1).sqrt()
    correlation = slope * positions.square().mean().sqrt() / spread.clamp(min=1e-9)
    columns = [slope * length, residual, correlation, torch.full_like(slope, 1 / length)]
    return torch.stack(columns, dim=1)


class TrendModel:
    """The explicit shortcut: logistic regression on `features` and their products.

    Args:
        batches: pairs of training sequences `[N, L]` and labels `[N]`, each of one length.
    """

    def __init__(self, batches):
        inputs = torch.cat([features(sequences) for sequences, _ in batches])
        labels = torch.cat([labels for _, labels in batches]).double()
        self.mean, self.std = inputs.mean(dim=0), inputs.std(dim=0).clamp(min=1e-9)
        expanded = self.expand(inputs)
        weights = torch.zeros(expanded.size(1), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=500, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(expanded @ weights, labels)
            loss = loss + 1e-6 * weights.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        self.weights = weights.detach()

    def expand(self, inputs):
        """1, the standardised features, and all products of two of them: `[N, 15]`."""
        ones = torch.ones(len(inputs), 1, dtype=torch.float64)
        x = torch.cat([ones, (inputs - self.mean) / self.std], dim=1)
        rows, columns = torch.triu_indices(x.size(1), x.size(1))
        return x[:, rows] * x[:, columns]

    def margins(self, sequences):
        """The logit of "sorted" for sequences `[N, L]`: `[N]`."""
        return self.expand(features(sequences)) @ self.weights


def measure_shortcut(model, trend, batches):
    """How many of a model's answers the trend explains.

    Args:
        model: the classifier.
        trend: a fitted `TrendModel`.
        batches: pairs of sequences `[N, L]` and labels `[N]`, each of one length.

    Returns:
        A dict: how many of `n` answers are `right`; how often the trend is wrong, and how many
        answers are right there; how many `agree` with the trend's; `kappa` (Cohen 1960: agreement
        beyond chance); `margin_correlation` between the margins of both.
    """
    logits = torch.cat([classify(model, sequences) for sequences, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    margin = (logits[:, 1] - logits[:, 0]).double()
    trend_margin = torch.cat([trend.margins(sequences) for sequences, _ in batches])
    answer, trend_answer = (margin > 0).long(), (trend_margin > 0).long()
    right, trend_wrong = answer == labels, trend_answer != labels
    agreement = (answer == trend_answer).double().mean().item()
    share, trend_share = answer.double().mean().item(), trend_answer.double().mean().item()
    chance = share * trend_share + (1 - share) * (1 - trend_share)
    return {
        "n": len(labels),
        "right": int(right.sum()),
        "trend_wrong": int(trend_wrong.sum()),
        "right_where_trend_is_wrong": int(right[trend_wrong].sum()),
        "agree": int((answer == trend_answer).sum()),
        "kappa": (agreement - chance) / (1 - chance) if chance < 1 else None,
        "margin_correlation": torch.corrcoef(torch.stack([margin, trend_margin]))[0, 1].item(),
    }
