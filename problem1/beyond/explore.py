"""Try the trained adder, watch its heads and disturb them, on a page that this command serves to this machine alone."""

import support.interrupt  # first: Ctrl-C while torch loads

from pathlib import Path

import torch

from analyze import load_problems
from exploring.answers import Answers, Subject
from learning.checkpoint import load_model, results_of
from model import ORDERS
from support.cli import DATA_DIR, HERE, Parser, run
from support.digests import KEY, weights_digest
from support.files import read_json
from support.server import add_arguments, read_page, serve

PAGE = HERE / "exploring" / "page.html"


def load_subject(path, data_dir):
    """The model in the file `path`, with its problems and what analyze.py found in it, if it did."""
    model, about = load_model(path)
    train, _ = load_problems(data_dir, about)
    record, found = path.parent / "head_analysis" / "carry.json", []
    if record.exists():
        carry = read_json(record, "make it again with python analyze.py")
        found = carry["sets"] if carry[KEY] == weights_digest(model.state_dict()) else []
    return Subject(model, about["num_digits"], train.inputs, found)


def main(arguments=None):
    parser = Parser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--model-path", type=Path, default=None,
                        help="the trained model (default: those of both orders of writing in results/)")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="folder of the problems; made if empty")
    args = parser.parse_args(arguments)
    paths = [args.model_path] if args.model_path else [
        path for path in (results_of(order) / "best_model.pth" for order in ORDERS) if path.exists()
    ] or [results_of(ORDERS[0]) / "best_model.pth"]
    torch.set_num_threads(1)  # threads that shared so small a problem would mostly wait for each other
    subjects = [load_subject(path, args.data_dir) for path in paths]
    serve(read_page(PAGE), Answers({subject.model.config.order: subject for subject in subjects}).groups(), args.port,
          not args.no_browser)


if __name__ == "__main__":
    run(main)
