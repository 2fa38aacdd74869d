"""Why the required models fail on long sequences, measured without training them anew.

Is it the positions? Short sequences are placed where long ones end; they are moved along; and long
sequences are given positions from the trained range, in one part of the model alone.
Shapes in comments: N sequences, L length, T queries, S keys, H heads.
"""

import math

from support.cli import Progress

import torch

from extrapolation.analysis import fill_by_batch, load_group
from extrapolation.evaluation import summarize
from generate_data import GAP_LENGTH, GAP_SOURCES

ABSOLUTE = ("sinusoidal", "learned")  # the required encodings that add rows
SHIFTS = (1, 2, 4, 8)
KIND = "swap"  # one inversion these models do not see even at trained lengths
# {treatment: (positions for the attention weights, positions for everything else)}
STRETCHED = {
    "original": ("original", "original"),
    "stretched": ("stretched", "stretched"),
    "stretched in queries and keys": ("stretched", "original"),
    "stretched in values and stream": ("original", "stretched"),
}


def logits_under(model, sequences, positions, pairs):
    """Logits when the attention weights see other positions than the rest of the model.

    Each pair holds two names of `positions`: (in queries and keys, elsewhere). A stream of its own
    runs through the model: the embeddings with the positions of the second name. Its attention
    weights are taken, layer by layer and head by head, from the model at the positions of the first
    name. Everything else (values, residual stream, feed-forward, pooling) is the stream's own. With
    one name twice this is the model at those positions.

    Args:
        model: a classifier in evaluation mode whose encoding adds rows, which its `rows_at` gives.
        sequences: `[N, L]`.
        positions: `{name: [L]}`.
        pairs: pairs of names, among them (name, name) for each first name.

    Returns:
        `{pair: logits [N, 2]}`, on the CPU.
    """
    weight = model.classifier.weight
    rows = {name: model.pos_encoding.rows_at(places) for name, places in positions.items()}
    logits = torch.empty(len(sequences), len(pairs), 2, dtype=weight.dtype)

    def answer(part):  # [N, pairs, 2]
        embeddings = model.embedding(part.to(weight.device)) * math.sqrt(model.d_model)
        streams = {pair: embeddings + rows[pair[1]].to(embeddings) for pair in pairs}
        for layer in model.layers:
            weights = {}
            for name in dict(pairs):
                h = layer.norm1(streams[name, name])
                weights[name] = layer.self_attn.scores(h, h, model.pos_encoding).softmax(dim=-1)
            for pair, stream in streams.items():
                streams[pair] = after_layer(layer, stream, weights[pair[0]])
        pooled = [model.pooling(model.norm(each), model.classifier) for each in streams.values()]
        return model.classifier(torch.stack(pooled, dim=1))

    fill_by_batch(logits, sequences, answer)
    return dict(zip(pairs, logits.unbind(dim=1)))


def after_layer(layer, stream, weights):
    """What a layer makes of `stream [N, L, d_model]`, given attention weights `[N, H, T, S]`."""
    attention = layer.self_attn
    heads = weights @ attention.split_heads(attention.W_v(layer.norm1(stream)))
    stream = stream + attention.W_o(attention.combine_heads(heads))
    return stream + layer.feed_forward(layer.norm2(stream))


def measure_positions(model, data_dir, num_samples=None):
    """The position control: short sequences, with their ordinary gaps, where long sequences end.

    The sequences have `GAP_LENGTH` values. They stand at the first positions, then at the last
    positions of sequences of 32, 64, 128 and 256 values.

    Returns:
        Records of `first_position` and the measures of `summarize`.
    """
    sequences, labels = load_group(data_dir, {"length": GAP_LENGTH}, num_samples, [KIND])[KIND]
    records = []
    for first in (0, *(source - GAP_LENGTH for source in GAP_SOURCES)):
        positions, pair = {"moved": first + torch.arange(GAP_LENGTH)}, ("moved", "moved")
        measures = summarize(logits_under(model, sequences, positions, [pair])[pair], labels)
        records.append(
            {"first_position": first, "length": GAP_LENGTH, "negatives": KIND, **measures}
        )
    return records


def treatments(length, trained, longest):
    """The positions that sequences of `length` are given, and where.

    `original` positions are 0, 1, 2, ... Sequences no longer than `trained` values, the longest
    training sequence, are moved along, as far as the encoding has rows (`longest`). In longer ones
    positions are `stretched`: spread evenly over the trained range, 0 to trained - 1.

    Returns:
        `({name: positions [L]}, {treatment: (name in queries and keys, name elsewhere)})`.
    """
    positions = {"original": torch.arange(length, dtype=torch.float64)}
    if length > trained:
        positions["stretched"] = torch.linspace(0, trained - 1, length, dtype=torch.float64)
        return positions, STRETCHED
    for shift in SHIFTS:
        if length + shift <= longest:
            positions[f"moved by {shift}"] = positions["original"] + shift
    return positions, {name: (name, name) for name in positions}


def measure_dissection(model, data_dir, lengths, num_samples, trained):
    """Right answers on swaps under each treatment, by length.

    Args:
        model: as for `logits_under`.
        data_dir: folder of the test sets.
        lengths: lengths of the test sets.
        num_samples: sequences of each set.
        trained: values of the longest training sequence.

    Returns:
        Records of `treatment`, `length`, `negatives`, `n`, `right`.
    """
    progress, done, records = Progress("dissected values", sum(lengths)), 0, []
    for length in lengths:
        sequences, labels = load_group(data_dir, {"length": length}, num_samples, [KIND])[KIND]
        positions, pairs = treatments(length, trained, model.longest)
        logits = logits_under(model, sequences, positions, list(pairs.values()))
        for treatment, pair in pairs.items():
            record = {"treatment": treatment, "length": length, "negatives": KIND, "n": len(labels)}
            right = int((logits[pair].argmax(dim=1) == labels).sum())
            records.append({**record, "right": right})
        done += length
        progress.update(done)
    return records


def measure_shift(encoding, shifts=(1, 2, 8, 64), positions=1000):
    """How exactly PE(pos + k) = R(k) PE(pos) holds for a sinusoidal encoding: records.

    `max_error_float64` is the largest error of the formula, `max_error_float32` that of the table
    as the model adds it.
    """
    records = []
    for k in shifts:
        record, R = {"k": k, "positions": positions}, encoding.shift_matrix(k)
        for dtype in (torch.float64, torch.float32):
            table = encoding.rows(positions + k, dtype).double()
            error = (table[:positions] @ R.T - table[k:]).abs().max().item()
            record["max_error_" + str(dtype).removeprefix("torch.")] = error
        records.append(record)
    return records


@torch.no_grad()
def measure_attention(model, sequences, trained):
    """Attention of each layer to keys at trained and at never trained positions: records.

    The keys are in blocks: positions 0 to trained - 1, then doubling. Over all heads and queries of
    `sequences [N, L]`, a record has for a block: `score_mean` and `score_sd` of the scores, centred
    for each query (a softmax does not see their mean); `weight_ratio`, the attention that the block
    gets over what equal attention would give it; and, over all keys, `entropy_share`, the entropy
    of the weights over its maximum log L.
    """
    length = sequences.size(1)
    edges = [0, min(trained, length)]
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    h, records = model.embed(sequences.to(next(model.parameters()).device)), []
    for number, layer in enumerate(model.layers):
        x = layer.norm1(h)
        scores = layer.self_attn.scores(x, x, model.pos_encoding)  # [N, H, T, S]
        weights = scores.softmax(dim=-1)
        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(dim=-1).mean().item()
        centred = scores - scores.mean(dim=-1, keepdim=True)
        for start, end in zip(edges, edges[1:]):
            block, share = centred[..., start:end], weights[..., start:end].sum(dim=-1).mean()
            records.append(
                {
                    "layer": number,
                    "length": length,
                    "keys_from": start,
                    "keys_to": end - 1,
                    "score_mean": block.mean().item(),
                    "score_sd": block.std().item(),
                    "weight_ratio": (share * length / (end - start)).item(),
                    "entropy_share": entropy / math.log(length),
                }
            )
        h = layer(h, None, model.pos_encoding)
    return records
