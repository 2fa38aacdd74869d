"""Add numbers with the trained transformer.

With no arguments: a few worked problems and the accuracy on the test problems.
"""

import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

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
from heads.exhaustive import check_all_pairs, parse_problem
from model import load_model
from support import cli, files
from support.lines import answer_lines
from support.plots import wilson_interval

BETWEEN_PROBLEMS = re.compile(r"(?<=[0-9=])\s+(?=[0-9])")
AT_ONCE = 512  # problems in one pass
LONGEST_LINE = 1000
SHOWN = [(347, 159), (507, 159), (123, 456), (657, 348), (663, 497), (999, 999)]


def answer(model, problems):
    """The model's sums, one string each (`"666"`), for a list of pairs of numbers.

    A leading 0 is dropped; a token that is no digit is shown as `?`.
    """
    info, device = model.training_info, next(model.parameters()).device
    n, strings = info["num_digits"], []
    for part in torch.tensor(problems, dtype=torch.long).reshape(-1, 2).split(AT_ONCE):
        a, b = (to_digits(numbers, n) for numbers in part.unbind(1))  # [N, n] each
        source, target = encode_problems(a, b)
        predicted = in_order(model.generate(source.to(device), target.size(1)), info["order"])
        for row in predicted.tolist():
            digits = "".join(str(token) if token < 10 else "?" for token in row)
            strings.append(digits.lstrip("0") or "0")
    return strings


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


def show_accuracy(model, test_path, foreign):
    """Print how many of the test problems the model answers exactly."""
    source = AdditionDataset(test_path).inputs
    a, b = (to_numbers(digits).tolist() for digits in decode_problems(source))
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
    for option, kind, value, text in [
        ("--model-path", Path, cli.RESULTS_DIR / "best_model.pth", "the trained model"),
        ("--data-dir", Path, cli.DATA_DIR, "folder of the problems; made if empty"),
        ("--device", str, None, "cpu, cuda or mps; by default the best one present"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)
    args = parser.parse_intermixed_args(arguments)
    if bool(args.problems) + args.stdin + args.exhaustive > 1:
        parser.error("give problems, --stdin or --exhaustive, not two of them")

    # The model knows how many digits its numbers have, and in which order it writes.
    model = load_model(args.model_path, cli.choose_device(args.device))
    n = model.training_info["num_digits"]

    # Answer what was asked: lines of input,
    if args.stdin:
        answers = partial(answer_lines_of_text, model)
        all_good = answer_lines(sys.stdin.buffer, sys.stdout, LONGEST_LINE, AT_ONCE, answers)
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
    digits = AdditionDataset(args.data_dir / "test.json").num_digits
    if digits != n:
        raise cli.UserError(
            f"{args.data_dir} holds {digits}-digit problems, but {args.model_path} adds {n}-digit "
            "numbers: name the folder of its data with --data-dir"
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
    show_accuracy(model, args.data_dir / "test.json", foreign)


if __name__ == "__main__":
    cli.run(main)
