"""Several draws of the test sets, and of far longer sequences than the data folder has.

Shapes in comments: N sequences, L length.
"""

import math
import statistics

from support.cli import UserError
from support.plots import wilson_interval

import torch

from beyond.counting import CountedModel, counts_suffice
from beyond.records import accuracy, student
from extrapolation.analysis import MAIN_KINDS, classify
from generate_data import NEGATIVES, SEED, draw_sorted, draw_test_sets

DRAWS = 5
LONGEST_WHOLE = 4096  # values of a sequence whose attention, L x L for each head, fits in memory
COUNTED_FROM = 512  # shorter sequences go through the model itself


def make_sets(length, size, seed, seen=frozenset(), kinds=tuple(NEGATIVES)):
    """Test sets of one length, `{kind: (sequences [N, L], labels [N])}`; none is in `seen`."""
    sets = draw_test_sets(size, lambda random: draw_sorted(length, random), seed, seen, kinds)
    labels = torch.tensor([1] * (size // 2) + [0] * (size - size // 2))
    return {kind: (torch.tensor(sequences), labels) for kind, sequences in sets.items()}


def draw_sets(length, draw, size, seen):
    """Draw number `draw` of the main test sets of one length, from seeds of its own."""
    seed = SEED + 1_000_000 * (draw + 1) + length
    return make_sets(length, size, seed, seen, MAIN_KINDS)


def answers(model, sequences):
    """The classes `[N]` that a model gives `sequences [N, L]`; for long ones by counting.

    Raises:
        UserError: if they are too long to go through the model, and counts do not suffice.
    """
    length = sequences.size(1)
    if length >= COUNTED_FROM and counts_suffice(model):
        counted = CountedModel(model)
        return torch.stack([counted.margins(each).min() > 0 for each in sequences]).long()
    if length > LONGEST_WHOLE:
        raise UserError(
            f"sequences of {length:,} values need too much memory in this model: ask for at most "
            f"{LONGEST_WHOLE:,}"
        )
    return classify(model, sequences).argmax(dim=1)


def measure_draws(model, length, size, seen, draws=DRAWS):
    """How many answers are right in each draw: records of `kind`, `length`, `draw`, `n`, `right`.

    Args:
        model: the classifier.
        length: values of a sequence.
        size: sequences of each set, half of them sorted; the kinds share the sorted half.
        seen: the set of sequences, as tuples, that no set may hold.
        draws: how many draws.
    """
    records = []
    for draw in range(draws):
        sets = draw_sets(length, draw, size, seen)
        together = torch.cat([sequences for sequences, _ in sets.values()])
        together, inverse = together.unique(dim=0, return_inverse=True)
        given = answers(model, together)[inverse].split(size)
        for answer, (kind, (_, labels)) in zip(given, sets.items()):
            right = int((answer == labels).sum())
            values = {"kind": kind, "length": length, "draw": draw}
            records.append({**values, "n": size, "right": right})
    return records


def summarize_draws(records):
    """Accuracy over training seeds and draws, with an interval that holds both.

    Seeds and draws are crossed random effects (as in Owen 2007, Annals of Applied Statistics 1,
    386). The mean over S seeds and D draws has at most the variance (that of the seeds' means) / S
    + (that of the draws' means) / D; Student's t of the smaller number makes an interval of it. It
    has no width where all is right, although only so many sequences were tried. So the interval
    given is the union with Wilson's of all answers pooled.

    Args:
        records: those of `measure_draws`, of one kind and length, each with its `seed`; every seed
            has the same draws.

    Returns:
        A dict: `seeds`, `draws`, `n`, `right`, the `lowest` and the `highest` accuracy of a seed on
        a draw, `interval`.

    Raises:
        UserError: if the seeds have different draws.
    """
    shares = {(record["seed"], record["draw"]): accuracy(record) for record in records}
    means = []  # of each seed; of each draw
    for place in (0, 1):
        groups = {}
        for key, share in shares.items():
            groups.setdefault(key[place], []).append(share)
        means.append([statistics.mean(groups[name]) for name in sorted(groups)])
    if len(shares) < len(means[0]) * len(means[1]):
        raise UserError("the seeds have different draws: measure them all with the same --draws")
    several = [values for values in means if len(values) > 1]
    half = 0.0
    if several:
        variance = sum(statistics.variance(values) / len(values) for values in several)
        half = student(min(map(len, several))) * math.sqrt(variance)
    n, right = (sum(record[key] for record in records) for key in ("n", "right"))
    low, high = wilson_interval(right, n)
    mean = statistics.mean(shares.values())
    return {
        "seeds": len(means[0]),
        "draws": len(means[1]),
        "n": n,
        "right": right,
        "lowest": min(shares.values()),
        "highest": max(shares.values()),
        "interval": [max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))],
    }
