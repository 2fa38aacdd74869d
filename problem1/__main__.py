"""The whole of problem 1: generate the data (unless data/ holds some), train, analyze, infer. Run as `python problem1` from anywhere."""

import analyze
import inference
import train
from cli import Parser, run, whole_number


def main(arguments=None):
    parser = Parser(prog="python problem1", description=__doc__)
    parser.add_argument("--epochs", type=whole_number(1), default=None, help="fewer epochs than train.py's default, for a quick look")
    args = parser.parse_args(arguments)
    train.main([] if args.epochs is None else ["--epochs", str(args.epochs)])
    analyze.main([])
    inference.main([])


run(main)
