"""The whole of problem 2: generate the data (unless data/ holds some), train, analyze, infer.

Run as `python problem2` from anywhere. With fewer epochs or sequences than the default it is a
quick look, whose results go to runs/quick_look/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # `python -m problem2` does not

from support import cli  # noqa: E402

import analyze  # noqa: E402
import inference  # noqa: E402
import train  # noqa: E402

QUICK_LOOK_DIR = cli.HERE / "runs" / "quick_look"
QUICK_LOOK_SAMPLES = 200


def main(arguments=None):
    parser = cli.Parser(prog="python problem2", description=__doc__)
    count, epochs = cli.whole_number, train.TrainingConfig.epochs
    for option, kind, default, text in [
        ("--epochs", count(1), epochs, "epochs for every model"),
        ("--num-samples", count(2), None, "sequences of each test set (default: analyze.py's)"),
        ("--output-dir", Path, None, "folder for the results (default: results/)"),
    ]:
        parser.add_argument(option, type=kind, default=default, help=text)
    args = parser.parse_args(arguments)

    # A quick look leaves the committed results alone.
    folder, samples = args.output_dir or cli.RESULTS_DIR, args.num_samples
    if (args.epochs < epochs or samples) and not args.output_dir:
        folder, samples = QUICK_LOOK_DIR, samples or QUICK_LOOK_SAMPLES
        print(f"a quick look: everything goes to {folder}", flush=True)

    # Train one model for each encoding, measure all models that are there, and show some answers.
    train.main(["--output-dir", str(folder), "--epochs", str(args.epochs)])
    number = ["--num-samples", str(samples)] if samples else []
    analyze.main(["--results-dir", str(folder), *number])
    inference.main(["--results-dir", str(folder)])


if __name__ == "__main__":
    cli.run(main)
