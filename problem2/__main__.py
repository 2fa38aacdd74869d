"""The whole of problem 2: generate the data (unless data/ holds some), train, analyze, infer. Run as `python problem2` from anywhere."""

import analyze
import inference
import train
from cli import Parser, run, whole_number


def main(arguments=None):
    parser = Parser(prog="python problem2", description=__doc__)
    parser.add_argument("--epochs", type=whole_number(1), default=None, help="fewer epochs than train.py's default, for a quick look")
    parser.add_argument("--num-samples", type=whole_number(2), default=None, help="fewer sequences of each test set than analyze.py's default, likewise")
    args = parser.parse_args(arguments)
    train.main([] if args.epochs is None else ["--epochs", str(args.epochs)])
    analyze.main([] if args.num_samples is None else ["--num-samples", str(args.num_samples)])
    inference.main([])


run(main)
