"""Problems by the length of their longest carry chain, for numbers of any length.

A carry chain begins at a column whose digits alone sum to 10 or more and goes on through the
columns to its left that sum to 9: all of them carry. Among random problems long chains are rare, so
each class is drawn on purpose.
Shapes in comments: N problems, n digits; digits `a [N, n]`, `b [N, n]`, the highest first.
"""

import torch

from dataset import encode_problems, in_order
from heads.carries import longest_chain

NINES = "all columns sum to 9"
BATCH_SIZE = 500


def draw_random(n, count, generator):
    """`count` problems as the course draws them: numbers of n digits, the first of them not 0."""
    digits = torch.randint(10, (2, count, n), generator=generator)
    digits[:, :, 0] = torch.randint(1, 10, (2, count), generator=generator)
    return digits[0], digits[1]


def draw_nines(n, count, generator):
    """`count` problems whose columns all sum to 9: no carry, but one would run through them all."""
    a = torch.randint(10, (count, n), generator=generator)
    a[:, 0] = torch.randint(1, 9, (count,), generator=generator)
    return a, 9 - a


def draw_chain(n, length, count, generator):
    """`count` problems whose longest carry chain has `length` columns, anywhere."""
    found = []
    while sum(len(pairs) for pairs in found) < count:
        pairs = torch.stack(draw_random(n, 2 * count, generator), dim=2)  # [N, n, 2]
        rows = torch.arange(len(pairs))
        # The chain goes from column `first` to the left; without a chain no column carries.
        first = torch.full_like(rows, -1)
        if length:
            first = torch.randint(length - 1, n, rows.shape, generator=generator)
        for column in range(n):
            least = int(column == 0)  # a number does not begin with 0
            inside = (column < first) & (column > first - length)
            for sums, chosen in [
                ("below 10", rows[:0] if length else rows),
                ("10 or more", rows[first == column]),
                ("9", rows[inside]),
            ]:
                pairs[chosen, column] = draw_column(sums, least, len(chosen), generator)
        found.append(pairs[longest_chain(pairs[..., 0], pairs[..., 1]) == length])
    pairs = torch.cat(found)[:count]
    return pairs[..., 0], pairs[..., 1]


def draw_column(sums, least, count, generator):
    """`count` pairs of digits `[count, 2]`, from `least` up, whose sums are as `sums` says."""
    pairs = torch.cartesian_prod(torch.arange(least, 10), torch.arange(least, 10))
    total = pairs.sum(dim=1)
    pairs = pairs[{"below 10": total < 10, "9": total == 9, "10 or more": total > 9}[sums]]
    return pairs[torch.randint(len(pairs), (count,), generator=generator)]


def problem_classes(n, count, seed):
    """`{class: (a, b)}` with `count` problems each.

    The classes are `random`, each length of the longest chain from `chain 0` to `chain n`, and
    NINES.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        "random": draw_random(n, count, generator),
        **{f"chain {length}": draw_chain(n, length, count, generator) for length in range(n + 1)},
        NINES: draw_nines(n, count, generator),
    }


def count_right(model, classes, order):
    """How many problems of each class the model answers right, free-running: `{class: count}`."""
    right = {}
    for name, digits in classes.items():
        source, target = encode_problems(*digits)
        batches = zip(source.split(BATCH_SIZE), in_order(target, order).split(BATCH_SIZE))
        right[name] = sum(
            int((model.generate(part, answer.size(1)) == answer).all(dim=1).sum())
            for part, answer in batches
        )
    return right
