"""Measurements beyond the training lengths; each returns records that describe themselves.

Shapes in comments: B batch, N sequences, L length, T queries, S keys, H heads, D width of one head.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from dataset import ExtrapolationDataset
from generate_data import GAP_LENGTH, GAP_SOURCES, NEGATIVES
from learning.evaluation import summarize

MAIN_KINDS = ("swap", "one_inversion")
SAMPLED = 400
TOKENS_AT_ONCE = 1024
ABSOLUTE = ("sinusoidal", "learned")


def evaluation_groups(lengths):
    """The groups of test sets that share their sorted half: `{"set": ..., "length": ..., "gap_source": ...}` each.

    `set` is "length" (sequences of that length) or "gap control" (windows of 16 values cut from sorted sequences of
    `gap_source` values: the small gaps of long sequences at a length that was trained).
    """
    return ([{"set": "length", "length": length, "gap_source": None} for length in lengths]
            + [{"set": "gap control", "length": GAP_LENGTH, "gap_source": source} for source in GAP_SOURCES])


def load_group(data_dir, group, num_samples=None, kinds=tuple(NEGATIVES)):
    """`{kind of negatives: (sequences [N, L], labels [N])}` of a group, half sorted; at most `num_samples` of each
    kind, or if that is None all of the two kinds that the findings rest on and `SAMPLED` of the others."""
    sets = {}
    for kind in kinds:
        dataset = ExtrapolationDataset(data_dir, group["length"], kind=kind, gap_source=group["gap_source"])
        count = num_samples or (None if kind in MAIN_KINDS else SAMPLED)
        keep = torch.cat([(dataset.labels == label).nonzero().flatten()[:count and count // 2] for label in (1, 0)])
        sets[kind] = dataset.sequences[keep], dataset.labels[keep]
    return sets


def classify(model, sequences, batch_size=None):
    """Logits `[N, 2]` of sequences `[N, L]` of one length, on the CPU; `batch_size` in one pass, or as many as memory
    suggests."""
    device = next(model.parameters()).device
    batch_size = batch_size or max(1, TOKENS_AT_ONCE // sequences.size(1))
    # All of it beforehand: small results kept among the large tensors of later batches would hold the memory of these.
    logits = torch.empty(len(sequences), 2)

    @torch.no_grad()
    def answer(place, part):
        place.copy_(model(part.to(device)))

    # One thread a batch: less waiting than when all threads share every small product.
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(answer, logits.split(batch_size), sequences.split(batch_size)))
    return logits


def classify_group(model, sets, batch_size=None):
    """Logits `[N, 2]` for each kind of negatives; sequences that several kinds share are classified once."""
    sequences, inverse = torch.cat([sequences for sequences, _ in sets.values()]).unique(dim=0, return_inverse=True)
    logits = classify(model, sequences, batch_size)[inverse].split([len(labels) for _, labels in sets.values()])
    return dict(zip(sets, logits))


def measure_group(logits, sets, about):
    """Accuracy with its interval, AUC and share called sorted for each kind of negatives: a list of records.

    Args:
        logits: `{kind: [N, 2]}`, as `classify_group` gives them.
        sets: `{kind: (sequences [N, L], labels [N])}`.
        about: what is put before the measures in each record.
    """
    return [{**about, "negatives": kind, **summarize(logits[kind], labels)} for kind, (_, labels) in sets.items()]


def find_failures(logits, sets, about, most=3):
    """The sequences answered wrongly with the most confidence, `most` of each kind: a list of records.

    Arguments as for `measure_group`. A record has the `sequence`, whether it `is_sorted`, the `violations` (positions i
    with a value above the next) and the `probability_sorted` that the model gave it.
    """
    records = []
    for kind, (sequences, labels) in sets.items():
        probability = logits[kind].softmax(dim=1)[:, 1]
        confidence = torch.where(labels == 1, 1 - probability, probability)  # in the wrong answer
        for index in confidence.argsort(descending=True)[:most].tolist():
            if confidence[index] > 0.5:
                sequence = sequences[index]
                records.append({**about, "negatives": kind, "is_sorted": labels[index].item(),
                                "probability_sorted": probability[index].item(),
                                "violations": (sequence[:-1] > sequence[1:]).nonzero().flatten().tolist(),
                                "sequence": sequence.tolist()})
    return records


@contextmanager
def moved(model, first):
    """Within the block of code, the model takes sequences to stand at positions `first`, `first` + 1, ..., instead of
    0, 1, ...

    For encodings that add to the input; what stands before them is cut off again before any attention.
    """
    hooks = [model.pos_encoding.register_forward_pre_hook(lambda module, args: (F.pad(args[0], (0, 0, first, 0)),)),
             model.pos_encoding.register_forward_hook(lambda module, args, output: output[:, first:])]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure_positions(model, data_dir, num_samples, about, batch_size=None):
    """The position control: sequences of `GAP_LENGTH` values, with their ordinary gaps, at positions that training
    reached and at the last
    ones of sequences of 32, 64, 128 and 256 values: a list of records.

    A record has `first_position` and the measures of `summarize`, for the negatives swap.
    """
    sequences, labels = load_group(data_dir, {"length": GAP_LENGTH, "gap_source": None}, num_samples, ["swap"])["swap"]
    records = []
    for first in (0, *(source - GAP_LENGTH for source in GAP_SOURCES)):
        with moved(model, first):
            records.append({**about, "first_position": first, "length": GAP_LENGTH, "negatives": "swap",
                            **summarize(classify(model, sequences, batch_size), labels)})
    return records


def measure_shift(encoding, shifts=(1, 2, 8, 64), positions=1000):
    """How exactly PE(pos + k) = R(k) PE(pos) holds for a sinusoidal encoding: records with the largest error over
    positions.

    `max_error_float64` is that of the formula, `max_error_float32` that of the table as the model adds it.
    """
    table64, table32 = (encoding.rows(positions + max(shifts), dtype) for dtype in (torch.float64, torch.float32))
    records = []
    for k in shifts:
        R = encoding.shift_matrix(k)
        errors = [(table[:positions].to(torch.float64) @ R.T
                   - table[k:positions + k].to(torch.float64)).abs().max().item()
                  for table in (table64, table32)]
        records.append({"k": k, "positions": positions, "max_error_float64": errors[0], "max_error_float32": errors[1]})
    return records


@torch.no_grad()
def measure_attention(model, sequences, trained_length, about):
    """Attention of each layer to keys at trained and at never trained positions: a list of records.

    For sequences `[N, L]` and each layer, by block of keys (0 to trained_length - 1, then doubling), over all heads and
    queries: `score_mean` and `score_sd` of the logits q k / sqrt(D), centred for each query (a softmax does not see
    their mean), `weight_ratio`, the attention that the block gets over what equal attention would give it; and, over
    all keys, `entropy_share`, the entropy of the weights over its maximum log L.
    """
    length = sequences.size(1)
    edges = [0, min(trained_length, length)]
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    h = model.embed(sequences.to(next(model.parameters()).device))
    records = []
    for number, layer in enumerate(model.layers):
        x = layer.norm1(h)
        scores = layer.self_attn.scores(x, x, model.pos_encoding)  # [N, H, T, S]
        weights = scores.softmax(dim=-1)
        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(dim=-1).mean().item()
        centred = scores - scores.mean(dim=-1, keepdim=True)
        for start, end in zip(edges, edges[1:]):
            block = centred[..., start:end]
            records.append({**about, "layer": number, "length": length, "keys_from": start, "keys_to": end - 1,
                            "score_mean": block.mean().item(), "score_sd": block.std().item(),
                            "weight_ratio": (weights[..., start:end].sum(dim=-1).mean() * length
                                             / (end - start)).item(),
                            "entropy_share": entropy / math.log(length)})
        h = layer(h, None, model.pos_encoding)
    return records


def accuracy_table(records, kinds=MAIN_KINDS):
    """Text: accuracy by length, a block for each kind of negatives and a line for each encoding."""
    lengths = sorted({record["length"] for record in records if record["set"] == "length"})
    lines = []
    for kind in kinds:
        lines.append(f"{kind:14}" + "".join(f"{length:>8}" for length in lengths))
        chosen = [record for record in records if record["set"] == "length" and record["negatives"] == kind]
        for encoding in dict.fromkeys(record["encoding"] for record in chosen):
            accuracy = {record["length"]: f"{record['accuracy']:.1%}" for record in chosen if record["encoding"]
                        == encoding}
            lines.append(f"  {encoding:12}" + "".join(f"{accuracy.get(length, '-'):>8}" for length in lengths))
    return "\n".join(lines)
