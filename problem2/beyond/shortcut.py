"""The shortcut: telling sorted from unsorted by how the values rise with the position as a whole, without comparing
neighbours.

Shapes in comments: N sequences, L length.
"""

import torch
from torch.nn import functional as F

from extrapolation.analysis import classify


def features(sequences):
    """The least-squares line of value against position of each of `sequences [N, L]`: `[N, 4]`.

    In columns: slope times length, standard deviation of the residuals, correlation, and 1 / length.
    """
    values = sequences.double()
    length = values.size(1)
    positions = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    centred = values - values.mean(dim=1, keepdim=True)
    slope = centred @ positions / positions.square().sum().clamp(min=1)
    residual = (centred - slope.unsqueeze(1) * positions).square().mean(dim=1).sqrt()
    spread = centred.square().mean(dim=1).sqrt()
    correlation = slope * positions.square().mean().sqrt() / spread.clamp(min=1e-9)
    return torch.stack([slope * length, residual, correlation, torch.full_like(slope, 1 / length)], dim=1)


class TrendModel:
    """Logistic regression on `features` and their products: the explicit shortcut, fitted to the training sequences.

    Args:
        batches: pairs of sequences `[N, L]` and labels `[N]`, each of one length.
    """

    def __init__(self, batches):
        inputs = torch.cat([features(sequences) for sequences, _ in batches])
        labels = torch.cat([labels for _, labels in batches]).double()
        self.mean, self.std = inputs.mean(dim=0), inputs.std(dim=0).clamp(min=1e-9)
        self.weights = torch.zeros(self.expand(inputs).size(1), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weights], max_iter=500, line_search_fn="strong_wolfe")
        expanded = self.expand(inputs)

        def closure():
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(expanded @ self.weights,
                                                      labels) + 1e-6 * self.weights.square().sum()
            loss.backward()
            return loss
        optimizer.step(closure)
        self.weights = self.weights.detach()

    def expand(self, inputs):
        """1, the standardised features, and all products of two of them: `[N, 15]`."""
        x = torch.cat([torch.ones(len(inputs), 1, dtype=torch.float64), (inputs - self.mean) / self.std], dim=1)
        rows, columns = torch.triu_indices(x.size(1), x.size(1))
        return x[:, rows] * x[:, columns]

    def margins(self, sequences):
        """Logit of "sorted" for sequences `[N, L]`: `[N]`."""
        return self.expand(features(sequences)) @ self.weights


def measure_shortcut(model, trend, batches):
    """How much of a model's answers the trend explains.

    Args:
        model: the classifier.
        trend: a fitted `TrendModel`.
        batches: pairs of sequences `[N, L]` and labels `[N]`, each of one length.

    Returns:
        A dict: accuracies of both, `agreement` of their answers, `kappa` (Cohen 1960: agreement beyond chance), the
        model's accuracy where the trend is right and where it is wrong, and `margin_correlation` between their margins.
    """
    logits = torch.cat([classify(model, sequences) for sequences, _ in batches])
    margin, trend_margin = (logits[:, 1] - logits[:, 0]).double(), torch.cat([trend.margins(sequences)
                                                                              for sequences, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    answer, trend_answer = (margin > 0).long(), (trend_margin > 0).long()
    right, trend_right = answer == labels, trend_answer == labels
    agreement = (answer == trend_answer).double().mean().item()
    shares = answer.double().mean().item(), trend_answer.double().mean().item()
    chance = shares[0] * shares[1] + (1 - shares[0]) * (1 - shares[1])
    return {"n": len(labels), "accuracy": right.double().mean().item(),
            "trend_accuracy": trend_right.double().mean().item(),
            "agreement": agreement, "kappa": (agreement - chance) / (1 - chance) if chance < 1 else None,
            "accuracy_where_trend_is_right": right[trend_right].double().mean().item(),
            "accuracy_where_trend_is_wrong": right[~trend_right].double().mean().item(),
            "trend_wrong": int((~trend_right).sum()),
            "margin_correlation": torch.corrcoef(torch.stack([margin, trend_margin]))[0, 1].item()}
