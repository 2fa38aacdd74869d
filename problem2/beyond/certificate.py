"""Is unrestricted attention right on every sequence from some length on? A proof by a bound.

The model has one layer with a relative bias, scores multiplied by log n, and the lowest position as
pooling. Take a position with value v, u before it and w after it; at an end of the sequence one of
them is missing. Of these three keys one is a head's best: score z. A key whose score is z - g
weighs at most n^(-g) of it. So a group of keys takes at most the sum of these; all far keys of one
side together take at most n^(1 - g), where g is the score gap to the best score that any allowed
value has there. Any value is allowed; in a sorted sequence no value above u before it and none
below w after it. Such a share does not rise with n if g is not negative, for far keys not below 1;
else the share is taken to be 1, the most possible. A head's output is its best key's, except for a
displacement: at most the sum over groups of their share times the largest distance between their
values' outputs and the best key's, and at most the largest of these distances. The displacements of
all heads add up.

The margin (logit of "sorted" minus logit of "unsorted") moves by at most the displacement times a
Lipschitz constant. Within the ball that the displacement spans, a layer norm without its weights
stretches by at most 1 / sigma (sigma: the least standard deviation there), and a linear layer by
its spectral norm. So for every window (u, v, w), and for every length from the given one on, the
margin lies within a known distance of the margin that the best keys alone give.
`verification.judge` turns these bounds into a verdict on all sequences.

Computed in float64. The model itself rounds: compare with `smallest`, as in `verification`.
Shapes in comments: V values, U = V + 1 values and "none", H heads, d width of the model.
"""

import math

import torch

from beyond.counting import CountedModel
from beyond.gap_measures import has_far_keys
from beyond.scaling import log_scaling
from beyond.verification import decisive, judge

LENGTHS = tuple(2**exponent for exponent in range(1, 21))


def bound_holds(model):
    """Whether the bound holds for a model: it has far keys, and scores multiplied by log n."""
    return has_far_keys(model) and log_scaling(model) is True


class Bounds:
    """What the bound needs of a model for which `bound_holds`, in float64."""

    @torch.no_grad()
    def __init__(self, model):
        self.counted = counted = CountedModel(model)
        self.reach, self.values = counted.reach, len(counted.stream)
        layer, attention = counted.layer, counted.attention
        self.heads, width = attention.num_heads, attention.d_model
        self.scores = with_none(counted.scores, -math.inf)  # [H, V, U]
        self.highest = over_allowed(self.scores)
        # What each value adds to the stream, and how far the outputs of two values are apart.
        mixing = attention.W_o.weight.view(width, self.heads, -1)  # [d, H, D]
        self.outputs = torch.einsum("dhk,hvk->hvd", mixing, counted.values)
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(self.outputs, self.outputs, compute_mode=exact)
        self.distances = with_none(distances, 0.0)  # [H, V, U]
        self.farthest = over_allowed(self.distances)
        norm = torch.linalg.matrix_norm
        self.stretch = norm(layer.linear2.weight, 2)
        self.stretch = self.stretch * norm(layer.linear1.weight * layer.norm2.weight, 2)
        unsorted, sorted_ = counted.model.classifier.weight
        self.slope = ((sorted_ - unsorted) * counted.model.norm.weight).norm()

    @torch.no_grad()
    def windows(self, v, length):
        """Bounds for all windows around the value `v`, in sequences of `length` values or more.

        Returns:
            `(base, change)`, `[U, U]` each by the values before and after: the margin that the best
            keys alone give, and how far from it the margin can be.
        """
        none = self.values
        before = torch.arange(none + 1).unsqueeze(1).expand(none + 1, none + 1)
        after = before.T
        descends = (before != none) & (before > v) | (after != none) & (after < v)  # [U, U]

        # Each head's best key among the three of the window.
        core_values = torch.stack([before, torch.full_like(before, v), after])  # [3, U, U]
        core = self.scores[:, v][:, core_values] + self.bias(range(-1, 2))  # [H, 3, U, U]
        best, place = core.max(dim=1, keepdim=True)  # [H, 1, U, U]
        best_value = core_values.unsqueeze(0).expand_as(core).gather(1, place)  # [H, 1, U, U]

        # The share of each group of other keys, and how far its outputs are from the best key's.
        head, rate = torch.arange(self.heads)[:, None, None, None], -math.log(length)
        distances = [self.distances[head, best_value, core_values]]  # [H, 3, U, U]
        shares = [torch.exp(rate * (best - core))]
        sides = [
            (before, 0, range(-self.reach, -1), -self.reach - 1),
            (after, 1, range(2, self.reach + 1), self.reach + 1),
        ]
        for neighbour, side, near, beyond in sides:

            def allowed(tables, values):  # [H, 1, U, U]
                anything = tables[2][head, values, neighbour]
                return torch.where(descends, anything, tables[side][head, values, neighbour])

            highest = allowed(self.highest, v)
            gaps = best - highest - self.bias(near)  # [H, reach - 1, U, U]
            far = best - highest - self.bias([beyond])
            near_share = torch.where(gaps >= 0, torch.exp(rate * gaps), 1.0)
            far_share = torch.where(far >= 1, torch.exp(rate * (far - 1)), 1.0)
            shares.append(near_share.sum(dim=1, keepdim=True) + far_share)
            distances.append(allowed(self.farthest, best_value))
        shares, distances = torch.cat(shares, dim=1).clamp(max=1), torch.cat(distances, dim=1)
        moved = torch.minimum((shares * distances).sum(dim=1), distances.amax(dim=1))
        return self.margins(v, best_value.squeeze(1), moved.sum(dim=0))

    def bias(self, places):
        """The biases at these offsets, `[H, offsets, 1, 1]`; the outermost stand for all beyond."""
        columns = [place + self.reach + 1 for place in places]
        return self.counted.bias[:, columns, None, None]

    def margins(self, v, best_value, displacement):
        """`(base, change)` of the margins at value `v`.

        The heads give the outputs of `best_value [H, U, U]`, except for a `displacement [U, U]` of
        the stream.
        """
        counted, layer = self.counted, self.counted.layer
        # Few of the combinations of best keys differ.
        different, which = best_value.flatten(1).unique(dim=1, return_inverse=True)
        given = sum(outputs[values] for outputs, values in zip(self.outputs, different))
        x = counted.stream[v] + counted.attention.W_o.bias + given  # [different, d]
        y = x + layer.feed_forward(layer.norm2(x))
        logits = counted.model.classifier(counted.model.norm(y))
        base, least, least_after = (
            each[which].view_as(displacement)
            for each in (
                logits[:, 1] - logits[:, 0],
                deviation(x, layer.norm2),
                deviation(y, counted.model.norm),
            )
        )
        # A vector that moves by e changes its standard deviation by e / root at most.
        root = math.sqrt(x.size(1))
        moved = displacement * (1 + self.stretch / (least - displacement / root).clamp(min=0))
        change = self.slope * moved / (least_after - moved / root).clamp(min=0)
        return base, torch.where(displacement == 0, 0.0, change)


def over_allowed(table):
    """The largest entries of `table [..., U]` over the values allowed beyond a neighbour.

    Three tables `[..., U]` by the neighbour: over the values up to it, over those from it on, over
    all. Beyond no neighbour there is nothing.
    """
    values, nothing = table[..., :-1], table[..., -1:]
    up_to = values.cummax(dim=-1).values
    from_on = values.flip(-1).cummax(dim=-1).values.flip(-1)
    anything = values.amax(dim=-1, keepdim=True).expand_as(values)
    return [torch.cat([each, nothing], dim=-1) for each in (up_to, from_on, anything)]


def with_none(table, nothing):
    """`table [..., V]` with an entry for no value: `[..., U]`."""
    return torch.cat([table, torch.full_like(table[..., :1], nothing)], dim=-1)


def deviation(x, norm):
    """What a layer norm divides `x [..., d]` by: `[...]`."""
    return (x.var(dim=-1, unbiased=False) + norm.eps).sqrt()


def bound_windows(model, length):
    """`(base, change)`, each as `window_margins` gives it, for sequences of `length` or more.

    The margin of a window is within `change` of `base` in every sequence; of a window without a
    descent, in every sorted one. `length` is 2 or more, so that no sequence has a single value:
    the margins of these are set to infinity, and their changes to 0.
    """
    bounds = Bounds(model)
    by_value = [bounds.windows(v, length) for v in range(bounds.values)]
    results = []
    for tables, single in zip(zip(*by_value), (math.inf, 0.0)):
        table = torch.stack(tables, dim=1)  # [U, V, U]
        parts = {"first": table[-1, :, :-1], "last": table[:-1, :, -1], "inner": table[:-1, :, :-1]}
        results.append({"single": table.new_full((bounds.values,), single), **parts})
    return tuple(results)


def certify(model, length):
    """Whether a model is proved right on every sequence of `length` values or more.

    Returns:
        What `verification.judge` says of the bounds, with `length` and `looseness`: by what the
        bound on the change of a margin would have to be divided to prove the last window; below 1
        if all are proved; None if no bound would do, because the best keys alone give a wrong
        answer, or because nothing bounds the change.
    """
    base, change = bound_windows(model, length)
    descends = descents(len(base["single"]))
    worst, ratios = {}, {}
    for name, falls in descends.items():
        sign = torch.where(falls, -1.0, 1.0).to(base[name])  # the side of zero where the margin is
        worst[name] = base[name] - sign * change[name]
        right = sign * base[name]
        ratios[name] = torch.where(right > 0, change[name] / right, math.inf)
    looseness = max(each.max().item() for each in decisive(ratios))
    looseness = looseness if math.isfinite(looseness) else None
    return judge(worst) | {"length": length, "looseness": looseness}


def descents(values):
    """Which windows have a descent, in the form of `verification.window_margins`."""
    falls = torch.arange(values).unsqueeze(1) > torch.arange(values)
    return {
        "single": torch.zeros(values, dtype=torch.bool),
        "first": falls,
        "last": falls,
        "inner": falls.unsqueeze(2) | falls,
    }


def prove(model):
    """`certify` at the first of `LENGTHS` from which on a model is proved right, else at the last.

    The bounds fall with the length, so that each trial halves what is left.
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
