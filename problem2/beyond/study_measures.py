"""What the study asks of a trained model beyond accuracy.

A margin is the logit of "sorted" minus the logit of "unsorted".
Shapes in comments: N sequences, L length, T queries, S keys, H heads.
"""

import copy
import random

from support.cli import Progress
from support.files import WEIGHTS_DIGEST, weights_digest

import torch
from torch.nn import functional as F

from beyond.draw_sets import make_sets
from beyond.records import to_counts
from beyond.variants import RECOMMENDED
from beyond.verification import judge, window_margins, windows_decide
from dataset import LARGEST_VALUE
from extrapolation import analysis
from extrapolation.evaluation import summarize
from generate_data import SEED, TEST_LENGTHS, one_inversion

MOST_FAILURES = 50
LONGER_STILL = (512, 1024)  # lengths that the data folder has no test sets of
SIZE = 1000  # sequences of each of their sets


def margins(model, sequences):
    """Margins `[N]` of sequences `[N, L]`, on the CPU."""
    logits = analysis.classify(model, sequences)
    return logits[:, 1] - logits[:, 0]


def measure_dilution(model, data_dir, lengths, num_samples):
    """How far one violation moves the margin: mean and standard deviation at each length."""
    records, kind = [], "one_inversion"
    for length in lengths:
        sequences, labels = analysis.load_group(data_dir, {"length": length}, num_samples, [kind])[
            kind
        ]
        margin = margins(model, sequences)
        record = {"length": length, "n": len(labels)}
        for name, label in (("sorted", 1), (kind, 0)):
            chosen = margin[labels == label]
            record[f"margin_{name}_mean"] = chosen.mean().item()
            record[f"margin_{name}_std"] = chosen.std().item()
        records.append(record)
    return records


@torch.no_grad()
def measure_heads(model, data_dir, lengths, num_samples):
    """Where each head looks on sorted sequences: means over queries that have both neighbours.

    A record has `entropy` (nats) and `top_weight` of the weights, and the weight of the key
    `before`, `itself` and `after`.
    """
    records, device = [], next(model.parameters()).device
    for length in lengths:
        sequences, labels = analysis.load_group(
            data_dir, {"length": length}, num_samples, ["swap"]
        )["swap"]
        h = model.embed(sequences[labels == 1].to(device))
        for number, layer in enumerate(model.layers):
            x = layer.norm1(h)
            scores = layer.self_attn.scores(x, x, model.pos_encoding)
            weights = scores.softmax(dim=-1)  # [N, H, T, S]
            inner = weights[:, :, 1:-1]
            measures = {
                "entropy": -(inner * inner.clamp_min(1e-30).log()).sum(dim=-1),
                "top_weight": inner.amax(dim=-1),
                "before": weights.diagonal(-1, -2, -1)[..., :-1],
                "itself": weights.diagonal(0, -2, -1)[..., 1:-1],
                "after": weights.diagonal(1, -2, -1)[..., 1:],
            }
            for head in range(weights.size(1)):
                means = {name: value[:, head].mean().item() for name, value in measures.items()}
                records.append({"length": length, "layer": number, "head": head, **means})
            h = layer(h, None, model.pos_encoding)
    return records


def row_policies(table, trained, length):
    """Tables `{policy: [max_len, d_model]}`, of which rows 0 to trained - 1 were trained.

    The other rows: `initial`, as they were initialised; `zeros`; `copies`, the trained rows over
    and over. `interpolation` stretches the trained rows over a sequence of `length`.
    """
    zeros, stretched = table.clone(), table.clone()
    zeros[trained:] = 0
    copies = table[torch.arange(len(table)) % trained]
    rows = table[:trained].T[None]  # [1, d_model, trained]
    stretched[:length] = F.interpolate(rows, size=length, mode="linear", align_corners=True)[0].T
    return {"initial": table, "zeros": zeros, "copies": copies, "interpolation": stretched}


def measure_untrained_rows(model, data_dir, lengths, num_samples, trained):
    """Right answers of a model with learned positions under each of `row_policies`."""
    model, records = copy.deepcopy(model), []
    weight = model.pos_encoding.position_embeddings.weight
    table = weight.detach().clone()
    for length in lengths:
        sets = analysis.load_group(data_dir, {"length": length}, num_samples, analysis.MAIN_KINDS)
        for policy, rows in row_policies(table, trained, length).items():
            weight.data.copy_(rows)
            for kind, (sequences, labels) in sets.items():
                counts = to_counts(summarize(analysis.classify(model, sequences), labels))
                records.append({"length": length, "policy": policy, "negatives": kind, **counts})
    return records


def measure_ties(model, length=16, distinct=(1, 2, 4, 8, 16), count=500):
    """Right answers on sequences with many ties, sorted or with one inversion.

    Values are drawn from `distinct` neighbouring numbers.
    """
    generator, records = random.Random(0), []
    for most in distinct:
        sets = {"sorted": [], "one_inversion": []}
        for _ in range(count):
            start = generator.randint(0, LARGEST_VALUE + 1 - most)
            end = start + most - 1
            sequence = sorted(generator.randint(start, end) for _ in range(length))
            sets["sorted"].append(sequence)
            if sequence[0] < sequence[-1]:
                sets["one_inversion"].append(one_inversion(sequence, generator))
        for kind, sequences in sets.items():
            if sequences:
                called_sorted = margins(model, torch.tensor(sequences)) > 0
                right = int((called_sorted == (kind == "sorted")).sum())
                fields = {"length": length, "distinct": most, "set": kind}
                records.append({**fields, "n": len(sequences), "right": right})
    return records


def measure_pairs(model, each=8):
    """The comparison that a model computes: margins `[100, 100]`, row v, column w.

    A sequence of `each` times v and then `each` times w is sorted if and only if v <= w.
    """
    values = torch.arange(LARGEST_VALUE + 1)
    pairs = torch.cartesian_prod(values, values).repeat_interleave(each, dim=1)
    return margins(model, pairs).view(len(values), len(values))


def pair_errors(table):
    """The pairs `[v, w]` for which `measure_pairs` has the wrong sign: a list."""
    values = torch.arange(len(table))
    return ((table > 0) != (values.unsqueeze(1) <= values)).nonzero().tolist()


def examine(model, data_dir):
    """The recommended model itself, not its runs: one record.

    Lengths up to 1,024, every failure up to `MOST_FAILURES`, its comparison of two values, every
    window, its bias.
    """
    accuracy, failures, done = [], [], 0
    lengths = [*TEST_LENGTHS, *LONGER_STILL]
    progress = Progress("sequence values", sum(lengths))
    for length in lengths:
        group = {"set": "length", "length": length, "gap_source": None}
        if length in LONGER_STILL:
            sets = make_sets(length, SIZE, SEED + 1000 + length)
        else:
            sets = analysis.load_group(data_dir, group)
        logits, fields = analysis.classify_group(model, sets), {"encoding": RECOMMENDED, **group}
        accuracy += analysis.measure_group(logits, sets, fields)
        failures += analysis.find_failures(logits, sets, fields, most=MOST_FAILURES)
        done += length
        progress.update(done)
    tables = {"alone": measure_pairs(model, 1), "eight of each": measure_pairs(model)}
    positions = model.pos_encoding
    return {
        WEIGHTS_DIGEST: weights_digest(model),
        "accuracy": accuracy,
        "failures_of_each_set_at_most": MOST_FAILURES,
        "failures": failures,
        "every_window": judge(window_margins(model)) if windows_decide(model) else None,
        "pair_errors": {name: pair_errors(table) for name, table in tables.items()},
        "pair_margins": {name: table.tolist() for name, table in tables.items()},
        "bias": {"reach": positions.reach, "weights": positions.weights.tolist()},
    }
