"""Try the trained models on any sequence, and see why they answer so: a page on this machine."""

from pathlib import Path

from support import cli, server

from beyond.answers import Answers
from extrapolation.analysis import find_models
from model import load_model


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    server.add_arguments(parser)
    text = "show the model in this file alone (default: all that are in results/)"
    parser.add_argument("--model-path", type=Path, default=None, help=text)
    args = parser.parse_args(arguments)
    paths = {"model": args.model_path} if args.model_path else find_models(cli.RESULTS_DIR)
    models = {name: load_model(path) for name, path in paths.items()}
    page = server.read_page(Path(__file__).with_name("page.html"))
    return server.serve(page, Answers(models).groups(), args.port, not args.no_browser)
