"""Test trained models on several draws of each test set, and on far longer sequences: results/draws.jsonl.

A line of the file is one model at one length; what has its line is not measured again. Intervals over seeds and draws
are in draws_intervals.json beside it. Name several folders with --results-dir for models of several training seeds.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from pathlib import Path

from analyze import load_models, takes
from extrapolation import counting
from extrapolation.draws import DRAWS, LONGEST_WHOLE, measure_draws, summarize_draws
from extrapolation.records import from_table, read_lines, to_table, write_lines
from generate_data import ensure_data, load_splits
from support.cli import DATA_DIR, RESULTS_DIR, Parser, Progress, UserError, choose_device, run, whole_number
from support.digests import KEY, weights_digest
from support.files import locked, write_json

LENGTHS = (16, 32, 64, 128, 256)
NUM_SAMPLES = {length: 2000 for length in LENGTHS}
NUM_SAMPLES_OF_OTHERS = 100
REMEDY = "move the file away and run python draws.py again"


def read_draws(path):
    """The lines of the file, `{(encoding, seed, length): line}`.

    Raises:
        UserError: if one is no such record.
    """
    lines = read_lines(path, {"encoding", "seed", "length", "num_samples", KEY, "draws"}, REMEDY)
    return {(line["encoding"], line["seed"], line["length"]): line for line in lines}


def summarize(lines):
    """A record of each model, kind and length in the lines: what `summarize_draws` says of its seeds and draws."""
    groups = {}
    for line in lines:
        for record in from_table(line["draws"]):
            key = line["encoding"], line["length"], record["kind"]
            groups.setdefault(key, []).append({"seed": line["seed"]} | record)
    return [{"encoding": encoding, "length": length, "kind": kind} | summarize_draws(group)
            for (encoding, length, kind), group in sorted(groups.items())]


def add_model_options(parser):
    """The options that say which models, and which data they were trained on."""
    parser.add_argument("--results-dir", type=Path, nargs="+", default=[RESULTS_DIR],
                        help="folders of trained models, one folder each in them")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=None, help="these models alone (default: all)")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="folder of the data; made if empty")
    parser.add_argument("--device", default=None, help="cpu, cuda or mps; by default the best one present")


def chosen_models(args):
    """The models that the options name: `[(name, training seed, model)]`.

    Raises:
        UserError: if there is none.
    """
    chosen = [(name, logs[name]["training"]["seed"], model) for folder in args.results_dir
              for models, logs in [load_models(folder, args.data_dir, choose_device(args.device))]
              for name, model in models.items() if args.only is None or name in args.only]
    if not chosen:
        raise UserError(f"no model is called {', '.join(args.only)}: give --only names of folders in --results-dir")
    return chosen


def main(arguments=None):
    parser = Parser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--lengths", type=whole_number(2, 100_000), nargs="+", default=list(LENGTHS),
                        help="lengths to test")
    parser.add_argument("--num-samples", type=whole_number(2), default=None,
                        help=f"sequences of each set (default: 2000 of up to 256 values, {NUM_SAMPLES_OF_OTHERS} of "
                        "other lengths)")
    parser.add_argument("--draws", type=whole_number(1, 10), default=DRAWS, help="draws of each set")
    parser.add_argument("--output", type=Path, default=RESULTS_DIR / "draws.jsonl", help="file of the records")
    args = parser.parse_args(arguments)
    ensure_data(args.data_dir)
    seen, chosen = set().union(*load_splits(args.data_dir)), chosen_models(args)
    with locked(args.output.parent):
        lines, tested = read_draws(args.output), set()
        progress = Progress("lengths of models", len(chosen) * len(args.lengths))
        for number, (name, seed, model) in enumerate(chosen):
            for place, length in enumerate(args.lengths):
                if not takes(model, length) or length > LONGEST_WHOLE and not counting.applies(model):
                    print(f"{name}, seed {seed}: no answer at {length:,} values", flush=True)
                    continue
                about = {"encoding": name, "seed": seed, KEY: weights_digest(model.state_dict()), "length": length,
                         "num_samples": args.num_samples or NUM_SAMPLES.get(length, NUM_SAMPLES_OF_OTHERS)}
                line = lines.get((name, seed, length), {})
                if {key: line.get(key) for key in about} != about or len(from_table(line["draws"])) != 2 * args.draws:
                    records = measure_draws(model, length, about["num_samples"], seen, args.draws)
                    lines[name, seed, length] = about | {"draws": to_table(records)}
                    write_lines(args.output, lines.values())
                tested.add((name, length))
                progress.update(number * len(args.lengths) + place + 1)
        found = summarize(lines.values())
        write_json(args.output.with_name(f"{args.output.stem}_intervals.json"), found)
    for record in found:
        if (record["encoding"], record["length"]) in tested:
            print(f"{record['encoding']}, {record['kind'].replace('_', ' ')}, {record['length']:,} values: "
                  f"{record['lowest']:.2%} to {record['highest']:.2%} over {record['seeds']} seeds x {record['draws']} "
                  f"draws (95% interval {record['interval'][0]:.2%} to {record['interval'][1]:.2%}, "
                  f"n = {record['n']:,})")


if __name__ == "__main__":
    run(main)
