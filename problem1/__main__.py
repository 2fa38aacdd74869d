"""The whole of problem 1: generate the data (unless data/ holds some), train, analyze, infer. Run as `python problem1`
from anywhere.

With fewer epochs than train.py's default it is a quick look, which leaves the committed results alone.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from pathlib import Path

import analyze
import inference
import train
from learning.loop import TrainingConfig
from support.cli import HERE, RESULTS_DIR, Parser, run, whole_number

QUICK_LOOK_DIR = HERE / "runs" / "quick_look"
QUICK_LOOK_SAMPLES = 200


def main(arguments=None):
    parser = Parser(prog="python problem1", description=__doc__)
    parser.add_argument(
        "--epochs",
        type=whole_number(1),
        default=TrainingConfig.epochs,
        help="passes over the training problems",
    )
    parser.add_argument(
        "--num-samples",
        type=whole_number(1),
        default=None,
        help=f"as for analyze.py (default: all, in a quick look {QUICK_LOOK_SAMPLES})",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=None,
        help="folder for weights and results (default: results/, for a quick look runs/quick_look/)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted training, if there is one"
    )
    args = parser.parse_args(arguments)
    quick = args.epochs < TrainingConfig.epochs
    folder = args.output_dir or (QUICK_LOOK_DIR if quick else RESULTS_DIR)
    samples = args.num_samples or (QUICK_LOOK_SAMPLES if quick else None)
    if quick:
        print(
            f"a quick look, {args.epochs} of {TrainingConfig.epochs} epochs: weights and results go to {folder}",
            flush=True,
        )
    train.main(
        [
            "--epochs",
            str(args.epochs),
            "--output-dir",
            str(folder),
            *(["--resume"] if args.resume else []),
        ]
    )
    analyze.main(
        ["--results-dir", str(folder), *(["--num-samples", str(samples)] if samples else [])]
    )
    inference.main(["--model-path", str(folder / "best_model.pth")])


if __name__ == "__main__":
    run(main)
