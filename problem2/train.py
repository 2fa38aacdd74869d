"""Train the sorting classifier; the best validation epoch of each variant is kept.

Without --encoding and --variant the three required encodings, the recommended variant and the one without a window are
trained, one after the other.
"""

import support.interrupt  # first: Ctrl-C while torch loads

import argparse
import contextlib
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib
import numpy
import torch

from dataset import SPLITS, create_dataloaders
from generate_data import ensure_data
from learning.augmentation import AUGMENTATIONS
from learning.checkpoint import load_model
from learning.evaluation import evaluate
from learning.figures import plot_training_curves
from learning.loop import TrainingConfig, description, fit
from learning.variants import BASELINE, RECOMMENDED, TRAINED_BY_DEFAULT, VARIANTS
from model import POOLINGS, SortingClassifier
from positional_encoding import ENCODINGS
from support.cli import (DATA_DIR, RESULTS_DIR, Parser, UserError, choose_device, positive_number, run, share,
                         whole_number)
from support.digests import KEY, file_digest, records_of_other_weights, weights_digest
from support.files import locked, read_json, replacing, save_figure, write_json
from support.runs import difference

MOST_PARAMETERS = 10 ** 9
MOST_POSITIONS = 100_000
POSITIONS = 300  # that a model has room for, if the data have no longer sequence
NOTES = {"none": "at chance by construction: without positions and with mean pooling the logits are the same for every "
                 "order of the values, so a sequence and its sorted copy cannot be told apart; what training accuracy "
                 "rises above 50% is memory of which values came together"}


def environment(device):
    """What the figures of a run may depend on beside its arguments."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": numpy.__version__,
            "matplotlib": matplotlib.__version__, "device": str(device), "threads": torch.get_num_threads()}


def make_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--encoding", choices=ENCODINGS, default=None,
                        help="train this one alone, in all else as the required ones are")
    parser.add_argument("--variant", choices=VARIANTS, default=None, metavar="NAME",
                        help="train this variant of learning/variants.py alone (study.py --list names them)")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR,
                        help="folder of train.json, val.json, test.json; made if empty")
    parser.add_argument("--output-dir", type=Path, default=RESULTS_DIR, help="folder for weights, logs and curves")
    parser.add_argument("--seed", type=whole_number(0), default=TrainingConfig.seed,
                        help="seed of initialisation, order and dropout")
    parser.add_argument("--device", default=None, help="cpu, cuda or mps; by default the best one present")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted command (same options)")
    settings = parser.add_argument_group(
        "settings", "each by default the variant's own; those of the required ones are shown")

    def setting(option, what, **kind):
        default = getattr(VARIANTS[BASELINE], option.strip("-").replace("-", "_"))
        settings.add_argument(option, default=argparse.SUPPRESS, help=f"{what} (default: {default})", **kind)
    setting("--epochs", "passes over the training sequences", type=whole_number(1))
    setting("--batch-size", "sequences a step", type=whole_number(1))
    setting("--lr", "highest learning rate, after warm-up", type=positive_number)
    setting("--d-model", "width of the model", type=whole_number(1, 100_000))
    setting("--num-heads", "attention heads a layer", type=whole_number(1))
    setting("--num-layers", "encoder layers", type=whole_number(1, 1_000))
    setting("--d-ff", "inner width of the feed-forward layers", type=whole_number(1, 100_000))
    setting("--dropout", "dropout probability", type=share)
    setting("--pooling", "how the positions become one vector", choices=POOLINGS)
    setting("--augmentation", "what makes new training sequences of the training sequences", choices=AUGMENTATIONS)
    return parser


def initial_model(seed, device="cpu", **arguments):
    """The model that training with this seed starts from, on the device.

    Raises:
        UserError: if its sizes do not go together, or come to more than `MOST_PARAMETERS` or than memory holds.
    """
    try:
        parameters = 0
        # Takes no memory; an encoding that reads a tensor's values cannot be made so, and is not counted.
        with contextlib.suppress(RuntimeError), torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in SortingClassifier(**arguments).parameters())
        if parameters > MOST_PARAMETERS:
            raise ValueError(f"it would have {parameters:.1e} parameters, and {MOST_PARAMETERS:.0e} are the most")
        torch.manual_seed(seed * 1_000_000)
        return SortingClassifier(**arguments).to(device)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise UserError(f"a model of this size cannot be made: {str(error).splitlines()[0]}") from None


def model_arguments(variant, loaders):
    """The arguments of a variant's `SortingClassifier`; its `max_len` follows the longest sequence of the data.

    Raises:
        UserError: if that has more than `MOST_POSITIONS` values.
    """
    longest = max(int(loader.dataset.lengths.max()) for loader in loaders)
    if longest > MOST_POSITIONS:
        raise UserError(f"the data hold a sequence of {longest:,} values, and {MOST_POSITIONS:,} are the most")
    return variant.model_arguments() | {"max_len": max(POSITIONS, longest)}


def chosen_variants(args):
    """The variants that the command line asks for, with the settings it gives."""
    if args.encoding and args.variant:
        raise UserError("give --encoding or --variant, not both")
    if args.encoding and args.encoding not in VARIANTS:
        variants = [replace(VARIANTS[BASELINE], name=args.encoding, encoding_type=args.encoding)]
    else:
        name = args.encoding or args.variant
        variants = [VARIANTS[name] for name in ([name] if name else TRAINED_BY_DEFAULT)]
    given = {key: value for key, value in vars(args).items() if key in variants[0].settings()}
    return [replace(variant, **given) for variant in variants]


def train(variant, args, device, loaders):
    """Train one variant into `output_dir/its name`, and copy its results to where the handout's tree has them.

    Returns:
        The digest of the weights; None if that run has finished already and is to be resumed.
    """
    start = time.perf_counter()
    name, folder = variant.name, args.output_dir / variant.name
    config = variant.training_config(args.seed)
    model = initial_model(config.seed, device, **model_arguments(variant, loaders))
    lengths = loaders[0].dataset.lengths
    log = {"model": asdict(model.config), "parameters": sum(parameter.numel() for parameter in model.parameters()),
           "data_sha256": {split: file_digest(args.data_dir / f"{split}.json") for split in SPLITS},
           "training_lengths": [int(lengths.min()), int(lengths.max())],
           "environment": environment(device)}
    if name in NOTES:
        log["note"] = NOTES[name]
        print(f"{name}: {NOTES[name]}", flush=True)
    if args.resume and finished(folder, log | {"training": asdict(config)}):
        print(f"{name}: finished already", flush=True)
        return None
    try:
        log = fit(model, *loaders[:2], config, log, folder, args.resume and (folder / "resume.pth").exists())
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise UserError(f"{name}: no memory for a batch of {config.batch_size} sequences of up to {int(lengths.max())} "
                        "values: train with a smaller --batch-size, a smaller model or shorter sequences") from None

    best_model, _ = load_model(folder / "best_model.pth", device)
    log["test"] = evaluate(best_model, loaders[2])
    log[KEY] = weights_digest(best_model.state_dict())
    log["seconds"] = time.perf_counter() - start
    write_json(folder / "training_log.json", log)
    save_figure(folder / "training_curves.png", plot_training_curves(log))
    for source, place in [("best_model.pth", "best_models"), ("training_log.json", "training_logs"),
                          ("training_curves.png", "training_logs")]:
        with replacing(args.output_dir / place / f"{name}_{source}") as file:
            file.write((folder / source).read_bytes())
    (folder / "resume.pth").unlink(missing_ok=True)
    low, high = log["test"]["accuracy_interval"]
    print(f"{name}: best epoch {log['best_epoch']}; test accuracy {log['test']['accuracy']:.2%} (95% interval "
          f"{low:.2%} to {high:.2%}, n = {log['test']['n']:,}); {log['seconds']:.0f} s; weights in "
          f"{folder / 'best_model.pth'}", flush=True)
    return log[KEY]


def finished(folder, log):
    """Whether `folder` holds the finished run that `log` describes; one that can be resumed has not done all its
    writing.

    Raises:
        UserError: if it holds a finished run that is another one.
    """
    path = folder / "training_log.json"
    if (folder / "resume.pth").exists() or not path.exists() or not (folder / "best_model.pth").exists():
        return False
    saved = read_json(path, "train without --resume")
    if not isinstance(saved, dict) or "test" not in saved:
        return False
    differing = difference(saved, description(log))
    if differing:
        raise UserError(f"{folder} holds a finished run that differs in {differing}: give the options it had, another "
                        "--output-dir, or train without --resume to replace it")
    return True


def name_stale_records(output_dir, digests):
    """Print a line that names the records of models which have other weights now, and the command that makes each
    again.

    Args:
        digests: `{name of the model: digest of its weights}`.
    """
    analysis = {path for name, digest in digests.items()
                for path in records_of_other_weights(output_dir / "extrapolation", digest, name)}
    study = records_of_other_weights(output_dir / "study", digests[RECOMMENDED]) if RECOMMENDED in digests else []
    remedies = ({path: "python analyze.py" for path in sorted(analysis)}
                | {path: "python study.py --figures" for path in study})
    if remedies:
        print("made from other weights than are there now: "
              + ", ".join(f"{path} (again: {remedy})" for path, remedy in remedies.items()), flush=True)


def main(arguments=None):
    args = make_parser().parse_args(arguments)
    variants, device = chosen_variants(args), choose_device(args.device)
    ensure_data(args.data_dir)
    digests = {}
    with locked(args.output_dir):
        try:
            for variant in variants:
                digests[variant.name] = train(variant, args, device,
                                              create_dataloaders(args.data_dir, variant.batch_size))
        except KeyboardInterrupt:
            if any((args.output_dir / variant.name / "resume.pth").exists() for variant in variants):
                raise UserError("interrupted; continue with the same options and --resume") from None
            raise
    name_stale_records(args.output_dir, {name: digest for name, digest in digests.items() if digest})


if __name__ == "__main__":
    run(main)
