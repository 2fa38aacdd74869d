"""The required encodings that add rows, taken apart without training anew: which positions must be among the trained
ones, and where in the model.

Shapes in comments: N sequences, L length.
"""

import math

import torch

from extrapolation.analysis import TOKENS_AT_ONCE, load_group
from learning.evaluation import evaluating

SHIFTS = (1, 2, 4, 8)
NEGATIVES = "swap"  # one inversion these models do not see even where they were trained
# Which positions the attention weights are computed from, and which all else is.
STRETCHED = {"original": ("original", "original"), "stretched": ("stretched", "stretched"),
             "stretched in queries and keys": ("stretched", "original"),
             "stretched in values and stream": ("original", "stretched")}


def treatments(length, trained, most):
    """The positions that sequences of `length` are given, and where: `({name: positions [L]}, {treatment: (name for
    queries and keys, name elsewhere)})`.

    `original` positions are 0, 1, 2, ... Sequences no longer than the longest training sequence, of `trained` values,
    are moved along, as far as the encoding has rows: `most` of them. In longer ones positions are `stretched`: spread
    evenly over the trained range, 0 to trained - 1.
    """
    original = torch.arange(length, dtype=torch.float64)
    if length > trained:
        return {"original": original,
                "stretched": torch.linspace(0, trained - 1, length, dtype=torch.float64)}, STRETCHED
    positions = {"original": original} | {f"moved by {shift}": original + shift for shift in SHIFTS
                                          if length + shift <= most}
    return positions, {name: (name, name) for name in positions}


@torch.no_grad()
def logits_under(model, sequences, positions, pairs):
    """Logits of sequences `[N, L]` whose positions differ between queries and keys and the rest of the model.

    For each pair of names of `positions`, (in queries and keys, elsewhere), a stream of its own runs through the model:
    the embeddings with the positions of the second name. Its attention weights are taken, layer by layer and head by
    head, from the model as it is at the positions of the first name; everything else (values, residual stream,
    feed-forward, pooling) is the stream's own. With one name twice this is the model at those positions.

    Args:
        model: a classifier whose encoding adds rows that its `rows_at` gives; in evaluation mode.
        sequences: `[N, L]`.
        positions: `{name: [L]}`.
        pairs: pairs of names, among them (name, name) for each first name.

    Returns:
        `{pair: logits [N, 2]}`.
    """
    embeddings = model.embedding(sequences) * math.sqrt(model.config.d_model)
    rows = {name: model.pos_encoding.rows_at(each).to(embeddings) for name, each in positions.items()}
    streams = {pair: embeddings + rows[pair[1]] for pair in pairs}
    for layer in model.layers:
        normalised = {name: layer.norm1(streams[name, name]) for name in dict(pairs)}
        weights = {name: layer.self_attn.scores(h, h, model.pos_encoding).softmax(dim=-1)
                   for name, h in normalised.items()}
        streams = {pair: after_layer(layer, stream, weights[pair[0]]) for pair, stream in streams.items()}
    return {pair: model.classifier(model.pooling(model.norm(stream), model.classifier))
            for pair, stream in streams.items()}


def after_layer(layer, stream, weights):
    """What a layer in evaluation mode makes of `stream [N, L, d_model]` if its attention weights are these."""
    attention = layer.self_attn
    heads = weights @ attention.split_heads(attention.W_v(layer.norm1(stream)))
    stream = stream + attention.W_o(attention.combine_heads(heads))
    return stream + layer.linear2(layer.linear1(layer.norm2(stream)).relu())


def measure_dissection(model, data_dir, lengths, num_samples, trained, about):
    """Right answers on swaps under each treatment, by length: records of `treatment`, `length`, `negatives`, `n`,
    `right`.

    Args:
        model: a classifier whose encoding adds rows that its `rows_at` gives.
        data_dir: folder of the test sets.
        lengths: lengths of the test sets.
        num_samples: sequences of each set.
        trained: values of the longest training sequence.
        about: what is put before the counts in each record.
    """
    records, device = [], next(model.parameters()).device
    most = model.pos_encoding.max_len if model.pos_encoding.bounded else math.inf
    for length in lengths:
        sequences, labels = load_group(data_dir, {"length": length, "gap_source": None}, num_samples,
                                       [NEGATIVES])[NEGATIVES]
        positions, chosen = treatments(length, trained, most)
        right = dict.fromkeys(chosen, 0)
        with evaluating(model):
            for part, answers in zip(*(each.to(device).split(max(1, TOKENS_AT_ONCE // length))
                                       for each in (sequences, labels))):
                logits = logits_under(model, part, positions, list(chosen.values()))
                for treatment, pair in chosen.items():
                    right[treatment] += int((logits[pair].argmax(dim=1) == answers).sum())
        records += [{**about, "treatment": treatment, "length": length, "negatives": NEGATIVES, "n": len(labels),
                     "right": count} for treatment, count in right.items()]
    return records
