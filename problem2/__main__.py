"""The whole of problem 2: generate the data (unless data/ holds some), train, analyze, infer. Run as `python problem2`
from anywhere.

With fewer epochs than the default it is a quick look, whose results go to runs/quick_look/.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from pathlib import Path

import analyze
import inference
import train
from learning.variants import TRAINED_BY_DEFAULT, VARIANTS
from support.cli import HERE, RESULTS_DIR, Parser, run, whole_number

QUICK_SAMPLES = 200


def main(arguments=None):
    parser = Parser(prog="python problem2", description=__doc__)
    parser.add_argument(
        "--epochs",
        type=whole_number(1),
        default=None,
        help="epochs for every model (default: train.py's)",
    )
    parser.add_argument(
        "--num-samples",
        type=whole_number(2),
        default=None,
        help="sequences of each test set (default: analyze.py's)",
    )
    parser.add_argument(
        "--output-dir", type=Path, default=None, help="folder for the results (default: results/)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted command (same options)"
    )
    args = parser.parse_args(arguments)
    output_dir, num_samples = args.output_dir or RESULTS_DIR, args.num_samples
    if (
        args.epochs
        and not args.output_dir
        and args.epochs < max(VARIANTS[name].epochs for name in TRAINED_BY_DEFAULT)
    ):
        output_dir, num_samples = HERE / "runs" / "quick_look", num_samples or QUICK_SAMPLES
        print(
            f"a quick look: everything goes to {output_dir}, and {RESULTS_DIR} stays as it is",
            flush=True,
        )
    train.main(
        ["--output-dir", str(output_dir)]
        + (["--epochs", str(args.epochs)] if args.epochs else [])
        + (["--resume"] if args.resume else [])
    )
    analyze.main(
        ["--results-dir", str(output_dir)]
        + (["--num-samples", str(num_samples)] if num_samples else [])
    )
    inference.main(["--results-dir", str(output_dir)])


if __name__ == "__main__":
    run(main)
