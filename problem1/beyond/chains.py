"""Problems by the length of their longest carry chain, for numbers of any length: digits are never put together to a
number.

A carry chain begins at a column whose digits alone sum to 10 or more, and goes on through the columns to its left that
sum to 9: all of them carry. Among random problems long chains hardly occur, so each class is drawn on purpose.
Shapes in comments: N problems, n digits. Digits `a [N, n]`, `b [N, n]` stand as in the source, the highest first.
"""

import torch

from dataset import PLUS_TOKEN

NINES = "all columns sum to 9"
BATCH_SIZE = 500


def encode_digits(a, b):
    """Source tokens `[N, 2n + 1]` and target tokens `[N, n + 1]` of the sums of `a [N, n]` and `b [N, n]`."""
    carry, digits = torch.zeros_like(a[:, 0]), []
    for column in (a + b).flip(1).unbind(1):
        digits.append((column + carry) % 10)
        carry = (column + carry) // 10
    plus = torch.full_like(a[:, :1], PLUS_TOKEN)
    return torch.cat([a, plus, b], dim=1), torch.stack([*digits, carry], dim=1).flip(1)


def longest_chain(a, b):
    """Columns of the longest carry chain of each problem, `[N]`: 0 without a carry, n if one runs through every
    column."""
    run = longest = torch.zeros_like(a[:, 0])
    for column in (a + b).flip(1).unbind(1):
        run = torch.where(column >= 10, 1, torch.where((column == 9) & (run > 0), run + 1, 0))
        longest = torch.maximum(longest, run)
    return longest


def draw_random(n, count, generator):
    """`count` problems as the course draws them: numbers of n digits, the first of them not 0."""
    digits = torch.randint(10, (2, count, n), generator=generator)
    digits[:, :, 0] = torch.randint(1, 10, (2, count), generator=generator)
    return digits[0], digits[1]


def draw_nines(n, count, generator):
    """`count` problems whose columns all sum to 9: nothing carries, and one more would carry through every column."""
    a = torch.randint(10, (count, n), generator=generator)
    a[:, 0] = torch.randint(1, 9, (count,), generator=generator)
    return a, 9 - a


def draw_chain(n, length, count, generator):
    """`count` problems whose longest carry chain has `length` columns, anywhere; the other columns are drawn at
    random."""
    found = []
    while sum(len(pairs) for pairs in found) < count:
        pairs = torch.stack(draw_random(n, 2 * count, generator), dim=2)  # [N, n, 2]
        rows = torch.arange(len(pairs))
        first = torch.randint(length - 1, n, rows.shape, generator=generator) if length else rows.new_full(rows.shape,
                                                                                                           -1)
        for place in range(n):
            least = int(place == 0)  # a number does not begin with 0
            for sums, chosen in [("below 10", rows[:0] if length else rows), ("10 or more", rows[first == place]),
                                 ("9", rows[(place < first) & (place > first - length)])]:
                pairs[chosen, place] = draw_column(sums, least, len(chosen), generator)
        found.append(pairs[longest_chain(pairs[..., 0], pairs[..., 1]) == length])
    pairs = torch.cat(found)[:count]
    return pairs[..., 0], pairs[..., 1]


def draw_column(sums, least, count, generator):
    """`count` pairs of digits from `least` up, `[count, 2]`, whose sums are `below 10`, `9`, or `10 or more`."""
    pairs = torch.cartesian_prod(torch.arange(least, 10), torch.arange(least, 10))
    total = pairs.sum(dim=1)
    fits = {"below 10": total < 10, "9": total == 9, "10 or more": total > 9}[sums]
    pairs = pairs[fits]
    return pairs[torch.randint(len(pairs), (count,), generator=generator)]


def problem_classes(n, count, seed):
    """`{class: (source, target)}` with `count` problems each: `random`, every length of the longest chain from `chain
    0` to `chain n`, and NINES."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {"random": draw_random(n, count, generator),
             **{f"chain {length}": draw_chain(n, length, count, generator) for length in range(n + 1)},
             NINES: draw_nines(n, count, generator)}
    return {name: encode_digits(*digits) for name, digits in drawn.items()}


def count_right(model, classes):
    """How many problems of each class the model answers rightly, free-running: `{class: count}`."""
    return {name: sum(int((model.generate(part, answer.size(1)) == answer).all(dim=1).sum())
                      for part, answer in zip(source.split(BATCH_SIZE), target.split(BATCH_SIZE)))
            for name, (source, target) in classes.items()}
