"""Test trained models on several draws of each test set, and on far longer sequences.

A line of results/beyond/draws.jsonl is one model at one length; what has its line is not measured
again. Intervals over seeds and draws are in draws_intervals.json beside it; all seeds of a model
need the same draws. Name several folders with --results-dir for models of several training seeds.
"""

import sys
from pathlib import Path

from support import cli, files, studies

from beyond import chosen
from beyond.counting import counts_suffice
from beyond.draw_sets import DRAWS, LONGEST_WHOLE, measure_draws, summarize_draws
from generate_data import ensure_data, load_splits

MODELS = ("sinusoidal", "learned", "unrestricted")
# What is measured by default of models whose answers can be counted, and of others: by length, so
# many sequences of each set. At another length: SIZE.
SIZES = {
    True: {16: 1000, 64: 1000, 256: 1000, 1024: 40, 2048: 20, 4096: 10, 16384: 4},
    False: {16: 2000, 32: 400, 64: 400, 128: 200, 256: 200},
}
SIZE = 100
LINE = ("encoding", "seed", "length")  # the entries that identify a line
NEEDED = ("num_samples", "draws")


def check_sizes(sizes):
    """UserError unless all seeds of a model have the same draws at each length.

    `sizes` is `{values of LINE: (sequences, draws)}`.
    """
    first = {}
    for (name, seed, length), size in sizes.items():
        other, expected = first.setdefault((name, length), (seed, size))
        if size != expected:
            raise cli.UserError(
                f"{name}, {length:,} values: {expected[1]} draws of {expected[0]:,} sequences for "
                f"seed {other} and {size[1]} of {size[0]:,} for seed {seed} give no interval: name "
                "the folders of all seeds with --results-dir, or another file with --output"
            )


def summarize(lines):
    """For each model, length and kind what `summarize_draws` says of its seeds and draws."""
    groups = {}
    for line in lines:
        for record in line["draws"]:
            key = line["encoding"], line["length"], record["kind"]
            groups.setdefault(key, []).append({"seed": line["seed"], **record})
    return [
        {"encoding": encoding, "length": length, "kind": kind, **summarize_draws(group)}
        for (encoding, length, kind), group in sorted(groups.items())
    ]


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    chosen.add_arguments(parser, MODELS)
    count, output = cli.whole_number(2, 100_000), cli.RESULTS_DIR / "beyond" / "draws.jsonl"
    text = "lengths to test (default: up to 16,384 where answers can be counted, else up to 256)"
    parser.add_argument("--lengths", type=count, nargs="+", default=None, help=text)
    text = "sequences of each set (default: fewer the longer they are)"
    parser.add_argument("--num-samples", type=count, default=None, help=text)
    text = "draws of each set"
    parser.add_argument("--draws", type=cli.whole_number(1, 10), default=DRAWS, help=text)
    parser.add_argument("--output", type=Path, default=output, help="file of the records")
    args = parser.parse_args(arguments)

    # Load the models, and the sequences that no draw may hold.
    ensure_data(args.data_dir)
    models = chosen.chosen_models(args)
    seen = set().union(*load_splits(args.data_dir))

    with files.locked(args.output.parent):
        # Say how many draws of how many sequences there are to be: never fewer than there were.
        lines = chosen.read_lines(args.output, LINE, NEEDED)
        sizes = {key: (line["num_samples"], len(line["draws"]) // 2) for key, line in lines.items()}
        tested, stale, todo = set(), [], []
        for name, seed, model in models:
            digest, by_default = files.weights_digest(model), SIZES[counts_suffice(model)]
            old = {key for key in lines if lines[key].get(files.WEIGHTS_DIGEST) != digest}
            for length in dict.fromkeys(args.lengths or by_default):
                too_long = length > LONGEST_WHOLE and not counts_suffice(model)
                if too_long or model.pos_encoding.bounded and length > model.longest:
                    print(f"{name}, seed {seed}: no answer at {length:,} values", flush=True)
                    continue
                key, size = (name, seed, length), args.num_samples or by_default.get(length, SIZE)
                had = (0, 0) if key in old else sizes.get(key, (0, 0))
                sizes[key] = tuple(map(max, had, (size, args.draws)))
                if sizes[key] != had:
                    todo.append((key, digest, model))
                tested.add(key)
            stale += [key for key in old - tested if key[:2] == (name, seed)]
        check_sizes(sizes)

        # Measure each model at each length; a line is written as soon as it is measured.
        progress = cli.Progress("lengths of models", len(todo))
        for done, (key, digest, model) in enumerate(todo, 1):
            size, draws = sizes[key]
            lines[key] = {
                "encoding": key[0],
                "seed": key[1],
                files.WEIGHTS_DIGEST: digest,
                "length": key[2],
                "num_samples": size,
                "draws": measure_draws(model, key[2], size, seen, draws),
            }
            studies.write_records(args.output, lines.values())
            progress.update(done)

        # Sum up all lines, of this run and of earlier ones.
        found = summarize(lines.values())
        files.write_json(args.output.with_name(f"{args.output.stem}_intervals.json"), found)
    names = {(name, length) for name, _, length in tested}
    for record in found:
        if (record["encoding"], record["length"]) in names:
            low, high = record["interval"]
            print(
                f"{record['encoding']}, {record['kind'].replace('_', ' ')}, {record['length']:,} "
                f"values: {record['lowest']:.2%} to {record['highest']:.2%} over {record['seeds']} "
                f"seeds x {record['draws']} draws (95% interval {low:.2%} to {high:.2%}, "
                f"n = {record['n']:,})"
            )
    for name, seed, length in sorted(stale):
        print(
            f"{args.output}: the line of {name}, seed {seed}, at {length:,} values is of other "
            f"weights: measure it again with --lengths {length}",
            file=sys.stderr,
        )
