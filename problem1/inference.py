"""Add numbers with the trained transformer.

With no arguments: a few worked problems and the accuracy on the test problems.
"""

import support.interrupt  # first: Ctrl-C while torch loads

import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from dataset import AdditionDataset, create_dataloaders, number_range
from generate_data import ensure_data
from learning.checkpoint import load_model
from learning.evaluation import evaluate
from learning.exhaustive import check_all_pairs, predict
from support.cli import DATA_DIR, RESULTS_DIR, Parser, UserError, choose_device, run
from support.digests import KEY, file_digest, weights_digest
from support.files import locked, write_json
from support.lines import answer_lines

PROBLEM = re.compile(r"([0-9]+)\s*\+\s*([0-9]+)(?:\s*=)?")
BETWEEN_PROBLEMS = re.compile(r"(?<=[0-9=])\s+(?=[0-9])")
LINES_AT_ONCE = 512
LONGEST_LINE = 1000
SHOWN = [(347, 159), (507, 159), (123, 456), (657, 348), (663, 497), (999, 999)]


def parse_problem(text, num_digits):
    """The two numbers of a problem such as `507+159` or `999 + 999 =`.

    Raises:
        ValueError: saying in one line what is wrong with it.
    """
    text = text.strip()
    match = PROBLEM.fullmatch(text)
    if match is None:
        raise ValueError(f"{ascii(text[:30]) if text else 'nothing'} is no problem such as 507+159")
    low, high = number_range(num_digits)
    for number in match.groups():
        if len(number) != num_digits or not low <= int(number) <= high:
            raise ValueError(
                f"{number[:30]} is not from {low} to {high}, the numbers that the model was trained to "
                "add"
            )
    return int(match[1]), int(match[2])


def answer(model, problems, num_digits):
    """The model's sums, one string each (`"666"`), for a list of pairs of numbers.

    A leading 0 is dropped; a token that is no digit is shown as `?`.
    """
    a, b = torch.tensor(problems).unbind(1)
    predicted, _ = predict(model, a, b, num_digits)
    strings = (
        "".join(str(token) if token < 10 else "?" for token in row) for row in predicted.tolist()
    )
    return [string.lstrip("0") or "0" for string in strings]


def show(model, problems, num_digits):
    """Print `507 + 159 = 666` for each pair of numbers, and the right sum where the model's is wrong."""
    for (a, b), result in zip(problems, answer(model, problems, num_digits)):
        print(
            f"{a} + {b} = {result}" + ("" if result == str(a + b) else f"   (wrong: it is {a + b})")
        )


def answer_texts(model, num_digits, texts):
    """For each of some texts the model's sum, or a ValueError that says why the text is no problem."""
    results = []
    for text in texts:
        try:
            results.append(parse_problem(text, num_digits))
        except ValueError as error:
            results.append(error)
    problems = [result for result in results if not isinstance(result, ValueError)]
    sums = iter(answer(model, problems, num_digits) if problems else ())
    return [result if isinstance(result, ValueError) else next(sums) for result in results]


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "problems", nargs="*", metavar="PROBLEM", help="such as 507+159 or 999 + 999"
    )
    parser.add_argument(
        "--stdin",
        action="store_true",
        help="read a problem a line, write the bare sum (or 'error: ...') a line; exit status 1 after "
        "any error",
    )
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="answer every pair of numbers and write exhaustive.json beside the model",
    )
    parser.add_argument(
        "--model-path", type=Path, default=RESULTS_DIR / "best_model.pth", help="the trained model"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="folder of the problems; made if empty"
    )
    parser.add_argument(
        "--device", default=None, help="cpu, cuda or mps; by default the best one present"
    )
    args = parser.parse_intermixed_args(arguments)
    if bool(args.problems) + args.stdin + args.exhaustive > 1:
        parser.error("give problems, --stdin or --exhaustive, not two of them")
    model, about = load_model(args.model_path, choose_device(args.device))
    num_digits = about["num_digits"]

    if args.stdin:
        all_good = answer_lines(
            sys.stdin.buffer,
            sys.stdout,
            LONGEST_LINE,
            LINES_AT_ONCE,
            partial(answer_texts, model, num_digits),
        )
        return 0 if all_good else 1
    if args.problems:
        try:
            problems = [
                parse_problem(text, num_digits)
                for text in BETWEEN_PROBLEMS.split(" ".join(args.problems))
            ]
        except ValueError as error:
            raise UserError(error) from None
        return show(model, problems, num_digits)

    ensure_data(args.data_dir, num_digits)
    *_, test_loader = create_dataloaders(args.data_dir, 500)
    if test_loader.dataset.num_digits != num_digits:
        raise UserError(
            f"{args.data_dir} holds {test_loader.dataset.num_digits}-digit problems, but {args.model_path} "
            f"adds {num_digits}-digit numbers: name the folder of its data with --data-dir"
        )
    foreign = file_digest(args.data_dir / "train.json") != about["train_sha256"]
    if args.exhaustive:
        if foreign:
            raise UserError(
                f"{args.data_dir} does not hold the training problems of {args.model_path}, without which "
                "seen and unseen pairs cannot be told apart: name the folder that does with --data-dir"
            )
        path = args.model_path.parent / "exhaustive.json"
        with locked(path.parent):
            record = check_all_pairs(
                model, num_digits, AdditionDataset(args.data_dir / "train.json").inputs
            )
            write_json(
                path,
                {
                    KEY: weights_digest(model.state_dict()),
                    "model": asdict(model.config),
                    **about,
                    **record,
                },
            )
        print(
            f"{record['errors']:,} errors in all {record['pairs']:,} pairs, {record['unseen']['errors']:,} of them "
            f"in the {record['unseen']['pairs']:,} never seen in training; details in {path}"
        )
    else:
        show(
            model,
            SHOWN
            if num_digits == 3
            else [number_range(num_digits), number_range(num_digits)[::-1]],
            num_digits,
        )
        result = evaluate(model, test_loader)
        low, high = result["exact_match_interval"]
        print(
            f"exact match on the {result['n']:,} test problems, free-running: {result['exact_match']:.2%} "
            f"(95% interval {low:.2%} to {high:.2%})"
            + (
                " - but the model was trained on other data, so some of these may have been seen in training"
                if foreign
                else ""
            )
        )


if __name__ == "__main__":
    run(main)
