"""The whole of problem 1: generate the data (unless data/ holds some), train, analyze, infer.

Run as `python problem1` from anywhere. With fewer epochs than train.py's default it is a quick
look, which leaves the committed results alone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # `python -m problem1` does not

from support import cli  # noqa: E402

import analyze  # noqa: E402
import inference  # noqa: E402
import train  # noqa: E402

QUICK_LOOK_DIR = cli.HERE / "runs" / "quick_look"
QUICK_LOOK_SAMPLES = 200


def main(arguments=None):
    default = train.TrainingConfig.epochs
    parser = cli.Parser(prog="python problem1", description=__doc__)
    for option, kind, value, text in [
        ("--epochs", cli.whole_number(1), default, "passes over the training problems"),
        ("--num-samples", cli.whole_number(2), None, "as for analyze.py (in a quick look 200)"),
        ("--output-dir", Path, None, "default: results/, for a quick look runs/quick_look/"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)
    args = parser.parse_args(arguments)
    folder, samples = args.output_dir or cli.RESULTS_DIR, args.num_samples
    if args.epochs < default:
        folder, samples = args.output_dir or QUICK_LOOK_DIR, samples or QUICK_LOOK_SAMPLES
        print(
            f"a quick look, {args.epochs} of {default} epochs: weights and results go to {folder}",
            flush=True,
        )

    # Train the model and test it, look into its heads, then let it add.
    train.main(["--epochs", str(args.epochs), "--output-dir", str(folder)])
    limit = ["--num-samples", str(samples)] if samples else []
    analyze.main(["--results-dir", str(folder), *limit])
    inference.main(["--model-path", str(folder / "best_model.pth")])


if __name__ == "__main__":
    cli.run(main)
