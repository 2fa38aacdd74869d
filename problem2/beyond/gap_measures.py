"""Why unrestricted attention holds at any length, or from which length on it cannot: how far the scores of far keys lie
below the best one.

A key whose score lies `gap` below the best one weighs e^(-gap) of it, so that n such keys together weigh n e^(-gap):
as much as the best one at n = e^gap. If scores are multiplied by log n they weigh n^(1 - gap), which falls with n if
the gap exceeds 1 (Chiang & Cholak 2022, arXiv:2202.12172; Nakanishi 2025, arXiv:2501.19399). Keys are far beyond the
reach of `RelativeBias`, where all offsets of one side share a bias.
Shapes in comments: N sequences, L length, T queries, S keys, H heads.
"""

import copy
import math
from dataclasses import replace

import torch

from extrapolation import counting
from extrapolation.dissection import after_layer
from extrapolation.draws import answers, draw_sets
from positions.relative import offsets

LEVEL = 0.99  # a model fails at the first length at which its accuracy on one inversion is below this
LONGEST_PREDICTED = 2 ** 20
NEGATIVES = "one_inversion"


def applies(model):
    """Whether a model has far keys that are told apart by value and side alone, in one layer, pooled by the lowest
    position."""
    return counting.applies(model) and model.config.encoding_type == "relative_bias"


def frozen(model, length):
    """The model with the scale of its scores for good what it is among `length` keys: the same answers there, and no
    scaling elsewhere."""
    model = copy.deepcopy(model)
    model.config = replace(model.config, log_scaling=False)
    (layer,) = model.layers
    attention = layer.self_attn
    with torch.no_grad():
        scale = scale_at(model, length).reshape(-1, 1)  # [H, 1] or [1, 1]
        for parameter in (attention.W_q.weight, attention.W_q.bias):
            parameter.view(attention.num_heads, -1).mul_(scale)
        model.pos_encoding.weights.mul_(scale)
    attention.log_scaling = False
    return model


@torch.no_grad()
def scores_of(model, sequences):
    """What the layer's attention sees in sequences `[N, L]`: `(scores before any scaling [N, H, T, S], far [T, S])`,
    far telling which keys are."""
    (layer,) = model.layers
    h = layer.norm1(model.embed(sequences))
    length = sequences.size(1)
    scores = layer.self_attn.scores(h, h, model.pos_encoding) / scale_at(model, length)
    return scores, offsets(length, sequences.device).abs() > model.pos_encoding.reach


def scale_at(model, length):
    """What the layer's scores are multiplied by among `length` keys: broadcastable to `[N, H, T, S]`."""
    attention = model.layers[0].self_attn
    return attention.scale(torch.tensor(length).to(attention.W_q.weight))


@torch.no_grad()
def measure_gaps(model, sequences):
    """Gaps of each head, over all queries of sequences `[N, L]` that have far keys: a list of records.

    The gap of a query is its best score less that of its best far key, before scaling by the length; where a far key is
    the best one the gap is that to the best near one, and negative. A record has `head`, `gap_lowest`,
    `gap_percentile` (1st) and `gap_median`, and of the attention that far keys together take, with scaling, the mean
    `far_share` and the `far_share_largest`.
    """
    scores, far = scores_of(model, sequences)
    best_near, best_far = (scores.masked_fill(masked, -math.inf).amax(dim=-1) for masked in (far, ~far))
    share = ((scores * scale_at(model, sequences.size(1))).softmax(dim=-1) * far).sum(dim=-1)
    chosen = far.any(dim=-1)  # [T]
    records = []
    for head in range(scores.size(1)):
        gap, taken = (each[:, head, chosen].flatten().cpu().double() for each in (best_near - best_far, share))
        records.append({"head": head, "gap_lowest": gap.min().item(), "gap_percentile": gap.quantile(0.01).item(),
                        "gap_median": gap.quantile(0.5).item(), "far_share": taken.mean().item(),
                        "far_share_largest": taken.max().item()})
    return records


@torch.no_grad()
def right_without(model, sequences, labels, heads):
    """How many of `sequences [N, L]` with `labels [N]` a model answers rightly with the output of each of these heads
    replaced by its mean over all of their positions: does the answer need what they read?"""
    (layer,) = model.layers
    owner = torch.arange(layer.self_attn.num_heads).repeat_interleave(layer.self_attn.d_k)  # [d_model]
    own = torch.isin(owner, torch.tensor(heads, dtype=owner.dtype))
    hook = layer.self_attn.W_o.register_forward_pre_hook(
        lambda module, outputs: (torch.where(own.to(outputs[0].device), outputs[0].mean(dim=(0, 1)), outputs[0]),))
    try:
        return int((model.predict(sequences) == labels).sum())
    finally:
        hook.remove()


def needed(record):
    """Whether, by a head's record with `n` and `right_without`, accuracy falls below `LEVEL` without it."""
    return record["right_without"] < LEVEL * record["n"]


@torch.no_grad()
def answers_as_if(model, sequences, length):
    """The classes `[N]` that a model would give sequences `[N, L]` if nothing but the number of their keys were that of
    sequences of `length` values: each far key counts as several, and scores are scaled as for that length.

    An inner query has 2 reach + 1 near keys, so that each far one counts (length - 2 reach - 1) / (L - 2 reach - 1)
    times.
    """
    (layer,) = model.layers
    scores, far = scores_of(model, sequences)
    near = 2 * model.pos_encoding.reach + 1
    scores = scores * scale_at(model, length) + far * math.log((length - near) / (sequences.size(1) - near))
    stream = after_layer(layer, model.embed(sequences), scores.softmax(dim=-1))
    return model.classifier(model.pooling(model.norm(stream), model.classifier)).argmax(dim=1)


def ladder(shortest, longest):
    """Lengths from `shortest` to `longest`, each the root of 2 times the one before, in whole numbers."""
    return [round(shortest * 2 ** (step / 2)) for step in range(math.floor(2 * math.log2(longest / shortest)) + 1)]


def predict_length(model, sequences, labels, longest=LONGEST_PREDICTED):
    """The length at which a model is to fail by the number of far keys alone, from sequences `[N, L]` of a length that
    was trained, with labels `[N]`: the first of the `ladder` at which `answers_as_if` are below `LEVEL`; None if none
    is up to `longest`."""
    return next((length for length in ladder(sequences.size(1), longest)
                 if (answers_as_if(model, sequences, length) == labels).float().mean() < LEVEL), None)


def measure_lengths(model, shortest, longest, size, seen, draw):
    """Right answers on one inversion at each length of the `ladder` up to the first at which the model fails: records
    of `length`, `n`, `right`.

    Args:
        shortest, longest: ends of the ladder.
        size: sequences of each length.
        seen, draw: as for `draw_sets`.
    """
    records = []
    for length in ladder(shortest, longest):
        sequences, labels = draw_sets(length, draw, size, seen)[NEGATIVES]
        records.append({"length": length, "n": size, "right": int((answers(model, sequences) == labels).sum())})
        if measured_length(records):
            break
    return records


def measured_length(records):
    """The first length of records of `length`, `n` and `right` at which accuracy is below `LEVEL`; None if none is."""
    return min((record["length"] for record in records if record["right"] < LEVEL * record["n"]), default=None)
