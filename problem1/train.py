"""Train the addition transformer; the model of the best validation epoch is left in results/best_model.pth, or in
results/right_to_left/ if it writes in that order."""

import support.interrupt  # first: Ctrl-C while torch loads

import platform
import time
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy
import torch

from dataset import SPLITS, create_dataloaders, get_vocab_size
from generate_data import ensure_data
from learning.checkpoint import load_model, results_of
from learning.evaluation import evaluate
from learning.figures import plot_training_curves
from learning.loop import TrainingConfig, fit, is_finished
from model import ORDERS, POSITIONS, Seq2SeqTransformer
from support.cli import (DATA_DIR, Parser, UserError, choose_device, number_from_zero, positive_number, run, share,
                         whole_number)
from support.digests import KEY, file_digest, records_of_other_weights, weights_digest
from support.files import locked, save_figure, write_json

EVALUATION_BATCH = 500
MOST_PARAMETERS = 10 ** 9
MOST_SINUSOIDAL = 3  # digits; with more, sinusoids leave long carries wrong or, from ten on, learn nothing
MOST_LEFT_TO_RIGHT = 5  # digits; with more, some long carries come out wrong
MOST_MEASURED = 10  # digits
SHORT = {"epochs": 11, "batch_size": 32, "lr": 1.5e-3}  # enough, written right to left or with places by columns


def environment(device):
    """What the figures of a run may depend on beside its arguments."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": numpy.__version__,
            "matplotlib": matplotlib.__version__, "device": str(device), "threads": torch.get_num_threads()}


def make_parser():
    default = TrainingConfig()
    parser = Parser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR,
                        help="folder of train.json, val.json, test.json; made if empty")
    parser.add_argument("--output-dir", type=Path, default=None,
                        help="folder for weights, log and curves (default: results/, or results/right_to_left/)")
    parser.add_argument("--epochs", type=whole_number(1), default=None,
                        help=f"passes over the training problems (default: {default.epochs}; {SHORT['epochs']} if "
                        "answers are written right to left or places are known by columns)")
    parser.add_argument("--batch-size", type=whole_number(1), default=None,
                        help=f"problems a step (default: {default.batch_size}; {SHORT['batch_size']} in these cases)")
    parser.add_argument("--lr", type=positive_number, default=None,
                        help=f"highest learning rate, after warm-up (default: {default.lr}; {SHORT['lr']} in these "
                        "cases)")
    parser.add_argument("--d-model", type=whole_number(1, 100_000), default=128, help="width of the model")
    parser.add_argument("--num-heads", type=whole_number(1), default=4, help="attention heads a layer")
    parser.add_argument("--num-layers", type=whole_number(1, 1_000), default=2,
                        help="encoder layers, and as many decoder layers")
    parser.add_argument("--d-ff", type=whole_number(1, 100_000), default=512,
                        help="inner width of the feed-forward layers")
    parser.add_argument("--dropout", type=share, default=0.0, help="dropout probability")
    parser.add_argument("--focus", type=number_from_zero, default=default.focus,
                        help="exponent of the focal loss; 0 is plain cross-entropy")
    parser.add_argument("--order", choices=ORDERS, default=ORDERS[0],
                        help="in which order the digits of an answer are written; printed answers are ordinary numbers")
    parser.add_argument("--positions", choices=POSITIONS, default=None,
                        help="how the model knows places (default: sinusoidal up to three digits, then columns)")
    parser.add_argument("--seed", type=whole_number(0), default=default.seed,
                        help="seed of initialisation, order and dropout")
    parser.add_argument("--device", default=None, help="cpu, cuda or mps; by default the best one present")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run, with the same options, if "
                        "there is one")
    return parser


def default_config(order, positions, **given):
    """The `TrainingConfig` by which a model of this order and kind of positions is trained, but for what is given (and
    not None): left to right with absolute positions it takes twice as many passes as otherwise."""
    recipe = {} if order == ORDERS[0] and positions != "columns" else SHORT
    return TrainingConfig(**recipe | {name: value for name, value in given.items() if value is not None})


def make_model(args, device):
    """The model that training starts from, on the device.

    Raises:
        UserError: if its sizes do not go together, or come to more than `MOST_PARAMETERS` or than memory holds.
    """
    sizes = {"vocab_size": get_vocab_size(), "d_model": args.d_model, "num_heads": args.num_heads,
             "num_encoder_layers": args.num_layers, "num_decoder_layers": args.num_layers, "d_ff": args.d_ff,
             "dropout": args.dropout, "order": args.order, "positions": args.positions}
    try:
        with torch.device("meta"):  # takes no memory
            parameters = sum(parameter.numel() for parameter in Seq2SeqTransformer(**sizes).parameters())
        if parameters > MOST_PARAMETERS:
            raise ValueError(f"it would have {parameters:.1e} parameters, and {MOST_PARAMETERS:.0e} are the most")
        torch.manual_seed(args.seed * 1_000_000)
        return Seq2SeqTransformer(**sizes).to(device)
    except (ValueError, RuntimeError) as error:  # RuntimeError: no memory holds it
        raise UserError(f"a model of this size cannot be made: {str(error).splitlines()[0]}") from None


def doubt(num_digits, config):
    """Why numbers of this many digits may not be learned with these arguments of the model, in one line, or None."""
    if num_digits == 1:
        return ("there are only 81 problems of one digit, too few to learn addition from: expect the sums that it has "
                "not seen to be wrong")
    if num_digits > MOST_SINUSOIDAL and config.positions != "columns":
        return f"{config.positions} positions leave long carries of {num_digits} digits wrong: take --positions columns"
    if num_digits > MOST_LEFT_TO_RIGHT and config.order == ORDERS[0]:
        return (f"written {config.order}, some long carries of {num_digits} digits come out wrong: take --order "
                f"{ORDERS[1]}")
    if num_digits > MOST_MEASURED:
        return f"numbers of more than {MOST_MEASURED} digits have not been tried with these settings"
    return None


def main(arguments=None):
    start = time.perf_counter()
    args = make_parser().parse_args(arguments)
    args.output_dir = args.output_dir or results_of(args.order)
    device = choose_device(args.device)
    ensure_data(args.data_dir)
    _, val_loader, test_loader = create_dataloaders(args.data_dir, EVALUATION_BATCH)
    num_digits = test_loader.dataset.num_digits
    args.positions = args.positions or ("sinusoidal" if num_digits <= MOST_SINUSOIDAL else "columns")
    config = default_config(args.order, args.positions, epochs=args.epochs, batch_size=args.batch_size, lr=args.lr,
                            seed=args.seed, focus=args.focus)
    train_loader, *_ = create_dataloaders(args.data_dir, config.batch_size)

    model = make_model(args, device)
    log = {"num_digits": num_digits,
           "model": asdict(model.config),
           "parameters": sum(parameter.numel() for parameter in model.parameters()),
           "data_sha256": {split: file_digest(args.data_dir / f"{split}.json") for split in SPLITS},
           "environment": environment(device)}
    with locked(args.output_dir):
        if args.resume and is_finished(log, config, args.output_dir):
            print(f"the run in {args.output_dir} is finished already")
            return
        warning = doubt(num_digits, model.config)
        if warning:
            print(f"warning: {warning}", flush=True)
        resume = args.resume and (args.output_dir / "resume.pth").exists()
        try:
            log = fit(model, train_loader, val_loader, config, log, args.output_dir, resume)
        except KeyboardInterrupt:
            raise UserError("interrupted; continue with the same options and --resume") from None
        best_model, _ = load_model(args.output_dir / "best_model.pth", device)
        log["test"] = evaluate(best_model, test_loader)
        log["seconds"], log[KEY] = time.perf_counter() - start, weights_digest(best_model.state_dict())
        write_json(args.output_dir / "training_log.json", log)
        save_figure(args.output_dir / "training_curves.png", plot_training_curves(log))
        (args.output_dir / "resume.pth").unlink(missing_ok=True)
    low, high = log["test"]["exact_match_interval"]
    print(f"best epoch {log['best_epoch']}; test exact match, free-running: {log['test']['exact_match']:.2%} "
          f"(95% interval {low:.2%} to {high:.2%}, n = {log['test']['n']:,}); {log['seconds']:.0f} s; "
          f"weights in {args.output_dir / 'best_model.pth'}")
    stale = records_of_other_weights(args.output_dir, log[KEY])
    if stale:
        print(f"of other weights now: {', '.join(str(path.relative_to(args.output_dir)) for path in stale)}; make them "
              "again with python analyze.py and python inference.py --exhaustive")


if __name__ == "__main__":
    run(main)
