"""Is a model with unrestricted attention right on every sequence of every length from some length on? A proof, by a
bound on all that can lie beyond a value's neighbours.

The model has one layer with a relative bias, scores multiplied by log n, and the lowest position as pooling. Consider a
position with value v, u before it and w after it; at an end of the sequence one of them is missing. Of these keys, one
is a head's best: score z. A key whose score is z - g weighs at most n^(-g) of it, so that a group of keys takes at most
the sum of these; all far keys of one side together at most n^(1 - g), g being the gap to the best score that any
allowed value has there. Allowed is any value; in a sorted sequence no value above u before and none below w after. No
such share rises with n, if only g is not negative, of far keys not below 1; else a share is taken to be 1, the most
there is. So a head's output is its best key's but for a displacement of at most the sum over groups of their share
times the largest distance between their values' outputs and the best key's, and at most the largest of these distances;
the displacements of all heads add up.

The margin (logit of "sorted" minus logit of "unsorted") moves by at most the displacement times a Lipschitz constant:
within the ball that the displacement spans, a layer norm without its weights stretches by at most 1 / sigma, sigma
being the least standard deviation there, and a linear layer by its spectral norm. So for every window (u, v, w), and
for every length from the given one on, the margin lies within a known distance of that which the best keys alone give;
`verification.judge` turns these bounds into a verdict on all sequences.

Computed in float64. The model itself rounds: compare with `smallest`, as in `verification`.
Shapes in comments: V values, U = V + 1 values and "none", H heads, d width of the model.
"""

import math

import torch

from extrapolation.counting import CountedModel
from extrapolation.gaps import applies as has_far_keys
from extrapolation.verification import decisive, judge

LENGTHS = tuple(2 ** exponent for exponent in range(1, 21))


def applies(model):
    """Whether the bound holds for a model: it is of the kind that has far keys, and its scores are multiplied by
    log n."""
    return has_far_keys(model) and model.config.log_scaling is True


class Bounds:
    """What the bound needs of a model, in float64.

    Args:
        model: a `SortingClassifier` to which the bound `applies`.
    """

    @torch.no_grad()
    def __init__(self, model):
        self.counted = counted = CountedModel(model)
        self.reach, self.values = counted.reach, len(counted.stream)
        layer, attention = counted.layer, counted.attention
        self.heads, width = attention.num_heads, attention.d_model
        self.scores = with_none(counted.scores, -math.inf)  # [H, V, U]
        self.highest = over_allowed(self.scores)
        mixing = attention.W_o.weight.view(width, self.heads, -1)
        self.outputs = torch.einsum("dhk,hvk->hvd", mixing, counted.values)  # what each value adds to the stream
        # A head's output moves by as much as the two values' outputs are apart; none is nowhere.
        self.distances = with_none(torch.cdist(
            self.outputs, self.outputs, compute_mode="donot_use_mm_for_euclid_dist"), 0.0)  # [H, V, U]
        self.farthest = over_allowed(self.distances)
        self.stretch = (torch.linalg.matrix_norm(layer.linear2.weight, 2)
                        * torch.linalg.matrix_norm(layer.linear1.weight * layer.norm2.weight, 2))
        difference = counted.model.classifier.weight[1] - counted.model.classifier.weight[0]
        self.slope = (difference * counted.model.norm.weight).norm()

    @torch.no_grad()
    def windows(self, v, length):
        """Of all windows around the value `v`, in sequences of `length` values or more: `(base, change)`, `[U, U]` by
        the values before and after: the margin that the best keys alone give, and how far from it the margin can be."""
        none = self.values
        before = torch.arange(none + 1).unsqueeze(1).expand(none + 1, none + 1)
        after = before.T
        descends = (before != none) & (before > v) | (after != none) & (after < v)
        core_values = torch.stack([before, torch.full_like(before, v), after])  # [3, U, U]
        core = self.scores[:, v][:, core_values] + self.bias(range(-1, 2))  # [H, 3, U, U]
        best, place = core.max(dim=1, keepdim=True)  # [H, 1, U, U]
        best_value = core_values.unsqueeze(0).expand_as(core).gather(1, place)  # [H, 1, U, U]

        head, rate = torch.arange(self.heads)[:, None, None, None], -math.log(length)
        distances = [self.distances[head, best_value, core_values]]  # [H, 3, U, U]
        shares = [torch.exp(rate * (best - core))]
        for neighbour, side, near, beyond in [(before, 0, range(-self.reach, -1), -self.reach - 1),
                                              (after, 1, range(2, self.reach + 1), self.reach + 1)]:
            def allowed(tables, values):  # [H, 1, U, U]
                return torch.where(descends, tables[2][head, values, neighbour], tables[side][head, values, neighbour])
            highest = allowed(self.highest, v)
            gaps = best - highest - self.bias(near)  # [H, reach - 1, U, U]
            far = best - highest - self.bias([beyond])
            shares.append(torch.where(gaps >= 0, torch.exp(rate * gaps), 1.0).sum(dim=1, keepdim=True)
                          + torch.where(far >= 1, torch.exp(rate * (far - 1)), 1.0))
            distances.append(allowed(self.farthest, best_value))
        shares, distances = torch.cat(shares, dim=1).clamp(max=1), torch.cat(distances, dim=1)
        displacement = torch.minimum((shares * distances).sum(dim=1), distances.amax(dim=1)).sum(dim=0)  # [U, U]
        return self.margins(v, best_value.squeeze(1), displacement)

    def bias(self, places):
        """The bias of each head at these offsets, -reach - 1 and reach + 1 standing for all farther ones: `[H, offsets,
        1, 1]`."""
        return self.counted.bias[:, [place + self.reach + 1 for place in places], None, None]

    def margins(self, v, best_value, displacement):
        """`(base, change)` of the margins at value `v` if the heads hand over the outputs of `best_value [H, U, U]` but
        for a `displacement [U, U]` of the stream."""
        counted, layer = self.counted, self.counted.layer
        # Few different ones: the window matters through the heads' best keys alone.
        different, which = best_value.flatten(1).unique(dim=1, return_inverse=True)  # [H, different], [U U]
        x = counted.stream[v] + counted.attention.W_o.bias + sum(outputs[values] for outputs, values
                                                                 in zip(self.outputs, different))
        y = x + layer.linear2(layer.linear1(layer.norm2(x)).relu())
        logits = counted.model.classifier(counted.model.norm(y))
        base, least, least_after = (each[which].view_as(displacement) for each in (
            logits[:, 1] - logits[:, 0], deviation(x, layer.norm2), deviation(y, counted.model.norm)))
        root = math.sqrt(x.size(1))  # a vector that moves by e changes its standard deviation by e / root at most
        moved = displacement * (1 + self.stretch / (least - displacement / root).clamp(min=0))
        change = self.slope * moved / (least_after - moved / root).clamp(min=0)
        return base, torch.where(displacement == 0, 0.0, change)


def over_allowed(table):
    """The largest entries of `table [..., U]` over the values that may stand beyond a neighbour, `[..., U]` each by the
    neighbour: over those up to it, over those from it on, over all. Beyond no neighbour there is nothing."""
    values, nothing = table[..., :-1], table[..., -1:]
    return [torch.cat([each, nothing], dim=-1) for each in (
        values.cummax(dim=-1).values, values.flip(-1).cummax(dim=-1).values.flip(-1),
        values.amax(dim=-1, keepdim=True).expand_as(values))]


def with_none(table, nothing):
    """`table [..., V]` with an entry for no value: `[..., U]`."""
    return torch.cat([table, torch.full_like(table[..., :1], nothing)], dim=-1)


def deviation(x, norm):
    """What a layer norm divides `x [..., d]` by: `[...]`."""
    return (x.var(dim=-1, unbiased=False) + norm.eps).sqrt()


def bound_windows(model, length):
    """`(base, change)`, each as `verification.window_margins`, for all sequences of `length` values or more, 2 at
    least.

    The margin of a window is within `change` of `base` in every sequence; of one without a descent, in every sorted
    one. A sequence of a single value is no such sequence: its margins are set to infinity and its changes to 0.
    """
    bounds = Bounds(model)
    tables = [torch.stack(each, dim=1) for each in zip(*(bounds.windows(v, length) for v in range(bounds.values)))]
    return tuple({"single": torch.full((bounds.values,), single, dtype=table.dtype), "first": table[-1, :, :-1],
                  "last": table[:-1, :, -1], "inner": table[:-1, :, :-1]}
                 for single, table in zip((math.inf, 0.0), tables))


def certify(model, length):
    """Whether a model is proved right on every sequence of `length` values or more: what `verification.judge` says of
    the bounds, and how loose they are.

    Returns:
        A dict: that of `judge`, with `length`, and `looseness`: what the bound on the change of a margin would have to
        be divided by for the last window to be proved; below 1 if all are; None if no bound would do, because with the
        best keys alone the answer is wrong, or because nothing bounds the change.
    """
    base, change = bound_windows(model, length)
    descends = descents(len(base["single"]))
    worst = {name: torch.where(descends[name], base[name] + change[name], base[name] - change[name]) for name in base}
    towards = {name: torch.where(descends[name], -base[name], base[name]) for name in base}
    ratios = {name: torch.where(towards[name] > 0, change[name] / towards[name], math.inf) for name in base}
    looseness = max(each.max().item() for each in decisive(ratios))
    return judge(worst) | {"length": length, "looseness": looseness if math.isfinite(looseness) else None}


def descents(values):
    """Which windows have a descent, as `verification.window_margins` has them."""
    falls = torch.arange(values).unsqueeze(1) > torch.arange(values)
    return {"single": torch.zeros(values, dtype=torch.bool), "first": falls, "last": falls,
            "inner": falls.unsqueeze(2) | falls}


def prove(model):
    """The first of `LENGTHS` from which on a model is proved right, as `certify` says it; if there is none, what it
    says of the last.

    The bounds only fall with the length, so that half of what is left is settled by each trial.
    """
    low, high, found = 0, len(LENGTHS) - 1, certify(model, LENGTHS[-1])
    while found["every_sequence_right"] and low < high:
        middle = (low + high) // 2
        trial = certify(model, LENGTHS[middle])
        if trial["every_sequence_right"]:
            high, found = middle, trial
        else:
            low = middle + 1
    return found
