"""Tell sorted from unsorted sequences with the trained models.

The recommended model answers, or the one that --encoding names. With no arguments: all trained models on a few
sequences, and the accuracy table of analyze.py.
"""

import support.interrupt  # first: Ctrl-C while torch loads

import re
import sys
from pathlib import Path

import torch

from dataset import LARGEST_VALUE
from extrapolation.analysis import accuracy_table
from learning.checkpoint import load_model
from learning.evaluation import MOST_VALUES, most_values
from learning.variants import RECOMMENDED, find_models
from support.cli import RESULTS_DIR, Parser, UserError, choose_device, run
from support.files import read_json
from support.lines import answer_lines

REMEDY = "measure it with python analyze.py"
LINES_AT_ONCE = 1024
TOKENS_AT_ONCE = 8192
LONGEST_LINE = 20_000
SHOWN = [
    "3 15 27 41 58 72 83 94",
    "15 3 72 27 41 94 58 83",
    "3 15 41 27 58 72 83 94",
    "94 83 72 58 41 27 15 3",
    "7 7 7 7 7 7 7 7",
    " ".join(map(str, range(0, 96, 3))),
]


def parse_sequence(text, most):
    """The values of a sequence such as `3 15 27` or `3, 15, 27`.

    Raises:
        ValueError: saying in one line what is wrong with it.
    """
    words = re.split(r"\s*,\s*|\s+", text.strip())
    if words == [""]:
        raise ValueError("nothing is no sequence such as 3 15 27")
    if len(words) > most:
        raise ValueError(f"more than {most:,} values")
    for word in words:
        if not re.fullmatch("[0-9]{1,9}", word) or int(word) > LARGEST_VALUE:
            raise ValueError(f"{ascii(word[:30])} is no whole number from 0 to {LARGEST_VALUE}")
    return [int(word) for word in words]


@torch.no_grad()
def classify(model, sequences):
    """Probabilities `[N]` that the sequences (lists of values, of any lengths) are sorted."""
    device = next(model.parameters()).device
    probabilities = [None] * len(sequences)
    by_length = {}
    for index, sequence in enumerate(sequences):
        by_length.setdefault(len(sequence), []).append(index)
    for length, indices in by_length.items():
        for part in torch.tensor(indices).split(max(1, TOKENS_AT_ONCE // length)):
            logits = model(
                torch.tensor([sequences[index] for index in part.tolist()], device=device)
            )
            for index, probability in zip(part.tolist(), logits.softmax(dim=1)[:, 1].tolist()):
                probabilities[index] = probability
    return probabilities


def verdict(probability):
    """`sorted 0.993` or `unsorted 0.998`: the answer and the probability that the model gives it."""
    return f"sorted {probability:.3f}" if probability > 0.5 else f"unsorted {1 - probability:.3f}"


def show(models, sequences):
    """Print each model's verdict on each sequence."""
    for sequence in sequences:
        text = " ".join(map(str, sequence))
        print(text if len(text) <= 100 else f"{text[:80]} ... ({len(sequence)} values)")
        for name, model in models.items():
            try:
                parse_sequence(text, most_values(model))
                print(f"  {name:12} {verdict(*classify(model, [sequence]))}")
            except ValueError as error:
                print(f"  {name:12} error: {error}")


def answer(model, lines):
    """For each line the verdict on its sequence, or a ValueError that says what is wrong with it: a list."""
    parsed = []
    for line in lines:
        try:
            parsed.append(parse_sequence(line, most_values(model)))
        except ValueError as error:
            parsed.append(error)
    verdicts = map(
        verdict, classify(model, [sequence for sequence in parsed if isinstance(sequence, list)])
    )
    return [next(verdicts) if isinstance(sequence, list) else sequence for sequence in parsed]


def choose_models(results_dir, name):
    """The path of the weights of the model of that name, or of every trained model if it is None: `{name: path}`.

    Raises:
        UserError: if there is none.
    """
    paths = find_models(results_dir)
    if not paths:
        raise UserError(f"{results_dir} holds no trained model: train some with python train.py")
    if name is None:
        return paths
    if name not in paths:
        raise UserError(
            f"{results_dir} holds no model called {name}, but {', '.join(paths)}: "
            "name one of them with --encoding, or train it with python train.py"
        )
    return {name: paths[name]}


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "values",
        nargs="*",
        metavar="VALUE",
        help='a sequence: 3 15 27 41, or "3 15 27 41", or 3,15,27,41',
    )
    parser.add_argument(
        "--stdin",
        action="store_true",
        help="read a sequence a line (spaces or commas), and write "
        "'sorted 0.993', 'unsorted 0.998' or 'error: ...' a line; exit status 1 after any error",
    )
    parser.add_argument(
        "--encoding",
        default=None,
        metavar="NAME",
        help=f"use the model in this folder of --results-dir (default: {RECOMMENDED})",
    )
    parser.add_argument(
        "--results-dir",
        type=Path,
        default=RESULTS_DIR,
        help="folder of the trained models, one folder each",
    )
    parser.add_argument(
        "--model-path", type=Path, default=None, help="use the model in this file alone"
    )
    parser.add_argument(
        "--device", default=None, help="cpu, cuda or mps; by default the best one present"
    )
    args = parser.parse_intermixed_args(arguments)
    if args.values and args.stdin:
        parser.error("give a sequence or --stdin, not both")
    if args.model_path and args.encoding:
        parser.error("give --model-path or --encoding, not both")
    device = choose_device(args.device)
    one = args.encoding or (RECOMMENDED if args.stdin or args.values else None)
    paths = {"model": args.model_path} if args.model_path else choose_models(args.results_dir, one)
    models = {name: load_model(path, device)[0] for name, path in paths.items()}

    if args.stdin:
        (model,) = models.values()
        all_good = answer_lines(
            sys.stdin.buffer,
            sys.stdout,
            LONGEST_LINE,
            LINES_AT_ONCE,
            lambda lines: answer(model, lines),
        )
        return 0 if all_good else 1
    if args.values:
        (model,) = models.values()
        try:
            show(models, [parse_sequence(" ".join(args.values), most_values(model))])
        except ValueError as error:
            raise UserError(error) from None
    else:
        show(models, [parse_sequence(text, MOST_VALUES) for text in SHOWN])
        path = args.results_dir / "extrapolation" / "extrapolation_results.json"
        print(f"accuracy by length and kind of negatives ({path}):")
        try:
            print(accuracy_table(read_json(path, REMEDY)["accuracy"]))
        except (KeyError, TypeError):
            raise UserError(f"{path} holds no accuracy by length: {REMEDY}") from None


if __name__ == "__main__":
    run(main)
