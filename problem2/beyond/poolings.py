"""Poolings beyond the mean. A sequence without any real value gives zeros in each.

Shapes in comments: B batch, L length.
"""

import math

import torch
from torch import nn

from model import MeanPooling


class MaxPooling(MeanPooling):
    """The largest value of each feature; one position alone can set it at any length."""

    def forward(self, h, classifier, mask=None):
        if mask is None:
            return h.amax(dim=1)
        masked = ~mask.unsqueeze(-1)  # [B, L, 1]
        return h.masked_fill(masked, -math.inf).amax(dim=1).masked_fill(masked.all(dim=1), 0.0)


class LowestPooling(MeanPooling):
    """The output at the one position that the classifier finds least sorted.

    A sequence is sorted if every place in it is: its margin (logit of class 1 minus logit of
    class 0) is the lowest of the margins of all positions.
    """

    def forward(self, h, classifier, mask=None):
        logits = classifier(h)  # [B, L, 2]
        margin = logits[..., 1] - logits[..., 0]
        if mask is not None:
            margin = margin.masked_fill(~mask, math.inf)
        place = margin.argmin(dim=1)[:, None, None].expand(-1, 1, h.size(2))  # [B, 1, d_model]
        lowest = h.gather(1, place).squeeze(1)
        return lowest if mask is None else lowest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


class AttentionPooling(MeanPooling):
    """A mean weighted by the softmax of a learned linear score.

    Lin et al. 2017 (arXiv:1703.03130, one hop). The scores start from 0, as the plain mean. If
    `scaled`, they are multiplied by the logarithm of the number of real positions.
    """

    def __init__(self, d_model, scaled=False):
        super().__init__(d_model)
        self.scaled = scaled
        self.query = nn.Parameter(torch.zeros(d_model))

    def forward(self, h, classifier, mask=None):
        scores = h @ self.query  # [B, L]
        if self.scaled:
            real = torch.tensor(h.size(1)) if mask is None else mask.sum(dim=1, keepdim=True)
            scores = scores * real.clamp(min=1).to(h).log()
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(h.dtype).min)
        weights = scores.softmax(dim=1)
        if mask is not None:
            weights = weights.masked_fill(~mask, 0.0)
        return (weights.unsqueeze(-1) * h).sum(dim=1)


def neighbour_differences(h, mask):
    """Each output minus the one before it, `[B, L - 1, d_model]`, and which are of real positions.

    The second is None, or bools `[B, L - 1, 1]`.
    """
    between = None if mask is None else (mask[:, 1:] & mask[:, :-1]).unsqueeze(-1)
    return h[:, 1:] - h[:, :-1], between


def lowest_of(values, real):
    """The minimum of `values [B, L, d_model]` where `real [B, L, 1]`; zeros where nothing is."""
    if values.size(1) == 0:
        return values.sum(dim=1)
    if real is None:
        return values.amin(dim=1)
    lowest = values.masked_fill(~real, math.inf).amin(dim=1)
    return lowest.masked_fill(~real.any(dim=1), 0.0)


class DifferencesPooling(MeanPooling):
    """The smallest difference between neighbouring outputs, in each feature.

    If a feature rises with the value, it is below zero where a value is below the one before it.
    Order enters here even without positions. A single value gives zeros.
    """

    def forward(self, h, classifier, mask=None):
        return lowest_of(*neighbour_differences(h, mask))


class FiveFeaturesPooling(MeanPooling):
    """A linear map of five vectors side by side, each zero where it is not defined.

    They are the minimum of the outputs, minimum and mean of their differences, the first and the
    last output; the real positions stand first.
    """

    def __init__(self, d_model):
        super().__init__(d_model)
        self.linear = nn.Linear(5 * d_model, d_model, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, h, classifier, mask=None):
        if mask is None:
            mask = h.new_ones(h.shape[:2], dtype=torch.bool)
        real, (differences, between) = mask.unsqueeze(-1), neighbour_differences(h, mask)
        count = mask.sum(dim=1, keepdim=True)  # [B, 1]
        end = (count - 1).clamp(min=0).unsqueeze(-1).expand(-1, 1, h.size(2))  # [B, 1, d_model]
        first, last = h[:, 0] * real[:, 0], h.gather(1, end).squeeze(1) * real[:, 0]
        five = [
            lowest_of(h, real),
            lowest_of(differences, between),
            (last - first) / (count - 1).clamp(min=1),  # the mean of the differences
            first,
            last,
        ]
        return self.linear(torch.cat(five, dim=1))
