"""Every problem there is, free-running: the only test that leaves nothing to an interval."""

from concurrent.futures import ThreadPoolExecutor

import torch

from dataset import encode_problems, number_range, numbers_of, shift_right
from learning.carries import carry_pattern, cascade_length
from support.cli import Progress, UserError

MOST_PAIRS = 10 ** 6
LISTED_ERRORS = 1_000
BATCH_SIZE = 256


def count_pairs(num_digits):
    """Number of pairs of numbers of `num_digits` digits."""
    low, high = number_range(num_digits)
    return (high - low + 1) ** 2


def all_pairs(num_digits, start, end):
    """Pairs number `start` to `end - 1` of all pairs of numbers of `num_digits` digits, in order: two tensors."""
    low, high = number_range(num_digits)
    index = torch.arange(start, end)
    return low + index // (high - low + 1), low + index % (high - low + 1)


def pair_index(a, b, num_digits):
    """Where the pairs `a [N]`, `b [N]` stand in the order of `all_pairs`."""
    low, high = number_range(num_digits)
    return (a - low) * (high - low + 1) + b - low


def predict(model, a, b, num_digits):
    """The digits `[N, n + 1]` that the model answers to `a [N] + b [N]`, free-running, and the right ones."""
    device = next(model.parameters()).device
    source, target = encode_problems(a, b, num_digits)
    return model.generate(source.to(device), num_digits + 1).cpu(), target


def predict_forced(model, a, b, num_digits):
    """As `predict`, but in one pass with teacher forcing. An answer is right throughout if and only if `predict`'s is,
    since after right digits decoding takes that very path. Where it is wrong, its later digits can differ from
    `predict`'s."""
    device = next(model.parameters()).device
    source, target = encode_problems(a, b, num_digits)
    written = model.written(target.to(device))
    return model.written(model(source.to(device), shift_right(written)).argmax(dim=-1)).cpu(), target


def answers(model, num_digits, pairs, batch_size, predict=predict):
    """The model's answers to the first `pairs` of all pairs, batch by batch, in order: `(a [N], b [N], predicted,
    target)`."""
    @torch.no_grad()
    def answer(start):
        a, b = all_pairs(num_digits, start, min(start + batch_size, pairs))
        return a, b, *predict(model, a, b, num_digits)

    # One thread a batch: less waiting than when all threads share every small product.
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(answer, range(0, pairs, batch_size))


def check_all_pairs(model, num_digits, training_sources, batch_size=BATCH_SIZE, predict=predict):
    """Let the model answer every pair of numbers of `num_digits` digits.

    Args:
        model: the model, in evaluation mode.
        num_digits: digits of each number.
        training_sources: source tokens of the training problems `[N, 2n + 1]`.
        batch_size: problems decoded at once.
        predict: `predict`, or `predict_forced`.

    Returns:
        A record: `pairs`, `errors`; the same for pairs `unseen` in training; `by_carry_pattern` (keys are the columns
        that carry, most significant first) and `by_cascade_length`; `error_list`, the first 1,000 of them.

    Raises:
        UserError: if there are more pairs than can be gone through.
    """
    pairs = count_pairs(num_digits)
    if pairs > MOST_PAIRS:
        raise UserError(f"{pairs:.1e} pairs of {num_digits}-digit numbers are too many to try them all; three digits "
                        "are the most")
    progress = Progress("pairs", pairs)
    wrong = torch.zeros(pairs, dtype=torch.bool)
    error_list = []
    end = 0
    for a, b, predicted, target in answers(model, num_digits, pairs, batch_size, predict):
        start, end = end, end + len(a)
        wrong[start:end] = (predicted != target).any(dim=1)
        for row in wrong[start:end].nonzero().flatten().tolist()[: LISTED_ERRORS - len(error_list)]:
            error_list.append({"a": a[row].item(), "b": b[row].item(), "predicted": predicted[row].tolist(),
                               "target": target[row].tolist()})
        progress.update(end)
    a, b = all_pairs(num_digits, 0, pairs)
    unseen = torch.ones(pairs, dtype=torch.bool)
    unseen[pair_index(*numbers_of(training_sources, num_digits), num_digits)] = False
    pattern, cascade = carry_pattern(a, b, num_digits), cascade_length(a, b, num_digits)
    return {"num_digits": num_digits, **score(wrong), "unseen": score(wrong[unseen]),
            "by_carry_pattern": {f"{key:0{num_digits}b}": score(wrong[pattern == key])
                                 for key in pattern.unique().tolist()},
            "by_cascade_length": {str(key): score(wrong[cascade == key]) for key in cascade.unique().tolist()},
            "error_list": error_list}


def score(wrong):
    """Count of pairs and errors, from the bools `wrong [N]`."""
    return {"pairs": len(wrong), "errors": int(wrong.sum())}
