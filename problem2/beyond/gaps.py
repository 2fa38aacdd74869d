"""Why unrestricted attention holds, measured: results/gaps.jsonl and its figure, of the models with one layer, a
relative bias and the lowest position as pooling.

A line of the file is one model. A model with scaled scores has a second line, of the same weights with the scale for
good what it is at the longest training length. For scores multiplied by log n the line says from which length on the
model is proved right. What has its line is not measured again. Name several folders with --results-dir for models of
several training seeds.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from pathlib import Path

from draws import add_model_options, chosen_models
from extrapolation import certificate
from extrapolation.draws import DRAWS, draw_sets
from extrapolation.gap_figures import plot_gaps
from extrapolation.gaps import (NEGATIVES, applies, frozen, measure_gaps, measure_lengths, measured_length,
                                needed, predict_length, right_without)
from extrapolation.records import DIGITS, from_table, read_lines, to_table, write_lines
from generate_data import GAP_LENGTH, ensure_data, load_splits
from support.cli import RESULTS_DIR, Parser, UserError, run, whole_number
from support.digests import KEY, weights_digest
from support.files import locked, rounded, save_figure

SEQUENCES = 400  # of GAP_LENGTH values, that gaps are measured and lengths predicted on
REMEDY = "move the file away and run python gaps.py again"
KEYS = {"encoding", "seed", "scores", KEY, "longest", "num_samples", "heads", "right_without_unneeded", "predicted",
        "lengths"}


def scores_name(model):
    """How the scores of a model are scaled, in a word."""
    scaling = model.config.log_scaling
    return {False: "plain", True: "scaled"}.get(scaling, scaling)


def measure(model, args, seen):
    """Gaps, predicted length and accuracy by length of one model: what a line holds beside what it is of."""
    # A draw of its own: those of draws.py judge the models.
    sequences, labels = draw_sets(GAP_LENGTH, DRAWS, SEQUENCES, seen)[NEGATIVES]
    device = next(model.parameters()).device
    sequences, labels = sequences.to(device), labels.to(device)
    heads = [record | {"n": len(labels), "right_without": right_without(model, sequences, labels, [record["head"]])}
             for record in measure_gaps(model, sequences)]
    # All that are not needed one at a time: does one of them stand in for another?
    unneeded = [record["head"] for record in heads if not needed(record)]
    return {"heads": to_table(heads), "right_without_unneeded": right_without(model, sequences, labels, unneeded),
            "predicted": predict_length(model, sequences, labels),
            "lengths": to_table(measure_lengths(model, GAP_LENGTH, args.longest, args.num_samples, seen, DRAWS))}


def proof_text(found):
    """What a certificate says, to be put behind the rest of a line; nothing if there is none."""
    if found is None:
        return ""
    if found["every_sequence_right"]:
        return f"; proved right on every sequence of {found['length']:,} values or more"
    return (f"; not proved right, not from {found['length']:,} values on either: {found['called_unsorted']:,} of "
            f"{found['windows_without_descent']:,} windows, {found['not_always_noticed']:,} of {found['descents']:,} "
            "descents")


def read_gaps(path):
    """The lines of the file, `{(encoding, seed, scores): line}`.

    Raises:
        UserError: if one is no such record.
    """
    return {(line["encoding"], line["seed"], line["scores"]): line for line in read_lines(path, KEYS, REMEDY)}


def unpack(line):
    """A line with its tables as lists of records."""
    return line | {key: from_table(line[key]) for key in ("heads", "lengths")}


def main(arguments=None):
    parser = Parser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--longest", type=whole_number(16, 100_000), default=4096, help="longest sequences to test")
    parser.add_argument("--num-samples", type=whole_number(2), default=100, help="sequences of each length")
    parser.add_argument("--output", type=Path, default=RESULTS_DIR / "gaps.jsonl",
                        help="file of the records; the figure gets the same name")
    args = parser.parse_args(arguments)
    ensure_data(args.data_dir)
    seen = set().union(*load_splits(args.data_dir))
    chosen = [(name, seed, model) for name, seed, model in chosen_models(args) if applies(model)]
    if not chosen:
        raise UserError("no model there has one layer, a relative bias and the lowest position as pooling: train one "
                        "with python train.py --variant relative_bias-lowest-augmented-scaled")
    with locked(args.output.parent):
        lines = read_gaps(args.output)
        for name, seed, model in chosen:
            for kind, each in [(scores_name(model), model),
                               *([(f"frozen at {GAP_LENGTH}", frozen(model, GAP_LENGTH))]
                                 if model.config.log_scaling else [])]:
                about = {"encoding": name, "seed": seed, "scores": kind, KEY: weights_digest(model.state_dict()),
                         "longest": args.longest, "num_samples": args.num_samples}
                line = old = lines.get((name, seed, kind), {})
                if {key: line.get(key) for key in about} != about:
                    line = about | measure(each, args, seen)
                if certificate.applies(each) and "certificate" not in line:
                    line = line | {"certificate": certificate.prove(each)}
                if line is not old:
                    lines[name, seed, kind] = rounded(line, DIGITS)
                    write_lines(args.output, lines.values())
                found = unpack(lines[name, seed, kind])
                gaps = ", ".join(f"{head['gap_percentile']:.2f}" for head in found["heads"])
                print(f"{name}, seed {seed}, scores {kind}: 1st percentile of the heads' gaps {gaps}; fails at "
                      f"{found['predicted'] or 'no length'} as predicted, at "
                      f"{measured_length(found['lengths']) or f'none up to {args.longest}'} as measured"
                      + proof_text(found.get("certificate")), flush=True)
        save_figure(args.output.with_suffix(".png"), plot_gaps([unpack(line) for line in lines.values()]))


if __name__ == "__main__":
    run(main)
