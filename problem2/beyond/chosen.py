"""The trained models that `draws` and `gaps` measure, and their files of records."""

from pathlib import Path

from support import cli, files

from beyond.records import read_whole
from extrapolation.analysis import find_models, read_log
from model import load_model


def add_arguments(parser, only=None):
    """Give a parser the options that say which models, and which data they were trained on.

    `only` are the names of the models that are measured by default.
    """
    text = "folders of trained models, one for each training seed"
    default = [cli.RESULTS_DIR]
    parser.add_argument("--results-dir", type=Path, nargs="+", default=default, help=text)
    text = "the models of these names" + ("" if only else " (default: all)")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=only, help=text)
    text = "folder of the data; made if empty"
    parser.add_argument("--data-dir", type=Path, default=cli.DATA_DIR, help=text)
    text = "cpu, cuda or mps; by default the best one present"
    parser.add_argument("--device", default=None, help=text)


def chosen_models(args):
    """The models that the options name: `[(name, training seed, model)]`.

    Raises:
        UserError: if there is none, or one was trained on other data.
    """
    device, chosen = cli.choose_device(args.device), []
    train_sha256 = files.file_digest(args.data_dir / "train.json")
    for folder in args.results_dir:
        for name, path in find_models(folder).items():
            if args.only is None or name in args.only:
                model = load_model(path, device)
                if model.training_info["train_sha256"] != train_sha256:
                    raise cli.UserError(
                        f"{path} was trained on other data than {args.data_dir}: name the folder "
                        "of its data with --data-dir"
                    )
                chosen.append((name, read_log(path)["training"]["seed"], model))
    if not chosen:
        raise cli.UserError(f"no model is called {', '.join(args.only)}: name others with --only")
    return chosen


def read_lines(path, keys, needed):
    """The records in a file of JSON lines, `{values of keys: record}`, see `read_whole`."""
    return {tuple(line[key] for key in keys): line for line in read_whole(path, keys, needed)}
