"""Add numbers with the trained transformer.

With no arguments: a few worked problems and the accuracy on the test problems.
"""

import re
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from support import cli, files
from support.lines import answer_lines
from support.plots import wilson_interval

import torch

from dataset import (
    AdditionDataset,
    decode_problems,
    encode_problems,
    in_order,
    number_range,
    to_digits,
    to_numbers,
)
from generate_data import ensure_data
from heads import batches
from heads.exhaustive import PROBLEM, check_all_pairs, parse_problem
from model import load_model

BETWEEN_PROBLEMS = re.compile(r"(?<=[0-9=])\s+(?=[0-9])")
LONGEST_LINE = 1000
ANY_LENGTH = cli.RESULTS_DIR / "beyond" / "any_length" / "best_model.pth"
MOST_DIGITS = 10_000  # of a number of any length
SHOWN = [(347, 159), (507, 159), (123, 456), (657, 348), (663, 497), (999, 999)]


def answer(model, problems):
    """The model's sums, one string each, for a list of pairs of numbers."""
    info, device = model.training_info, next(model.parameters()).device
    n = info["num_digits"]

    def generate(model, numbers):
        a, b = (to_digits(each, n) for each in numbers.unbind(1))  # [B, n] each
        source, target = encode_problems(a, b)
        return in_order(model.generate(source, target.size(1)), info["order"])  # [B, T]

    numbers = torch.tensor(problems, dtype=torch.long, device=device).reshape(-1, 2)
    parts = batches.in_batches(generate, batches.copies(model), batches.split(numbers))
    return [as_text(row) for part in parts for row in part.tolist()]


def as_text(tokens):
    """The number that tokens stand for, the highest digit first: `"666"`.

    Leading zeros are dropped; a token that is no digit is shown as `?`.
    """
    digits = "".join(str(token) if token < 10 else "?" for token in tokens)
    return digits.lstrip("0") or "0"


def answer_lines_of_text(model, texts):
    """For each text the model's sum, or a ValueError that says why the text is no problem."""
    results, n = [], model.training_info["num_digits"]
    for text in texts:
        try:
            results.append(parse_problem(text, n))
        except ValueError as error:
            results.append(error)
    sums = iter(answer(model, [pair for pair in results if isinstance(pair, tuple)]))
    return [next(sums) if isinstance(pair, tuple) else pair for pair in results]


def show(model, problems):
    """Print `507 + 159 = 666` for each pair, and the right sum where the model's is wrong."""
    for (a, b), result in zip(problems, answer(model, problems)):
        wrong = "" if result == str(a + b) else f"   (wrong: it is {a + b})"
        print(f"{a} + {b} = {result}{wrong}")


def parse_any_length(text):
    """The digits of the two numbers in `text`, as strings.

    Raises:
        ValueError: saying in one line what is wrong with it.
    """
    text = text.strip()
    match = PROBLEM.fullmatch(text)
    if match is None:
        parse_problem(text, 1)  # says why
    for number in match.groups():
        if len(number) > MOST_DIGITS:
            raise ValueError(f"a number has {len(number):,} digits: {MOST_DIGITS:,} are the most")
    return match.groups()


def add_any_length(model, a, b):
    """The model's sum of two strings of digits. It adds as many columns as the longer one has."""
    n, device = max(len(a), len(b)), next(model.parameters()).device
    digits = [torch.tensor(list(map(int, text.zfill(n))), device=device) for text in (a, b)]
    return as_text(model.add(*digits).tolist())


def answer_any_length(model, texts):
    """For each text the model's sum, or a ValueError that says why the text is no problem."""
    results = []
    for text in texts:
        try:
            results.append(add_any_length(model, *parse_any_length(text)))
        except ValueError as error:
            results.append(error)
    return results


def show_accuracy(model, test, foreign):
    """Print how many of the test problems, an `AdditionDataset`, the model answers exactly."""
    a, b = (to_numbers(digits).tolist() for digits in decode_problems(test.inputs))
    right = [result == str(x + y) for result, x, y in zip(answer(model, [*zip(a, b)]), a, b)]
    n, matches = len(right), sum(right)
    low, high = wilson_interval(matches, n)
    print(
        f"exact match on the {n:,} test problems, free-running: {matches / n:.2%} "
        f"(95% interval {low:.2%} to {high:.2%})"
        + (
            " - but the model was trained on other data, so some of these may have been seen in "
            "training"
            if foreign
            else ""
        )
    )


def try_all_pairs(model, model_path, training_path):
    """Answer every pair of numbers, write the record and print what came out."""
    folder = model_path.resolve().parent
    path = (folder / "beyond" if folder == cli.RESULTS_DIR else folder) / "exhaustive.json"
    with files.locked(path.parent):
        record = check_all_pairs(model, AdditionDataset(training_path).inputs)
        about = {files.WEIGHTS_DIGEST: files.weights_digest(model), "model": asdict(model.config)}
        files.write_json(path, about | model.training_info | record)
    unseen = record["unseen"]
    print(
        f"{record['errors']:,} errors in all {record['pairs']:,} pairs, {unseen['errors']:,} of "
        f"them in the {unseen['pairs']:,} never seen in training; details in {path}"
    )


def answer_at_any_length(parser, args):
    """Answer the problems or the lines of `--any-length`, and print the time that it takes."""
    if not args.problems and not args.stdin:
        parser.error("--any-length needs problems, or --stdin")
    chosen = args.model_path != parser.get_default("model_path")
    path = args.model_path if chosen else ANY_LENGTH
    model = load_model(path, cli.choose_device(args.device))
    if not hasattr(model, "add"):
        raise cli.UserError(
            f"the model in {path} adds numbers of {model.training_info['num_digits']} digits alone"
        )
    start = time.perf_counter()

    # Answer each line when it comes; the time is no answer, so it goes to standard error.
    if args.stdin:
        answers = partial(answer_any_length, model)
        longest = 2 * MOST_DIGITS + LONGEST_LINE
        all_good = answer_lines(sys.stdin.buffer, sys.stdout, longest, 1, answers)
        print(f"{time.perf_counter() - start:.2f} s", file=sys.stderr)
        return 0 if all_good else 1

    # Or answer the problems on the command line, if all of them can be answered.
    try:
        pairs = [parse_any_length(text) for text in BETWEEN_PROBLEMS.split(" ".join(args.problems))]
    except ValueError as error:
        raise cli.UserError(error) from None
    for a, b in pairs:
        start = time.perf_counter()
        result = add_any_length(model, a, b)
        print(f"{a} + {b} = {result}   ({time.perf_counter() - start:.2f} s)")
    return 0


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "problems", nargs="*", metavar="PROBLEM", help="such as 507+159 or 999 + 999"
    )
    parser.add_argument(
        "--stdin",
        action="store_true",
        help="read a problem a line, write the bare sum (or 'error: ...') a line; exit status 1 "
        "after any error",
    )
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="answer every pair of numbers and write exhaustive.json beside the model (for the "
        "model in results/: results/beyond/)",
    )
    parser.add_argument(
        "--any-length",
        action="store_true",
        help=f"add numbers of up to {MOST_DIGITS:,} digits, with the model of "
        "python problem1/beyond any-length unless --model-path names another one",
    )
    for option, kind, value, text in [
        ("--model-path", Path, cli.RESULTS_DIR / "best_model.pth", "the trained model"),
        ("--data-dir", Path, cli.DATA_DIR, "folder of the problems; made if empty"),
        ("--device", str, None, "cpu, cuda or mps; by default the best one present"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)
    args = parser.parse_intermixed_args(arguments)
    if bool(args.problems) + args.stdin + args.exhaustive > 1:
        parser.error("give problems, --stdin or --exhaustive, not two of them")
    if args.any_length:
        return answer_at_any_length(parser, args)

    # The model knows how many digits its numbers have, and in which order it writes.
    model = load_model(args.model_path, cli.choose_device(args.device))
    n = model.training_info["num_digits"]

    # Answer what was asked: lines of input,
    if args.stdin:
        device = next(model.parameters()).device
        at_once = batches.threads(device) * batches.batch_size(device)
        answers = partial(answer_lines_of_text, model)
        all_good = answer_lines(sys.stdin.buffer, sys.stdout, LONGEST_LINE, at_once, answers)
        return 0 if all_good else 1

    # or the problems on the command line.
    if args.problems:
        texts = BETWEEN_PROBLEMS.split(" ".join(args.problems))
        try:
            return show(model, [parse_problem(text, n) for text in texts])
        except ValueError as error:
            raise cli.UserError(error) from None

    # Without a question, check the model on data. Only data that it was trained on tell which
    # problems it has not seen.
    ensure_data(args.data_dir, n)
    test = AdditionDataset(args.data_dir / "test.json")
    if test.num_digits != n:
        raise cli.UserError(
            f"{args.data_dir} holds {test.num_digits}-digit problems, but {args.model_path} adds "
            f"{n}-digit numbers: name the folder of its data with --data-dir"
        )
    training_path = args.data_dir / "train.json"
    foreign = files.file_digest(training_path) != model.training_info["train_sha256"]
    if args.exhaustive and foreign:
        raise cli.UserError(
            f"{args.data_dir} does not hold the training problems of {args.model_path}, without "
            "which seen and unseen pairs cannot be told apart: name the folder that does with "
            "--data-dir"
        )
    if args.exhaustive:
        return try_all_pairs(model, args.model_path, training_path)
    show(model, SHOWN if n == 3 else [number_range(n), number_range(n)[::-1]])
    show_accuracy(model, test, foreign)


if __name__ == "__main__":
    cli.run(main)
