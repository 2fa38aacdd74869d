"""Why unrestricted attention holds at any length, or from which length on it cannot.

A key whose score lies a score gap g below the best one weighs e^(-g) of it. So n such keys weigh
n e^(-g): as much as the best one at n = e^g. If scores are multiplied by log n they weigh
n^(1 - g), which falls with n if g exceeds 1 (Chiang & Cholak 2022, arXiv:2202.12172; Nakanishi
2025, arXiv:2501.19399). Keys are far if they are beyond the reach of `RelativeBias`, where all
offsets of one side share a bias. (The gap control of analyze.py is about gaps between values.)
Shapes in comments: N sequences, L length, T queries, S keys, H heads.
"""

import math
from dataclasses import asdict

import torch

from beyond.counting import counts_suffice
from beyond.draw_sets import answers, draw_sets
from beyond.encodings import offsets
from beyond.scaling import score_scale
from extrapolation.dissection import after_layer
from model import ModelConfig, SortingClassifier

LEVEL = 0.99  # a model fails at the first length where its accuracy on one inversion is lower
LONGEST_PREDICTED = 2**20
NEGATIVES = "one_inversion"


def has_far_keys(model):
    """Whether a model has far keys, in one layer, and the lowest position as pooling."""
    return counts_suffice(model) and model.config.encoding_type == "relative_bias"


@torch.no_grad()
def frozen(model, length):
    """The model with its scores always scaled as among `length` keys."""
    names = ModelConfig.__dataclass_fields__
    plain = SortingClassifier(**{name: asdict(model.config)[name] for name in names})
    weights = model.state_dict()
    plain.load_state_dict({name: weights[name] for name, _ in plain.named_parameters()})
    attention = plain.layers[0].self_attn
    scale = score_scale(model, length).reshape(-1, 1).cpu()  # [H, 1] or [1, 1]
    for parameter in (attention.W_q.weight, attention.W_q.bias, plain.pos_encoding.weights):
        parameter.view(attention.num_heads, -1).mul_(scale)
    return plain.to(next(model.parameters()).device).eval()


@torch.no_grad()
def scores_of(model, sequences):
    """Scores of `sequences [N, L]` before scaling by the length, and which keys are far.

    Returns:
        `(scores [N, H, T, S], far [T, S])`.
    """
    (layer,) = model.layers
    h = layer.norm1(model.embed(sequences))
    length = sequences.size(1)
    scores = layer.self_attn.scores(h, h, model.pos_encoding) / score_scale(model, length)
    return scores, offsets(length, sequences.device).abs() > model.pos_encoding.reach


@torch.no_grad()
def measure_gaps(model, sequences):
    """Score gaps of each head, over all queries of `sequences [N, L]` that have far keys.

    The score gap of a query is its best score minus that of its best far key, before scaling by
    the length. If a far key is the best one it is negative, to the best near one.

    Returns:
        A record for each `head`: `gap_lowest`, `gap_percentile` (1st), `gap_median`; and of the
        attention that all far keys together take, with scaling, the mean `far_share` and the
        `far_share_largest`.
    """
    scores, far = scores_of(model, sequences)
    best_near = scores.masked_fill(far, -math.inf).amax(dim=-1)  # [N, H, T]
    best_far = scores.masked_fill(~far, -math.inf).amax(dim=-1)
    weights = (scores * score_scale(model, sequences.size(1))).softmax(dim=-1)
    share = (weights * far).sum(dim=-1)
    chosen = far.any(dim=-1)  # [T]
    records = []
    for head in range(scores.size(1)):
        gap, taken = (
            each[:, head, chosen].flatten().cpu().double() for each in (best_near - best_far, share)
        )
        records.append(
            {
                "head": head,
                "n": len(sequences),
                "gap_lowest": gap.min().item(),
                "gap_percentile": gap.quantile(0.01).item(),
                "gap_median": gap.quantile(0.5).item(),
                "far_share": taken.mean().item(),
                "far_share_largest": taken.max().item(),
            }
        )
    return records


@torch.no_grad()
def right_without(model, sequences, labels, heads):
    """Right answers on `sequences [N, L]` with these heads' outputs replaced by their mean.

    The mean is over all positions of all sequences: does the answer need what the heads read?
    """
    attention = model.layers[0].self_attn
    owner = torch.arange(attention.num_heads).repeat_interleave(attention.d_k)  # [d_model]
    own = torch.isin(owner, torch.tensor(heads, dtype=owner.dtype)).to(sequences.device)

    def replace(module, inputs):
        (outputs,) = inputs  # [N, L, d_model]
        return (torch.where(own, outputs.mean(dim=(0, 1)), outputs),)

    hook = attention.W_o.register_forward_pre_hook(replace)
    try:
        return int((model.predict(sequences) == labels).sum())
    finally:
        hook.remove()


def needed(record):
    """Whether accuracy falls below `LEVEL` without a head, by its record."""
    return record["right_without"] < LEVEL * record["n"]


@torch.no_grad()
def answers_as_if(model, sequences, length):
    """The classes `[N]` of `sequences [N, L]` if only the number of keys were another `length`'s.

    Each far key counts as several, and scores are scaled as for that length. An inner query has
    2 reach + 1 near keys; so each far one counts (length - 2 reach - 1) / (L - 2 reach - 1) times.
    """
    (layer,) = model.layers
    scores, far = scores_of(model, sequences)
    near = 2 * model.pos_encoding.reach + 1
    times = (length - near) / (sequences.size(1) - near)
    weights = (scores * score_scale(model, length) + far * math.log(times)).softmax(dim=-1)
    h = model.norm(after_layer(layer, model.embed(sequences), weights))
    return model.classifier(model.pooling(h, model.classifier)).argmax(dim=1)


def ladder(shortest, longest):
    """Lengths from `shortest` to `longest`, each the root of 2 times the one before, rounded."""
    steps = math.floor(2 * math.log2(longest / shortest))
    return [round(shortest * 2 ** (step / 2)) for step in range(steps + 1)]


def predict_length(model, sequences, labels):
    """The length at which a model is to fail by the number of its far keys alone.

    The first of the `ladder` at which `answers_as_if` for `sequences [N, L]` of a trained length,
    with `labels [N]`, are below `LEVEL`; None if there is none.
    """
    for length in ladder(sequences.size(1), LONGEST_PREDICTED):
        if (answers_as_if(model, sequences, length) == labels).float().mean() < LEVEL:
            return length
    return None


def measure_lengths(model, shortest, longest, size, seen, draw):
    """Right answers on one inversion at each length of the `ladder`, until the model fails.

    Args:
        shortest, longest: ends of the ladder.
        size: sequences of each length.
        seen, draw: as for `draw_sets`.

    Returns:
        Records of `length`, `n`, `right`.
    """
    records = []
    for length in ladder(shortest, longest):
        sequences, labels = draw_sets(length, draw, size, seen)[NEGATIVES]
        right = int((answers(model, sequences) == labels).sum())
        records.append({"length": length, "n": size, "right": right})
        if measured_length(records):
            break
    return records


def measured_length(records):
    """The first length of records of `length`, `n` and `right` at which a model fails, or None."""
    failed = [record["length"] for record in records if record["right"] < LEVEL * record["n"]]
    return min(failed, default=None)
