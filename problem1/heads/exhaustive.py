"""All problems of n digits: reading one, listing all, and a model checked on all of them."""

import re
from concurrent.futures import ThreadPoolExecutor

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
from heads.carries import carry_pattern, cascade_length

PROBLEM = re.compile(r"([0-9]+)\s*\+\s*([0-9]+)(?:\s*=)?")
MOST_PAIRS = 10**6
LISTED_ERRORS = 1_000
BATCH_SIZE = 256


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


def all_pairs(n, start, end):
    """Pairs number `start` to `end - 1` of all pairs in order: digits `a [N, n]`, `b [N, n]`."""
    low, high = number_range(n)
    index, count = torch.arange(start, end), high - low + 1
    return to_digits(low + index // count, n), to_digits(low + index % count, n)


def pair_index(a, b):
    """Where pairs of digits `a [N, n]`, `b [N, n]` stand in the order of `all_pairs`: `[N]`."""
    low, high = number_range(a.size(1))
    return (to_numbers(a) - low) * (high - low + 1) + to_numbers(b) - low


def check_all_pairs(model, training_sources, batch_size=BATCH_SIZE):
    """Let the model answer every pair of numbers.

    One pass with teacher forcing is exact. It predicts digit t after the right digits, and greedy
    decoding writes digit t after its own. The two read the same until the first wrong digit, so
    both are right throughout, or both are wrong at the same digit first.

    Args:
        model: the model, in evaluation mode.
        training_sources: source tokens of the training problems `[N, 2n + 1]`.
        batch_size: problems in one pass.

    Returns:
        A record: `pairs`, `errors`; the same for pairs `unseen` in training, `by_carry_pattern`
        (a binary digit a column, the highest first) and `by_cascade_length`; `error_list`, the
        first 1,000 errors.

    Raises:
        UserError: if there are more than a million pairs.
    """
    n = training_sources.size(1) // 2
    pairs, order = count_pairs(n), model.training_info["order"]
    if pairs > MOST_PAIRS:
        raise UserError(
            f"{pairs:.1e} pairs of {n}-digit numbers are too many to try them all; three digits "
            "are the most"
        )
    device = next(model.parameters()).device

    @torch.no_grad()
    def find_wrong(start):
        source, target = encode_problems(*all_pairs(n, start, min(start + batch_size, pairs)))
        target = in_order(target, order).to(device)
        predicted = model(source.to(device), shift_right(target)).argmax(dim=-1)
        return (predicted != target).any(dim=1).cpu()  # [N]

    # Each batch has one thread. When all threads share every small product, they mostly wait.
    progress, parts, threads = Progress("pairs", pairs), [], torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for part in pool.map(find_wrong, range(0, pairs, batch_size)):
            parts.append(part)
            progress.update(min(len(parts) * batch_size, pairs))
    torch.set_num_threads(threads)

    wrong = torch.cat(parts)  # [pairs]
    a, b = all_pairs(n, 0, pairs)
    unseen = torch.ones(pairs, dtype=torch.bool)
    unseen[pair_index(*decode_problems(training_sources))] = False
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
