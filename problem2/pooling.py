"""Pooling: from the encoder's output at every position to one vector a sequence. Shapes in comments: B batch, L length."""

import math

import torch
from torch import nn


class MeanPooling(nn.Module):
    """The mean over the real positions. What one position alone shows counts 1 / L (Chiang & Cholak 2022, arXiv:2202.12172).

    A sequence without any real value is pooled to zeros, here and in the other poolings.
    """

    def __init__(self, d_model):
        super().__init__()

    def forward(self, h, classifier, mask=None):
        """Pool `h [B, L, d_model]`, which `classifier` will see, under mask `[B, L]` (True = real; None = all are): `[B, d_model]`."""
        if mask is None:
            return h.mean(dim=1)
        real = mask.to(h.dtype).unsqueeze(-1)
        return (h * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


class MaxPooling(MeanPooling):
    """The largest value of each feature over the real positions, which one position alone can set at any length."""

    def forward(self, h, classifier, mask=None):
        if mask is None:
            return h.amax(dim=1)
        masked = ~mask.unsqueeze(-1)
        return h.masked_fill(masked, -math.inf).amax(dim=1).masked_fill(masked.all(dim=1), 0.0)


class LowestPooling(MeanPooling):
    """The output at the one real position that the classifier finds least sorted: a sequence is sorted if every place in it is.

    Its margin (logit of class 1 minus logit of class 0) is then the lowest of the margins of all positions.
    """

    def forward(self, h, classifier, mask=None):
        logits = classifier(h)
        margin = logits[..., 1] - logits[..., 0]
        if mask is not None:
            margin = margin.masked_fill(~mask, math.inf)
        place = margin.argmin(dim=1)[:, None, None].expand(-1, 1, h.size(2))
        lowest = h.gather(1, place).squeeze(1)
        return lowest if mask is None else lowest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


class AttentionPooling(MeanPooling):
    """A mean weighted by the softmax, over the real positions, of a learned linear score (Lin et al. 2017, arXiv:1703.03130, one hop).

    The scores start from 0: as the plain mean.
    """

    def __init__(self, d_model):
        super().__init__(d_model)
        self.query = nn.Parameter(torch.zeros(d_model))

    def forward(self, h, classifier, mask=None):
        scores = h @ self.query
        if mask is None:
            weights = scores.softmax(dim=1)
        else:
            weights = scores.masked_fill(~mask, torch.finfo(h.dtype).min).softmax(dim=1).masked_fill(~mask, 0.0)
        return (weights.unsqueeze(-1) * h).sum(dim=1)


POOLINGS = {"mean": MeanPooling, "max": MaxPooling, "lowest": LowestPooling, "attention": AttentionPooling}
