"""The proof that a `LocalTransformer` adds numbers of every length, by trying every window.

1. What a step sees. The step of column t writes digit t of the sum, the units first. Its logits
   depend on nothing but its window:
   - the digits of columns t and t - 1 of both numbers, and which of them is the leading column: the
     cross-attention reads the encoder's output there, and the encoder has read, for each token, the
     tokens of its own column, among them `+` in the leading column;
   - the two tokens before it, digits t - 1 and t - 2 of the sum or the start token: the decoder's
     self-attention reads their embeddings.
   There are no positions, so t and n themselves count for nothing. (A test changes every other
   token, and the logits stay the same.)
2. Which windows there are. If the digits before are right, a window is one of these; 100 is the
   number of pairs of digits in a column.
   - step 0, the numbers have 1 digit, or more: 2 x 100;
   - step 1 of 1 digit, which writes the last carry: 100;
   - step 1 of more digits, column 1 is leading or not: 2 x 100 x 100. Column 0 decides digit 0;
   - step t from 2 to n - 1, column t is leading or not: 2 x 100 x 100 x 2 x 10. Digit t - 1 is that
     of column t - 1 with a carry or without. Digit t - 2 may be any digit with any carry;
   - step n from 2, which writes the last carry: 100 x 2 x 10.
   `problems` has real problems with all of them, and `try_windows` counts the different windows
   that it meets: 422,300. Leading digits may be 0, so shorter numbers may be filled up with zeros.
3. The induction. At step 0 no digit comes before. If digits 0 to t - 1 are right, then the window
   of step t is one that was tried, and digit t is right as well. So all digits are right, for
   numbers of every length.

In exact arithmetic the logits of a window are the same in every problem. A computer rounds, and how
depends on the shapes of the products: `try_windows` measures this against float64, and
`measure_contexts` within long numbers. The margin (the right digit's logit less the highest other
one) must be larger.
Shapes in comments: N problems, n digits of a number.
"""

import copy

from support.cli import Progress

import torch

from beyond.chains import draw_chain, draw_nines, draw_random
from dataset import ORDERS, PLUS_TOKEN, decode_problems, encode_problems, in_order, shift_right
from heads.examination import margins

AT_ONCE = 250  # problems in a pass
EXACT_EACH = 50  # of so many problems one is tried in float64 as well
NOTHING = 11  # in a window, where there is no column
EXPECTED = {
    "step 0": 2 * 100,
    "step 1 of 1 digit": 100,
    "step 1": 2 * 100 * 100,
    "steps 2 to n - 1": 2 * 100 * 100 * 2 * 10,
    "step n": 100 * 2 * 10,
}
LONG = 300  # digits of the numbers in which windows are measured again


def all_columns(count):
    """All problems of `count` columns: digits `a, b [100 ** count, count]`."""
    digits = torch.cartesian_prod(*[torch.arange(10)] * (2 * count)).view(-1, 2, count)
    return digits[:, 0], digits[:, 1]


def problems():
    """Real problems that have every window: a list of digits `(a [N, n], b [N, n])`."""
    # All numbers of 1 and of 2 digits; the latter also below a leading column, here 1 + 1.
    one, two = all_columns(1), all_columns(2)
    above = [torch.cat([torch.ones_like(part[:, :1]), part], dim=1) for part in two]
    # All pairs of columns 3 and 2, above a column 1 that has each digit, with a carry and without:
    # it sums to 0, ..., 18, and to 19 with the carry of column 0, which is 9 + 9 then.
    sums = torch.arange(20)
    low = [
        torch.stack([(sums.clamp(max=18) + half) // 2, (sums == 19) * 9], dim=1) for half in (0, 1)
    ]  # columns 1 and 0 [20, 2], a and b
    four = [
        torch.cat([high.repeat_interleave(20, dim=0), part.repeat(len(high), 1)], dim=1)
        for high, part in zip(two, low)
    ]  # [200,000, 4]
    five = [torch.cat([torch.ones_like(part[:, :1]), part], dim=1) for part in four]
    return [one, two, above, four, five]


def windows_of(source, target):
    """The window and the case of each step.

    Args:
        source: `[N, 2n + 1]`.
        target: right answers, units first `[N, n + 1]`.

    Returns:
        `(windows [N, n + 1, 8], cases)`: the digits of column t, of column t - 1, whether each is
        leading, and the two tokens before; for each step the key of EXPECTED.
    """
    a, b = (digits.flip(1) for digits in decode_problems(source))  # [N, n], units first
    leading = torch.zeros_like(a)
    leading[:, -1] = PLUS_TOKEN
    columns = torch.stack([a, b, leading], dim=2)  # [N, n, 3]
    edge = torch.full_like(columns[:, :1], NOTHING)
    columns = torch.cat([edge, columns, edge], dim=1)  # column c at place c + 1
    tokens = torch.cat([edge[..., 0], shift_right(target)], dim=1)  # [N, n + 2]
    parts = [columns[:, 1:], columns[:, :-1], tokens[:, 1:, None], tokens[:, :-1, None]]
    n = a.size(1)
    cases = ["step 0", "step 1" if n > 1 else "step 1 of 1 digit", *["steps 2 to n - 1"] * (n - 2)]
    return torch.cat(parts, dim=2), cases + ["step n"] * (n > 1)


def as_numbers(windows):
    """Each window `[..., 8]` as one whole number `[...]`."""
    return (windows * 13 ** torch.arange(8)).sum(dim=-1)


@torch.no_grad()
def try_windows(model, exact):
    """Try every window in a real problem; `exact` is the same model in float64.

    Returns:
        `(numbers, smallest margin, case)` of each window, sorted by number, `[M]` each; the number
        of problems; the largest difference to a margin in float64, where each 50th is tried.
    """
    parts = [
        part
        for pair in problems()
        for part in zip(*(tokens.split(AT_ONCE) for tokens in encode_problems(*pair)))
    ]
    names, found, rounding, done = list(EXPECTED), [], 0.0, 0
    progress = Progress("problems", sum(len(source) for source, _ in parts))
    for source, target in parts:
        target = in_order(target, ORDERS[1])
        given = shift_right(target)
        margin = margins(model(source, given), target)
        again = margins(exact(source[::EXACT_EACH], given[::EXACT_EACH]), target[::EXACT_EACH])
        rounding = max(rounding, (margin[::EXACT_EACH] - again).abs().max().item())
        windows, cases = windows_of(source, target)
        case = torch.tensor([names.index(name) for name in cases]).expand_as(margin)
        found.append([each.flatten() for each in (as_numbers(windows), margin, case)])
        progress.update(done := done + len(source))
    numbers, margin, case = map(torch.cat, zip(*found))
    numbers, place = numbers.unique(return_inverse=True)
    lowest = torch.full(numbers.shape, torch.inf).scatter_reduce(0, place, margin, "amin")
    case = torch.zeros_like(numbers).scatter(0, place, case)
    return (numbers, lowest, case), done, rounding


@torch.no_grad()
def measure_contexts(model, numbers, lowest, digits=LONG):
    """The largest difference between margins within long numbers and those of `try_windows`.

    Each step is decoded alone, as `LocalTransformer.add` does where it has guessed wrong.

    Raises:
        ValueError: if a window of the long numbers was not tried.
    """
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for pair in (
        draw_random(digits, 1, generator),
        draw_nines(digits, 1, generator),
        draw_chain(digits, digits, 1, generator),
    ):
        source, target = encode_problems(*pair)
        target = in_order(target, ORDERS[1])
        wanted = as_numbers(windows_of(source, target)[0])
        place = torch.searchsorted(numbers, wanted).clamp(max=len(numbers) - 1)
        if not (numbers[place] == wanted).all():
            raise ValueError("a window was not tried")
        given, encoder_output, hidden = shift_right(target), model.encode(source), []
        for step in range(digits + 1):
            first = max(step - 1, 0)
            part = model.decode(given[:, first : step + 1], encoder_output, first=first)
            hidden.append(part[:, -1:])
        margin = margins(model.output_projection(torch.cat(hidden, dim=1)), target)
        largest = max(largest, (margin - lowest[place]).abs().max().item())
    return largest


def prove(model):
    """The record of the proof of a `LocalTransformer` in evaluation mode.

    It has, for each case, how many `windows` were tried, how many of them came out `wrong`, and the
    `smallest_margin`; the largest difference of a margin to float64 (`rounding_to_float64`) and to
    the same window in numbers of LONG digits (`rounding_in_long_numbers`). It is `proved` if all
    windows were tried, none is wrong, and each margin is above both differences together.
    """
    exact = copy.deepcopy(model).double()
    (numbers, lowest, case), count, rounding = try_windows(model, exact)
    cases = {
        name: {
            "windows": int((case == index).sum()),
            "wrong": int((lowest[case == index] <= 0).sum()),
            "smallest_margin": lowest[case == index].min().item(),
        }
        for index, name in enumerate(EXPECTED)
    }
    long = measure_contexts(model, numbers, lowest)
    smallest = lowest.min().item()
    complete = {name: entry["windows"] for name, entry in cases.items()} == EXPECTED
    return {
        "proved": complete and smallest > rounding + long,
        "windows": len(numbers),
        "wrong": int((lowest <= 0).sum()),
        "smallest_margin": smallest,
        "rounding_to_float64": rounding,
        "rounding_in_long_numbers": long,
        "long_numbers_digits": LONG,
        "problems": count,
        "cases": cases,
    }
