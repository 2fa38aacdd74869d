"""Exact margins of very long sequences, from how often each value stands before and after a position.

In a model of one layer, what a key contributes depends on its value and on its offset, and beyond the reach of
`RelativeBias` or `LocalBias` on the side alone. So all far keys of one value and one side count as one key whose score
is higher by the logarithm of their number, and a query has 2 reach + 1 near keys and at most 2 x 100 far ones, however
long the sequence is: the cost grows with n and not with its square.
A margin is the logit of "sorted" minus the logit of "unsorted".
Shapes in comments: C positions of a chunk, H heads, D width of one head, K = 2 reach + 1 near keys, V values.
"""

import copy
import math

import torch
from torch.nn import functional as F

from dataset import LARGEST_VALUE

VALUES = LARGEST_VALUE + 1
POSITIONS_AT_ONCE = 1024
ENCODINGS = ("relative_bias", "local_bias")


def applies(model):
    """Whether the margins of a model can be had from counts: by its encoding, its one layer and its pooling, which
    takes the lowest margin."""
    config = model.config
    return config.num_layers == 1 and config.encoding_type in ENCODINGS and config.pooling == "lowest"


class CountedModel:
    """A model in float64 by tables over the values: what a query of one value sees in a key of another.

    Args:
        model: a `SortingClassifier` to which the counting `applies`; it stays as it is.

    Attributes:
        reach: keys at offsets -reach to reach are near.
        stream: what enters the layer at a position of each value, `[V, d_model]`.
        scores: q k / sqrt(D) before bias and scaling, `[H, V, V]` by values of query and key.
        values: what a key of each value hands over, `[H, V, D]`.
        bias: `[H, K + 2]`: of all far keys before, of the near ones by their offset, of all far keys after; -inf cuts
            off.
    """

    def __init__(self, model):
        self.model = copy.deepcopy(model).cpu().double().eval()
        (self.layer,) = self.model.layers
        self.attention, positions = self.layer.self_attn, self.model.pos_encoding
        self.reach = positions.reach
        with torch.no_grad():
            self.stream = self.model.embed(torch.arange(VALUES).unsqueeze(1)).squeeze(1)
            h = self.layer.norm1(self.stream)[None]
            Q, K, self.values = (self.attention.split_heads(linear(h)).squeeze(0)
                                 for linear in (self.attention.W_q, self.attention.W_k, self.attention.W_v))
            self.scores = Q @ K.transpose(1, 2) / math.sqrt(self.attention.d_k)
            width = 2 * self.reach + 3  # the query in the middle has one far key on either side
            bias = positions.bias(torch.zeros(1, self.attention.num_heads, width, self.attention.d_k).to(Q))
            self.bias = bias[:, self.reach + 1]

    def scale(self, length):
        """What scores are multiplied by in a sequence of `length` values: `[H, 1]` or a number in a tensor."""
        scale = self.attention.scale(torch.tensor(float(length), dtype=torch.float64))
        return scale.squeeze(-1) if scale.dim() else scale

    def answer(self, queries, heads):
        """Margins `[C]` of positions with values `queries [C]` to which the heads hand `heads [C, H, D]`."""
        x = self.stream[queries] + self.attention.W_o(heads.flatten(1))
        x = self.model.norm(x + self.layer.linear2(self.layer.linear1(self.layer.norm2(x)).relu()))
        logits = self.model.classifier(x)
        return logits[:, 1] - logits[:, 0]

    @torch.no_grad()
    def margins(self, sequence):
        """Margins `[n]`, in float64, of every position of the values `sequence [n]`."""
        return torch.cat([self._chunk(sequence, start) for start in range(0, len(sequence), POSITIONS_AT_ONCE)])

    def _chunk(self, sequence, start):
        places = torch.arange(start, min(start + POSITIONS_AT_ONCE, len(sequence)))
        queries, length = sequence[places], len(sequence)
        near = places.unsqueeze(1) + torch.arange(-self.reach, self.reach + 1)  # [C, K]
        there = (near >= 0) & (near < length)
        keys = sequence[near.clamp(0, length - 1)]
        before = counts_before(sequence, places - self.reach)
        after = torch.bincount(sequence, minlength=VALUES) - counts_before(sequence, places + self.reach + 1)
        known, scale = self.scores[:, queries].transpose(0, 1), self.scale(length)  # [C, H, V]
        near_scores = known.gather(2, keys.unsqueeze(1).expand(-1, known.size(1), -1)) + self.bias[:, 1:-1]
        near_scores = (near_scores * scale).masked_fill(~there.unsqueeze(1), -math.inf)
        far_scores = [(known + self.bias[:, side, None]) * scale + counts.double().log().unsqueeze(1)
                      for side, counts in ((0, before), (-1, after))]
        weights = torch.cat([near_scores, *far_scores], dim=2).softmax(dim=2)
        near, far = weights.split([near.size(1), 2 * VALUES], dim=2)
        by_value = far.unflatten(2, (2, VALUES)).sum(dim=2)  # [C, H, V]
        by_value = by_value.scatter_add(2, keys.unsqueeze(1).expand_as(near), near)
        return self.answer(queries, torch.einsum("chv,hvd->chd", by_value, self.values))


def counts_before(sequence, places):
    """How often each value stands before `places [C]`, one after the other, in `sequence [n]`: `[C, V]`; places outside
    the sequence are moved to its ends."""
    places = places.clamp(0, len(sequence))
    first, last = int(places[0]), int(places[-1])
    steps = F.one_hot(sequence[first:last], VALUES).cumsum(dim=0)
    running = torch.cat([torch.zeros(1, VALUES, dtype=torch.long), steps])
    return torch.bincount(sequence[:first], minlength=VALUES) + running[places - first]


def counted_margins(model, sequence):
    """Margins `[n]`, in float64, of every position of `sequence [n]`; the sequence is called sorted if the lowest is
    above 0.

    Raises:
        ValueError: if the counting does not apply to the model, or the sequence has no value.
    """
    if not applies(model):
        raise ValueError("margins can be counted in models of one layer alone, with a relative or local bias, pooled "
                         "by the lowest position")
    if not len(sequence):
        raise ValueError("a sequence without values has no positions")
    return CountedModel(model).margins(sequence)
