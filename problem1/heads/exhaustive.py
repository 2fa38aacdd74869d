"""All problems of n digits: reading one, listing all, and a model checked on all of them."""

import re

from support.cli import Progress, UserError

import torch

from dataset import (
    decode_problems,
    encode_problems,
    in_order,
    number_range,
    shift_right,
    to_digits,
    to_numbers,
)
from heads import batches
from heads.carries import carry_pattern, cascade_length

PROBLEM = re.compile(r"([0-9]+)\s*\+\s*([0-9]+)(?:\s*=)?")
MOST_PAIRS = 10**6
LISTED_ERRORS = 1_000


def parse_problem(text, n):
    """The two numbers of a problem such as `507+159` or `999 + 999 =`.

    Raises:
        ValueError: saying in one line what is wrong with it.
    """
    text = text.strip()
    if not text:
        raise ValueError("the line is empty: write a problem such as 507+159")
    match = PROBLEM.fullmatch(text)
    if match is None:
        raise ValueError(f"{ascii(text[:30])} is no problem such as 507+159")
    low, high = number_range(n)
    for number in match.groups():
        if len(number) != n or not low <= int(number) <= high:
            raise ValueError(
                f"{number[:30]} is not from {low} to {high}, the numbers that the model was "
                "trained to add"
            )
    return int(match[1]), int(match[2])


def count_pairs(n):
    """How many pairs of numbers of n digits there are."""
    low, high = number_range(n)
    return (high - low + 1) ** 2


def all_pairs(n):
    """All pairs of numbers of n digits, in order: digits `a [N, n]`, `b [N, n]`."""
    low, high = number_range(n)
    index, count = torch.arange(count_pairs(n)), high - low + 1
    return to_digits(low + index // count, n), to_digits(low + index % count, n)


def pair_index(a, b):
    """Where pairs of digits `a [N, n]`, `b [N, n]` stand in the order of `all_pairs`: `[N]`."""
    low, high = number_range(a.size(1))
    return (to_numbers(a) - low) * (high - low + 1) + to_numbers(b) - low


def shown_index(a, b):
    """A number `[N]` that problems share if training on one shows the others too.

    They differ only in which number has which digit of a column (see `train.exchange_digits`).
    """
    return pair_index(torch.maximum(a, b), torch.minimum(a, b))


def find_unseen(a, b, sources):
    """Bools `[N]`: which problems `a [N, n]`, `b [N, n]` training on `sources` never shows."""
    return ~torch.isin(shown_index(a, b), shown_index(*decode_problems(sources)))


def find_wrong(model, a, b, batch_size=None):
    """Whether the model's answer to each pair of digits `a [N, n]`, `b [N, n]` is wrong, `[N]`.

    One pass with teacher forcing is exact. It predicts digit t after the right digits, and greedy
    decoding writes digit t after its own. The two read the same until the first wrong digit, so
    both are right throughout, or both are wrong at the same digit first.
    """
    device, order = next(model.parameters()).device, model.training_info["order"]

    def wrong_in(model, rows):
        source, target = encode_problems(a[rows].to(device), b[rows].to(device))
        target = in_order(target, order)
        predicted = model(source, shift_right(target)).argmax(dim=-1)
        return (predicted != target).any(dim=1)  # [B]

    progress, wrong = Progress("pairs", len(a)), []
    parts = batches.split(torch.arange(len(a)), batch_size, device)
    for part in batches.in_batches(wrong_in, [model] * batches.threads(device), parts):
        wrong.append(part.cpu())
        progress.update(sum(map(len, wrong)))
    return torch.cat(wrong)


def check_all_pairs(model, training_sources, batch_size=None):
    """Let the model answer every pair of numbers (see `find_wrong`).

    Args:
        model: the model, in evaluation mode.
        training_sources: source tokens of the training problems `[N, 2n + 1]`.
        batch_size: problems in one pass; None: as `heads.batches` says.

    Returns:
        A record: `pairs`, `errors`; the same for pairs `unseen` in training, `by_carry_pattern`
        (a binary digit a column, the highest first) and `by_cascade_length`; `error_list`, the
        first 1,000 errors.

    Raises:
        UserError: if there are more than a million pairs.
    """
    n = training_sources.size(1) // 2
    pairs = count_pairs(n)
    if pairs > MOST_PAIRS:
        raise UserError(
            f"{pairs:.1e} pairs of {n}-digit numbers are too many to try them all; three digits "
            "are the most"
        )
    a, b = all_pairs(n)
    wrong = find_wrong(model, a, b, batch_size)
    unseen = find_unseen(a, b, training_sources)
    pattern, cascade = carry_pattern(a, b), cascade_length(a, b)
    patterns, cascades = pattern.unique().tolist(), cascade.unique().tolist()
    errors = [to_numbers(digits[wrong][:LISTED_ERRORS]).tolist() for digits in (a, b)]
    return {
        "num_digits": n,
        **score(wrong),
        "unseen": score(wrong[unseen]),
        "by_carry_pattern": {f"{key:0{n}b}": score(wrong[pattern == key]) for key in patterns},
        "by_cascade_length": {str(key): score(wrong[cascade == key]) for key in cascades},
        "error_list": [{"a": a, "b": b} for a, b in zip(*errors)],
    }


def score(wrong):
    """Count of pairs and errors, from the bools `wrong [N]`."""
    return {"pairs": len(wrong), "errors": int(wrong.sum())}
