"""The luck of one test set: accuracy on several draws of each, and on sequences far longer than the data folder has.

Shapes in comments: N sequences, L length.
"""

import math
import statistics

import torch

from extrapolation import counting
from extrapolation.analysis import MAIN_KINDS, classify
from extrapolation.study_figures import STUDENT
from generate_data import SEED, draw_sorted, draw_test_sets
from learning.evaluation import wilson_interval
from support.cli import UserError

DRAWS = 5
COUNTED_FROM = 512  # shorter sequences go through the model itself
LONGEST_WHOLE = 4096  # the most values whose attention, n x n for each head, is held in memory


def draw_sets(length, draw, size, seen):
    """Draw number `draw` of the test sets of one length, `{kind: (sequences [N, L], labels [N])}`; none in `seen`.

    Made as the data folder's are, from seeds that those do not use.
    """
    seed = SEED + 1_000_000 * (draw + 1) + length
    sets = draw_test_sets(size, lambda generator: draw_sorted(length, generator), seed, seen, MAIN_KINDS)
    labels = torch.tensor([1] * (size // 2) + [0] * (size - size // 2))
    return {kind: (torch.tensor(sequences), labels) for kind, sequences in sets.items()}


def answers(model, sequences):
    """The classes `[N]` that a model gives `sequences [N, L]`: long ones by counting where that applies, else a few at
    a time.

    Raises:
        UserError: if they are too long to go through the model, and counting does not apply.
    """
    length = sequences.size(1)
    if length >= COUNTED_FROM and counting.applies(model):
        counted = counting.CountedModel(model)
        return torch.stack([counted.margins(sequence).min() > 0 for sequence in sequences]).long()
    if length > LONGEST_WHOLE:
        raise UserError(f"sequences of {length:,} values do not go through this model in bounded memory: ask for at "
                        f"most {LONGEST_WHOLE:,}")
    return classify(model, sequences).argmax(dim=1)


def measure_draws(model, length, size, seen, draws=DRAWS):
    """How many answers are right in each draw: records `{"kind", "length", "draw", "n", "right"}`.

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
        together, inverse = torch.cat([sequences for sequences, _ in sets.values()]).unique(dim=0, return_inverse=True)
        given = answers(model, together)[inverse].split([len(labels) for _, labels in sets.values()])
        records += [{"kind": kind, "length": length, "draw": draw, "n": len(labels),
                     "right": int((answer == labels).sum())}
                    for answer, (kind, (_, labels)) in zip(given, sets.items())]
    return records


def summarize_draws(records):
    """Accuracy over training seeds and draws, with an interval that holds both.

    Seeds and draws are crossed random effects (as in Owen 2007, Annals of Applied Statistics 1, 386): the mean over S
    seeds and D draws has at most the variance (that of the seeds' means) / S + (that of the draws' means) / D, of which
    Student's t of the fewer of the two makes an interval. Where all is right that has no width, although only so many
    sequences were tried; so the interval given is the union with Wilson's of all answers pooled.

    Args:
        records: those of `measure_draws`, of one kind and length, each with its `seed`; every seed with the same draws.

    Returns:
        A dict: `seeds`, `draws`, `n`, `right`, the `lowest` and the `highest` accuracy of a seed on a draw, `interval`.
    """
    accuracy = {(record["seed"], record["draw"]): record["right"] / record["n"] for record in records}
    ways = [[statistics.mean(value for key, value in accuracy.items() if key[place] == each)
             for each in sorted({key[place] for key in accuracy})] for place in (0, 1)]
    several = [means for means in ways if len(means) > 1]
    half = 0.0
    if several:
        variance = sum(statistics.variance(means) / len(means) for means in several)
        half = STUDENT[min(map(len, several))] * math.sqrt(variance)
    n, right = (sum(record[key] for record in records) for key in ("n", "right"))
    low, high = wilson_interval(right, n)
    mean = statistics.mean(accuracy.values())
    return {"seeds": len(ways[0]), "draws": len(ways[1]), "n": n, "right": right, "lowest": min(accuracy.values()),
            "highest": max(accuracy.values()),
            "interval": [max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))]}
