"""Exact margins of very long sequences, from how often each value stands before and after.

In a model of one layer, what a key contributes depends on its value and its offset; beyond the
reach of `RelativeBias` or `LocalBias` on the side alone. So all far keys of one value and one side
count as one key, whose score is higher by the logarithm of their number. A query then has 2 reach
+ 1 near keys and at most 2 x 100 far ones: the cost grows with n and not with its square.
A margin is the logit of "sorted" minus the logit of "unsorted".
Shapes in comments: C positions of a chunk, H heads, D width of one head, K = 2 reach + 1 near keys,
V values.
"""

import copy
import math

import torch
from torch.nn import functional as F

from beyond.scaling import score_scale
from beyond.verification import VALUES

POSITIONS_AT_ONCE = 1024
ENCODINGS = ("relative_bias", "local_bias")


def counts_suffice(model):
    """Whether counts give a model's margins: by its one layer, its encoding and its pooling."""
    config = model.config
    by_counts = config.num_layers == 1 and config.encoding_type in ENCODINGS
    return by_counts and config.pooling == "lowest"


class CountedModel:
    """A model in float64 as tables: what a query of one value sees in a key of another.

    Args:
        model: a `SortingClassifier` of which `counts_suffice`; it is copied.

    Attributes:
        reach: keys at offsets -reach to reach are near.
        stream: what enters the layer at a position of each value, `[V, d_model]`.
        scores: q k / sqrt(D) before bias and scaling, `[H, V, V]` by values of query and key.
        values: what a key of each value hands over, `[H, V, D]`.
        bias: `[H, K + 2]`: of all far keys before, of the near keys by their offset, of all far
            keys after; -inf hides a key.
    """

    @torch.no_grad()
    def __init__(self, model):
        self.model = copy.deepcopy(model).cpu().double().eval()
        (self.layer,) = self.model.layers
        self.attention, positions = self.layer.self_attn, self.model.pos_encoding
        self.reach = positions.reach
        self.stream = self.model.embed(torch.arange(VALUES).unsqueeze(1)).squeeze(1)
        h = self.layer.norm1(self.stream)[None]  # [1, V, d_model]
        scores = self.attention.scores(h, h) / score_scale(self.model, VALUES)
        self.scores = scores.squeeze(0)
        self.values = self.attention.split_heads(self.attention.W_v(h)).squeeze(0)
        # The query in the middle of so many positions has one far key on either side.
        width = 2 * self.reach + 3
        some = torch.zeros(1, self.attention.num_heads, width, self.attention.d_k).to(h)
        self.bias = positions.bias(some)[:, self.reach + 1]

    def answer(self, queries, heads):
        """Margins `[C]` of positions with values `queries [C]`; heads give `heads [C, H, D]`."""
        x = self.stream[queries] + self.attention.W_o(heads.flatten(1))
        x = x + self.layer.feed_forward(self.layer.norm2(x))
        logits = self.model.classifier(self.model.norm(x))
        return logits[:, 1] - logits[:, 0]

    @torch.no_grad()
    def margins(self, sequence):
        """Margins `[n]`, in float64, of every position of the values `sequence [n]`."""
        starts = range(0, len(sequence), POSITIONS_AT_ONCE)
        return torch.cat([self._chunk(sequence, start) for start in starts])

    def _chunk(self, sequence, start):
        places = torch.arange(start, min(start + POSITIONS_AT_ONCE, len(sequence)))
        queries, length = sequence[places], len(sequence)
        scale = score_scale(self.model, length).view(-1, 1)  # [H, 1] or [1, 1]
        known = self.scores[:, queries].transpose(0, 1)  # [C, H, V]

        # The scores of the near keys, one by one.
        near = places.unsqueeze(1) + torch.arange(-self.reach, self.reach + 1)  # [C, K]
        missing = (near < 0) | (near >= length)
        keys = sequence[near.clamp(0, length - 1)].unsqueeze(1).expand(-1, known.size(1), -1)
        near_scores = (known.gather(2, keys) + self.bias[:, 1:-1]) * scale  # [C, H, K]
        near_scores = near_scores.masked_fill(missing.unsqueeze(1), -math.inf)

        # The scores of the far keys, by value: those before, and those after.
        before = counts_before(sequence, places - self.reach)  # [C, V]
        until_near = counts_before(sequence, places + self.reach + 1)
        after = torch.bincount(sequence, minlength=VALUES) - until_near
        far_scores = [
            (known + self.bias[:, side, None]) * scale + counts.double().log().unsqueeze(1)
            for side, counts in ((0, before), (-1, after))
        ]

        # One softmax over all; then the weight of each value, wherever its keys stand.
        weights = torch.cat([near_scores, *far_scores], dim=2).softmax(dim=2)
        near_weights, far_weights = weights.split([keys.size(2), 2 * VALUES], dim=2)
        by_value = far_weights.unflatten(2, (2, VALUES)).sum(dim=2)  # [C, H, V]
        by_value = by_value.scatter_add(2, keys, near_weights)
        return self.answer(queries, torch.einsum("chv,hvd->chd", by_value, self.values))


def counts_before(sequence, places):
    """How often each value stands before `places [C]` in `sequence [n]`: `[C, V]`.

    The places are consecutive; those outside the sequence are moved to its ends.
    """
    places = places.clamp(0, len(sequence))
    first, last = int(places[0]), int(places[-1])
    steps = F.one_hot(sequence[first:last], VALUES).cumsum(dim=0)
    running = torch.cat([torch.zeros(1, VALUES, dtype=torch.long), steps])
    return torch.bincount(sequence[:first], minlength=VALUES) + running[places - first]
