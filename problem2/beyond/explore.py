"""Try the trained models on any sequence and see what they go by, on a page that this command serves to this machine
alone."""

import support.interrupt  # first: Ctrl-C while torch loads

from pathlib import Path

from exploring.answers import Answers
from inference import choose_models
from learning.checkpoint import load_model
from support.cli import HERE, RESULTS_DIR, Parser, run
from support.server import add_arguments, read_page, serve

PAGE = HERE / "exploring" / "page.html"


def main(arguments=None):
    parser = Parser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--model-path", type=Path, default=None,
                        help="show the model in this file alone (default: all that are in results/)")
    args = parser.parse_args(arguments)
    paths = {"model": args.model_path} if args.model_path else choose_models(RESULTS_DIR, None)
    models = {name: load_model(path)[0] for name, path in paths.items()}
    serve(read_page(PAGE), Answers(models).groups(), args.port, not args.no_browser)


if __name__ == "__main__":
    run(main)
