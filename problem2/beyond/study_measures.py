"""What the study measures in a trained model beyond accuracy; each function returns records that describe themselves.

A margin is the logit of "sorted" minus the logit of "unsorted".
Shapes in comments: B batch, N sequences, L length, T queries, S keys, H heads.
"""

import copy
import random

import torch
from torch.nn import functional as F

from dataset import LARGEST_VALUE
from extrapolation.analysis import classify, classify_group, find_failures, load_group, measure_group
from extrapolation.verification import applies, judge, window_margins
from generate_data import SEED, TEST_LENGTHS, draw_sorted, draw_test_sets, ensure_test_set, one_inversion
from learning.evaluation import summarize, wilson_interval
from learning.variants import RECOMMENDED
from support.cli import Progress
from support.digests import KEY, weights_digest

KINDS_COMPARED = ("swap", "one_inversion")
MOST_FAILURES = 50
LONGEST = {512: 1000, 1024: 1000}  # length: sequences of each set


def margins(model, sequences):
    """Margins `[N]` of sequences `[N, L]`, on the CPU."""
    logits = classify(model, sequences)
    return logits[:, 1] - logits[:, 0]


def load_length(data_dir, length, num_samples, kinds):
    """`load_group` of the plain test sets of one length."""
    return load_group(data_dir, {"length": length, "gap_source": None}, num_samples, kinds)


def measure_dilution(model, data_dir, lengths, num_samples):
    """How far one violation moves the margin at each length: mean and standard deviation, sorted and with one
    inversion."""
    records = []
    for length in lengths:
        sequences, labels = load_length(data_dir, length, num_samples, ["one_inversion"])["one_inversion"]
        margin = margins(model, sequences)
        records.append({"length": length, "n": len(labels),
                        **{f"margin_{name}_{measure}": getattr(margin[labels == label], measure)().item()
                           for name, label in [("sorted", 1), ("one_inversion", 0)] for measure in ("mean", "std")}})
    return records


@torch.no_grad()
def measure_heads(model, data_dir, lengths, num_samples):
    """Where each head looks, by length, on sorted sequences: means over queries that have both neighbours.

    A record has `entropy` (nats) and `top_weight` of the weights, and the weight of the key `before`, `itself` and
    `after`.
    """
    records = []
    for length in lengths:
        sequences, labels = load_length(data_dir, length, num_samples, ["swap"])["swap"]
        h = model.embed(sequences[labels == 1].to(next(model.parameters()).device))
        for number, layer in enumerate(model.layers):
            x = layer.norm1(h)
            weights = layer.self_attn.scores(x, x, model.pos_encoding).softmax(dim=-1)  # [N, H, T, S]
            inner = weights[:, :, 1:-1]
            means = {"entropy": -(inner * inner.clamp_min(1e-30).log()).sum(dim=-1), "top_weight": inner.amax(dim=-1),
                     **{name: weights.diagonal(offset, -2, -1)[..., part] for name, offset, part in
                        [("before", -1, slice(0, -1)), ("itself", 0, slice(1, -1)), ("after", 1, slice(1, None))]}}
            for head in range(weights.size(1)):
                records.append({"length": length, "layer": number, "head": head,
                                **{name: value[:, head].mean().item() for name, value in means.items()}})
            h = layer(h, None, model.pos_encoding)
    return records


def row_policies(table, trained, length):
    """Tables `{policy: [max_len, d_model]}` for a sequence of `length`, of which rows 0 to trained - 1 were trained.

    Past them: `initial`, as they were initialised; `zeros`; `copies`, the trained rows over and over. With
    `interpolation` the trained rows are stretched over the whole length.
    """
    zeros, copies, stretched = table.clone(), table.clone(), table.clone()
    zeros[trained:] = 0
    copies[:] = table[torch.arange(len(table)) % trained]
    stretched[:length] = F.interpolate(table[:trained].T[None], size=length, mode="linear", align_corners=True)[0].T
    return {"initial": table, "zeros": zeros, "copies": copies, "interpolation": stretched}


def measure_untrained_rows(model, data_dir, lengths, num_samples, trained):
    """Accuracy of a model with learned positions under each of `row_policies`, by length and kind of negatives."""
    model, records = copy.deepcopy(model), []
    table = model.pos_encoding.position_embeddings.weight.detach().clone()
    for length in lengths:
        sets = load_length(data_dir, length, num_samples, KINDS_COMPARED)
        for policy, rows in row_policies(table, trained, length).items():
            model.pos_encoding.position_embeddings.weight.data.copy_(rows)
            records += [{"length": length, "policy": policy, "negatives": kind,
                         **summarize(classify(model, sequences), labels)}
                        for kind, (sequences, labels) in sets.items()]
    return records


def measure_ties(model, length=16, distinct=(1, 2, 4, 8, 16), count=500, seed=0):
    """Accuracy on sequences with many ties: values drawn from `distinct` neighbouring numbers, sorted or with one
    inversion."""
    generator, records = random.Random(seed), []
    for most in distinct:
        sets = {"sorted": [], "one_inversion": []}
        for _ in range(count):
            start = generator.randint(0, LARGEST_VALUE + 1 - most)
            sequence = sorted(generator.randint(start, start + most - 1) for _ in range(length))
            sets["sorted"].append(sequence)
            if sequence[0] < sequence[-1]:
                sets["one_inversion"].append(one_inversion(sequence, generator))
        for kind, sequences in sets.items():
            if sequences:
                right = int(((margins(model, torch.tensor(sequences)) > 0) == (kind == "sorted")).sum())
                records.append({"length": length, "distinct": most, "set": kind, "n": len(sequences),
                                "accuracy": right / len(sequences),
                                "accuracy_interval": wilson_interval(right, len(sequences))})
    return records


def measure_pairs(model, each=8):
    """The comparison that a model computes: margins `[100, 100]` of each - 1 more v and as many w around v, w; row v,
    column w.

    A sequence of `each` times v and then `each` times w is sorted if and only if v <= w. `each` = 1 is the bare pair.
    """
    values = torch.arange(LARGEST_VALUE + 1)
    pairs = torch.cartesian_prod(values, values)
    return margins(model, pairs.repeat_interleave(each, dim=1)).view(len(values), len(values))


def pair_errors(table):
    """The pairs `[v, w]` on the wrong side of the step function of `measure_pairs`: a list."""
    values = torch.arange(len(table))
    return ((table > 0) != (values.unsqueeze(1) <= values)).nonzero().tolist()


def make_long_sets(length, size):
    """Test sets of a length that the data folder has none of, as `load_group` returns them; each length has a seed of
    its own."""
    sets = draw_test_sets(size, lambda generator: draw_sorted(length, generator), SEED + 1000 + length, set())
    return {kind: (torch.tensor(sequences), torch.tensor([1] * (size // 2) + [0] * (size - size // 2)))
            for kind, sequences in sets.items()}


def examine(model, data_dir):
    """The recommended model beyond its runs: lengths to 1,024, every failure up to `MOST_FAILURES`, the comparison it
    makes, its bias."""
    accuracy, failures = [], []
    lengths = [*TEST_LENGTHS, *LONGEST]
    progress = Progress("sequence values", sum(lengths))
    for number, length in enumerate(lengths):
        about = {"encoding": RECOMMENDED, "set": "length", "length": length, "gap_source": None}
        if length in LONGEST:
            sets = make_long_sets(length, LONGEST[length])
        else:
            ensure_test_set(data_dir, length)
            sets = load_group(data_dir, about)
        logits = classify_group(model, sets)
        accuracy += measure_group(logits, sets, about)
        failures += find_failures(logits, sets, about, most=MOST_FAILURES)
        progress.update(sum(lengths[:number + 1]))
    tables = {name: measure_pairs(model, each) for name, each in [("alone", 1), ("eight of each", 8)]}
    return {KEY: weights_digest(model.state_dict()), "accuracy": accuracy,
            "failures_of_each_set_at_most": MOST_FAILURES, "failures": failures,
            "every_window": judge(window_margins(model)) if applies(model) else None,
            "pair_errors": {name: pair_errors(table) for name, table in tables.items()},
            "pair_margins": {name: table.tolist() for name, table in tables.items()},
            "bias": {"reach": model.pos_encoding.reach, "weights": model.pos_encoding.weights.tolist()}}
