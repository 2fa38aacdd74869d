"""Tell sorted from unsorted sequences with the trained models.

The recommended model answers, or the one that --encoding names. With no arguments: all trained
models on a few sequences, and the accuracy table of analyze.py.
"""

import re
import sys
from functools import partial
from pathlib import Path

from support import cli, files
from support.lines import answer_lines

import torch

from dataset import LARGEST_VALUE
from extrapolation.analysis import accuracy_table, classify, find_models
from model import load_model, training_remedy

RECOMMENDED = "recommended"
LINES_AT_ONCE = 1024
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
        raise ValueError("the line is empty: write values such as 3 15 27")
    if len(words) > most:
        raise ValueError(f"more than {most:,} values")
    for word in words:
        if not re.fullmatch("[0-9]{1,9}", word) or int(word) > LARGEST_VALUE:
            raise ValueError(f"{ascii(word[:30])} is no whole number from 0 to {LARGEST_VALUE}")
    return [int(word) for word in words]


def answer(model, texts):
    """The verdict on each text's sequence, or a ValueError that says what is wrong with the text.

    Verdicts are `sorted 0.993` or `unsorted 0.998`, with the model's probability.
    """
    answers, by_length = [None] * len(texts), {}
    for index, text in enumerate(texts):
        try:
            values = parse_sequence(text, model.longest)
            by_length.setdefault(len(values), []).append((index, values))
        except ValueError as error:
            answers[index] = error
    for indexed in by_length.values():
        indices, sequences = zip(*indexed)
        probabilities = classify(model, torch.tensor(sequences)).softmax(dim=1)[:, 1].tolist()
        for index, p in zip(indices, probabilities):
            answers[index] = f"sorted {p:.3f}" if p > 0.5 else f"unsorted {1 - p:.3f}"
    return answers


def show(models, texts):
    """Print each model's verdict on each sequence."""
    for text in texts:
        print(text if len(text) <= 100 else f"{text[:80]} ... ({len(text.split())} values)")
        for name, model in models.items():
            print(f"  {name:12} {answer(model, [text])[0]}")


def choose_model(results_dir, name=None):
    """`{name: path}` of one model: the named one, else the recommended one, else the first one.

    Raises:
        UserError: if there is none.
    """
    paths = find_models(results_dir)
    if name and name not in paths:
        raise cli.UserError(
            f"{results_dir} holds no model called {name}, but {', '.join(paths)}: "
            f"name one of them with --encoding, or {training_remedy(results_dir)}"
        )
    chosen = name or (RECOMMENDED if RECOMMENDED in paths else next(iter(paths)))
    if chosen not in (name, RECOMMENDED):
        print(f"no recommended model in {results_dir}: {chosen} answers", file=sys.stderr)
    return {chosen: paths[chosen]}


def print_accuracy(results_dir, models):
    """Print the accuracy table of analyze.py, with a warning if models were trained since.

    Raises:
        UserError: if there is no table.
    """
    path = results_dir / "extrapolation" / "extrapolation_results.json"
    remedy = f"measure it with python analyze.py --results-dir {results_dir}"
    record = files.read_json(path, remedy)
    try:
        table, digests = accuracy_table(record["accuracy"]), dict(record[files.WEIGHTS_DIGEST])
    except (KeyError, TypeError, ValueError):
        raise cli.UserError(f"{path} holds no accuracy by length: {remedy}") from None
    print(f"accuracy by length and kind of negatives, and AUC ({path}):\n{table}")
    stale = [name for name in models if digests.get(name) != files.weights_digest(models[name])]
    if stale:
        names = ", ".join(stale)
        print(f"the table is not of the present weights of {names}: {remedy}", file=sys.stderr)


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    sequence = 'a sequence: 3 15 27 41, or "3 15 27 41", or 3,15,27,41'
    lines = (
        "read a sequence a line (spaces or commas), and write 'sorted 0.993', 'unsorted 0.998' or "
        "'error: ...' a line; exit status 1 after any error"
    )
    parser.add_argument("values", nargs="*", metavar="VALUE", help=sequence)
    parser.add_argument("--stdin", action="store_true", help=lines)
    for option, kind, default, text in [
        ("--encoding", str, None, f"the model of this name answers (default: {RECOMMENDED})"),
        ("--results-dir", Path, cli.RESULTS_DIR, "folder of the trained models"),
        ("--model-path", Path, None, "the model in this file answers"),
        ("--device", str, None, "cpu, cuda or mps; by default the best one present"),
    ]:
        parser.add_argument(option, type=kind, default=default, help=text)
    args = parser.parse_intermixed_args(arguments)
    if args.values and args.stdin:
        parser.error("give a sequence or --stdin, not both")
    if args.model_path and args.encoding:
        parser.error("give --model-path or --encoding, not both")

    # Load one model, or all for the worked examples.
    if args.model_path:
        paths = {"model": args.model_path}
    elif args.encoding or args.values or args.stdin:
        paths = choose_model(args.results_dir, args.encoding)
    else:
        paths = find_models(args.results_dir)
    device = cli.choose_device(args.device)
    models = {name: load_model(path, device) for name, path in paths.items()}

    # Answer the lines of standard input, the given sequence, or the examples.
    if args.stdin:
        (model,) = models.values()
        streams = sys.stdin.buffer, sys.stdout
        good = answer_lines(*streams, LONGEST_LINE, LINES_AT_ONCE, partial(answer, model))
        return 0 if good else 1
    if args.values:
        (model,) = models.values()
        try:
            values = parse_sequence(" ".join(args.values), model.longest)
        except ValueError as error:
            raise cli.UserError(error) from None
        show(models, [" ".join(map(str, values))])
    else:
        show(models, SHOWN)
        print_accuracy(args.results_dir, models)


if __name__ == "__main__":
    cli.run(main)
