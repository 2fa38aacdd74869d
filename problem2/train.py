"""Train the sorting classifier with each positional encoding; the best validation epoch of each is kept.

Without --encoding the three required encodings are trained, one after the other.
"""

import platform
import time
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy
import torch

from checkpoint import load_model
from cli import DATA_DIR, RESULTS_DIR, Parser, UserError, choose_device, positive_number, run, share, whole_number
from dataset import SPLITS, create_dataloaders
from evaluation import evaluate
from files import locked, read_json, replacing, save_figure, sha256, write_json
from generate_data import ensure_data
from model import SortingClassifier
from plots import plot_training_curves
from positional_encoding import ENCODINGS
from training import TrainingConfig, fit

NOTES = {"none": "at chance by construction: without positions and with mean pooling the logits are the same for every order of the "
                 "values, so a sequence and its sorted copy cannot be told apart; what training accuracy rises above 50% is memory of "
                 "which values came together"}


def environment(device):
    """What the figures of a run may depend on beside its arguments."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": numpy.__version__,
            "matplotlib": matplotlib.__version__, "device": str(device), "threads": torch.get_num_threads()}


def make_parser():
    default = TrainingConfig()
    parser = Parser(description=__doc__)
    parser.add_argument("--encoding", choices=ENCODINGS, default=None, help="train this one alone")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="folder of train.json, val.json, test.json; made if empty")
    parser.add_argument("--output-dir", type=Path, default=RESULTS_DIR, help="folder for weights, logs and curves")
    parser.add_argument("--epochs", type=whole_number(1), default=default.epochs, help="passes over the training sequences")
    parser.add_argument("--batch-size", type=whole_number(1), default=default.batch_size, help="sequences a step")
    parser.add_argument("--lr", type=positive_number, default=default.lr, help="highest learning rate, after warm-up")
    parser.add_argument("--d-model", type=whole_number(1), default=128, help="width of the model")
    parser.add_argument("--num-heads", type=whole_number(1), default=4, help="attention heads a layer")
    parser.add_argument("--num-layers", type=whole_number(1), default=4, help="encoder layers")
    parser.add_argument("--d-ff", type=whole_number(1), default=512, help="inner width of the feed-forward layers")
    parser.add_argument("--dropout", type=share, default=0.0, help="dropout probability")
    parser.add_argument("--seed", type=whole_number(0), default=default.seed, help="seed of initialisation, order and dropout")
    parser.add_argument("--device", default=None, help="cpu, cuda or mps; by default the best one present")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted command (same options) to the same bits")
    return parser


def train(encoding, args, device, loaders, data_sha256):
    """Train one encoding into `output_dir/encoding`, and copy its results to where the handout's tree has them."""
    start = time.perf_counter()
    folder = args.output_dir / encoding
    config = TrainingConfig(epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, seed=args.seed)
    torch.manual_seed(config.seed * 1_000_000)
    try:
        model = SortingClassifier(d_model=args.d_model, num_heads=args.num_heads, num_layers=args.num_layers, d_ff=args.d_ff,
                                  dropout=args.dropout, encoding_type=encoding).to(device)
    except (ValueError, RuntimeError) as error:  # sizes that do not go together, or that no memory holds
        raise UserError(f"a model of this size cannot be made: {str(error).splitlines()[0]}") from None
    log = {"model": asdict(model.config), "parameters": sum(parameter.numel() for parameter in model.parameters()),
           "data_sha256": data_sha256, "training_lengths": [int(loaders[0].dataset.lengths.min()), int(loaders[0].dataset.lengths.max())],
           "environment": environment(device)}
    if encoding in NOTES:
        log["note"] = NOTES[encoding]
        print(f"{encoding}: {NOTES[encoding]}", flush=True)
    if args.resume and finished(folder, log | {"training": asdict(config)}):
        print(f"{encoding}: finished already", flush=True)
        return
    log = fit(model, *loaders[:2], config, log, folder, args.resume and (folder / "resume.pth").exists())

    best_model, _ = load_model(folder / "best_model.pth", device)
    log["test"] = evaluate(best_model, loaders[2])
    log["seconds"] = time.perf_counter() - start
    write_json(folder / "training_log.json", log)
    save_figure(folder / "training_curves.png", plot_training_curves(log))
    for source, place in [("best_model.pth", "best_models"), ("training_log.json", "training_logs"), ("training_curves.png", "training_logs")]:
        with replacing(args.output_dir / place / f"{encoding}_{source}") as file:
            file.write((folder / source).read_bytes())
    (folder / "resume.pth").unlink(missing_ok=True)
    low, high = log["test"]["accuracy_interval"]
    print(f"{encoding}: best epoch {log['best_epoch']}; test accuracy {log['test']['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%}, "
          f"n = {log['test']['n']:,}); {log['seconds']:.0f} s; weights in {folder / 'best_model.pth'}", flush=True)


def finished(folder, log):
    """Whether `folder` holds the log of a whole run that `log` describes; one that can be resumed has not done all its writing."""
    path = folder / "training_log.json"
    if not path.exists() or (folder / "resume.pth").exists():
        return False
    saved = read_json(path, "train without --resume")
    return "test" in saved and all(saved.get(key) == log[key] for key in log.keys() - {"environment"})


def main(arguments=None):
    args = make_parser().parse_args(arguments)
    device = choose_device(args.device)
    ensure_data(args.data_dir)
    loaders = create_dataloaders(args.data_dir, args.batch_size)
    data_sha256 = {split: sha256(args.data_dir / f"{split}.json") for split in SPLITS}
    try:
        with locked(args.output_dir):
            for encoding in [args.encoding] if args.encoding else ENCODINGS:
                train(encoding, args, device, loaders, data_sha256)
    except KeyboardInterrupt:
        raise UserError("interrupted; continue with the same options and --resume") from None


if __name__ == "__main__":
    run(main)
