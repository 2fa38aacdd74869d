"""Try the trained adder, watch its heads and disturb them, on a page for this machine alone."""

from pathlib import Path

from support import cli, files, server

import torch

from analyze import load_problems
from beyond.answers import FOUND, Answers, Subject
from beyond.recipes import records_folder
from dataset import ORDERS
from model import load_model

PAGE = Path(__file__).with_name("page.html")
MODELS = [cli.RESULTS_DIR / "best_model.pth", records_folder(ORDERS[1]) / "best_model.pth"]


def load_subject(path, data_dir):
    """The model in the file `path`, with its problems and what analyze.py found in it."""
    model = load_model(path)
    train, _ = load_problems(data_dir, model)
    record, found = path.parent / "head_analysis" / "carry.json", []
    if record.exists():
        remedy = f"make it again with python analyze.py --model-path {path}"
        with files.reading(record, remedy):
            carry = files.read_json(record, remedy)
            if carry[files.WEIGHTS_DIGEST] == files.weights_digest(model):
                found = [{key: each[key] for key in FOUND} for each in carry["sets"]]
    return Subject(model, train.inputs, found)


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    server.add_arguments(parser)
    parser.add_argument(
        "--model-path",
        type=Path,
        default=None,
        help="the trained model (default: those of both orders of writing in results/)",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=cli.DATA_DIR, help="folder of the problems; made if empty"
    )
    args = parser.parse_args(arguments)
    # One thread: threads that share so small a problem mostly wait for each other.
    torch.set_num_threads(1)

    # Load the models that are there; if there is none, the first one's error says what to do.
    paths = [path for path in MODELS if path.exists()] or MODELS[:1]
    paths = [args.model_path] if args.model_path else paths
    subjects = [load_subject(path, args.data_dir) for path in paths]

    # Serve the page; its models are called by their order of writing.
    answers = Answers({subject.order: subject for subject in subjects})
    return server.serve(server.read_page(PAGE), answers.groups(), args.port, not args.no_browser)
