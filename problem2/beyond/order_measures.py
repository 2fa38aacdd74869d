"""What an answer depends on: place or neighbours, positions or values, threshold or ranking.

A margin is the logit of "sorted" minus the logit of "unsorted".
Shapes in comments: N sequences, L length.
"""

import copy
import random

import torch

from beyond.draw_sets import make_sets
from beyond.study_measures import LONGER_STILL, margins
from dataset import LARGEST_VALUE
from extrapolation import analysis
from extrapolation.evaluation import area_under_curve
from generate_data import SEED, one_inversion
from positional_encoding import NoPositionalEncoding, PositionalEncoding

LENGTH = 16  # values of a control, as in the longest training sequences
GAPS = (1, 2, 5, 10, 20, 50)  # between two values: from each to below the next
WIDE = 20


def middle_values(sequence, generator):
    """Ten values alone, sorted: in order, but far from the line of ordinary sequences."""
    return sorted(generator.randint(45, 54) for _ in sequence)


def two_blocks(sequence, generator):
    """Half of the values from 0 to 19 and half from 80 to 99, sorted."""
    half = len(sequence) // 2
    low, high = (sorted(generator.sample(range(start, start + 20), half)) for start in (0, 80))
    return low + high


def jump_exchanged(sequence, generator):
    """`two_blocks` with the last low and the first high value exchanged: one large descent."""
    sequence, half = two_blocks(sequence, generator), len(sequence) // 2
    sequence[half - 1 : half + 1] = sequence[half], sequence[half - 1]
    return sequence


def blocks_reversed(size):
    """The control that reverses each block of `size` values."""

    def reverse(sequence, generator):
        blocks = [sequence[i : i + size] for i in range(0, len(sequence), size)]
        return [value for block in blocks for value in block[::-1]]

    return reverse


# Each takes a sorted sequence of different values and a random generator.
CONTROLS = {
    "sorted": lambda sequence, generator: sequence,
    "one inversion": one_inversion,
    "all pairs exchanged": blocks_reversed(2),
    "blocks of 4 reversed": blocks_reversed(4),
    "last value first": lambda sequence, generator: sequence[-1:] + sequence[:-1],
    "rotated in the middle": lambda sequence, generator: sequence[8:] + sequence[:8],
    "sorted, 0-19 and 80-99": two_blocks,
    "the same, jump exchanged": jump_exchanged,
    "sorted, 45-54": middle_values,
}


def draw_controls(count):
    """`count` sequences of each control, `{control: [count, LENGTH]}`."""
    controls = {}
    for control, make in CONTROLS.items():
        generator = random.Random(SEED)  # so all controls are made of the same sorted sequences
        bases = [sorted(generator.sample(range(LARGEST_VALUE + 1), LENGTH)) for _ in range(count)]
        controls[control] = torch.tensor([make(base, generator) for base in bases])
    return controls


def place_distances(controls):
    """How far the values of each control are from those usual at their places: `{control: float}`.

    The median of the sum of squares of (value - mean) / standard deviation, both those of the place
    in sorted sequences. It knows places alone and compares no two values of a sequence.
    """
    usual = controls["sorted"].double()
    mean, deviation = usual.mean(dim=0), usual.std(dim=0)
    return {
        control: ((sequences - mean) / deviation).square().sum(dim=1).median().item()
        for control, sequences in controls.items()
    }


def measure_controls(model, count=1000):
    """How many of `count` sequences of each control are called sorted: records."""
    records = []
    for control, sequences in draw_controls(count).items():
        called_sorted = int((margins(model, sequences) > 0).sum())
        records.append({"control": control, "n": count, "called_sorted": called_sorted})
    return records


def best_threshold(scores, labels):
    """The threshold for `scores [N]` above which "sorted" is right most often."""
    scores, order = scores.sort(descending=True)
    labels = labels[order]
    zero = torch.zeros(1, dtype=torch.long)
    above, below = torch.cat([zero, labels.cumsum(0)]), torch.cat([zero, (1 - labels).cumsum(0)])
    right = above + below[-1] - below  # [N + 1]: right if the k highest are called sorted
    edges = torch.cat([scores[:1] + 1, scores, scores[-1:] - 1])
    right[edges[:-1] == edges[1:]] = -1  # no threshold parts equal scores
    best = right.argmax()
    return ((edges[best] + edges[best + 1]) / 2).item()


def measure_ranking(model, data_dir, lengths, num_samples):
    """AUC, and right answers at the threshold of 0 and at that which is best for the length.

    The best threshold is chosen on as many validation sequences of the same length and kind, drawn
    with a seed of their own: an upper bound for what a moved threshold can give.
    """
    records = []
    for length in lengths:
        sets = analysis.load_group(data_dir, {"length": length}, num_samples, analysis.MAIN_KINDS)
        seen = {tuple(row) for sequences, _ in sets.values() for row in sequences.tolist()}
        val = make_sets(length, num_samples, SEED + 3000 + length, seen, analysis.MAIN_KINDS)
        chosen_on, tested = (
            analysis.classify_group(model, val),
            analysis.classify_group(model, sets),
        )
        for kind, (_, labels) in sets.items():
            scores, val_scores = (
                each[kind] @ torch.tensor([-1.0, 1]) for each in (tested, chosen_on)
            )
            threshold = best_threshold(val_scores, val[kind][1])
            record = {"length": length, "negatives": kind, "n": len(labels)}
            record["auc"] = area_under_curve(scores, labels)
            for name, cut in (("right", 0.0), ("right_at_best_threshold", threshold)):
                record[name] = int(((scores > cut).long() == labels).sum())
            records.append(record | {"threshold": threshold})
    return records


class GivenRows(NoPositionalEncoding):
    """Adds the rows that it is given, `[L, d_model]`."""

    def __init__(self, rows):
        super().__init__(rows.size(1))
        self.rows = rows

    def forward(self, x):
        return x + self.rows


@torch.no_grad()
def measure_rows(model, data_dir, lengths, num_samples):
    """Right answers on swaps with the rows as they are, in random order, and at zero: records.

    For an encoding that adds rows to the input and does nothing else.
    """
    records, kind = [], "swap"
    for length in lengths:
        sequences, labels = analysis.load_group(data_dir, {"length": length}, num_samples, [kind])[
            kind
        ]
        rows = model.pos_encoding(torch.zeros(1, length, model.d_model))[0]
        order = torch.randperm(length, generator=torch.Generator().manual_seed(0))
        changed = copy.deepcopy(model)
        for name, given in [("original", rows), ("shuffled", rows[order]), ("zeros", 0 * rows)]:
            changed.pos_encoding = GivenRows(given)
            right = int(((margins(changed, sequences) > 0).long() == labels).sum())
            fields = {"rows": name, "length": length, "negatives": kind}
            records.append({**fields, "n": len(labels), "right": right})
    return records


@torch.no_grad()
def measure_monotone(model, data_dir, lengths, num_samples, pairs=500):
    """How often outputs follow the order of two values of one sorted sequence: records.

    For a model that pools differences. A feature counts as much as its smallest difference moves
    the margin between sorted and swapped sequences. Its direction, rising or falling with the
    value, is that of most pairs that are `WIDE` apart. A record has the `gap` between the two
    values (from this one of `GAPS` to below the next), the number `n` of pairs of positions, the
    share `in_order` that follow the direction, and the weight of the features that rise, `rising`.
    """
    direction = model.classifier.weight[1] - model.classifier.weight[0]
    if model.config.pooling == "five_features":
        direction = direction @ model.pooling.linear.weight.split(model.d_model, dim=1)[1]
    records, kind = [], "swap"
    for length in lengths:
        sequences, labels = analysis.load_group(data_dir, {"length": length}, num_samples, [kind])[
            kind
        ]
        h = model.encode(sequences)  # [N, L, d_model]
        lowest = h.diff(dim=1).amin(dim=1)
        moved = direction * (lowest[labels == 1].mean(dim=0) - lowest[labels == 0].mean(dim=0))
        weights = moved.clamp(min=0) / moved.clamp(min=0).sum()
        generator = torch.Generator().manual_seed(0)
        i, j = torch.randint(length, (2, pairs), generator=generator).sort(dim=0).values
        values, h = sequences[labels == 1], h[labels == 1]
        gap = values[:, j] - values[:, i]  # [N, pairs]
        rises = (h[:, j] > h[:, i]).float()  # [N, pairs, d_model]
        rising = rises[gap >= WIDE].mean(dim=0) > 0.5
        in_order = torch.where(rising, rises, 1 - rises) @ weights  # [N, pairs]
        for low, high in zip(GAPS, (*GAPS[1:], LARGEST_VALUE + 1)):
            chosen = in_order[(low <= gap) & (gap < high)]
            record = {"length": length, "gap": low, "n": len(chosen)}
            record["in_order"] = chosen.mean().item() if len(chosen) else None
            records.append(record | {"rising": weights[rising].sum().item()})
    return records


def measure_order_in_pooling(model, data_dir, num_samples):
    """What the study asks of a model that pools differences between neighbours: a dict."""
    longer, few = [], min(num_samples, 100)
    for length in LONGER_STILL:
        if length <= model.longest:
            sets = make_sets(length, few, SEED + 1000 + length, kinds=analysis.MAIN_KINDS)
            logits = analysis.classify_group(model, sets)
            for kind, (_, labels) in sets.items():
                right = int((logits[kind].argmax(dim=1) == labels).sum())
                fields = {"length": length, "negatives": kind}
                longer.append({**fields, "n": len(labels), "right": right})
    record = {"longer": longer, "controls": measure_controls(model)}
    record["monotone"] = measure_monotone(model, data_dir, (16, 256), few)
    if type(model.pos_encoding).forward is not PositionalEncoding.forward:  # it adds rows
        record["rows"] = measure_rows(model, data_dir, (16, 64, 256), num_samples)
    return record
