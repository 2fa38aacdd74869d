"""Measure why unrestricted attention holds: results/beyond/gaps.jsonl and its figure.

It is about models with one layer, a relative bias and the lowest position as pooling. A line of the
file is one model; a model with scaled scores has a second line, of the same weights with the scale
fixed at the longest training length. For scores multiplied by log n the line says from which length
on the model is proved right. What has its line is not measured again. Name several folders with
--results-dir for models of several training seeds.
"""

from pathlib import Path

from support import cli, files, studies

from beyond import chosen
from beyond import gap_measures as measures
from beyond.certificate import bound_holds, prove
from beyond.draw_sets import DRAWS, draw_sets
from beyond.gap_figures import plot_gaps
from beyond.scaling import log_scaling
from generate_data import GAP_LENGTH, ensure_data, load_splits

SEQUENCES = 400  # of GAP_LENGTH values; on them score gaps are measured and lengths predicted
LINE = ("encoding", "seed", "scores")  # the entries that identify a line
NEEDED = ("longest", "num_samples", "heads", "predicted", "lengths")


def scores_name(model):
    """How the scores of a model are scaled, in a word."""
    return {False: "plain", True: "scaled", "learned": "learned"}[log_scaling(model)]


def measure(model, seen, longest, num_samples):
    """Score gaps, predicted length and accuracy by length of one model: a dict of records."""
    # A draw of its own: those of `draws` judge the models.
    sequences, labels = draw_sets(GAP_LENGTH, DRAWS, SEQUENCES, seen)[measures.NEGATIVES]
    device = next(model.parameters()).device
    sequences, labels = sequences.to(device), labels.to(device)
    heads = measures.measure_gaps(model, sequences)
    for record in heads:
        record["right_without"] = measures.right_without(model, sequences, labels, [record["head"]])
    # All heads that are not needed one at a time: does one of them replace another?
    unneeded = [record["head"] for record in heads if not measures.needed(record)]
    return {
        "heads": heads,
        "right_without_unneeded": measures.right_without(model, sequences, labels, unneeded),
        "predicted": measures.predict_length(model, sequences, labels),
        "lengths": measures.measure_lengths(model, GAP_LENGTH, longest, num_samples, seen, DRAWS),
    }


def report(line):
    """Print what a line of the file says."""
    gaps = ", ".join(f"{head['gap_percentile']:.2f}" for head in line["heads"])
    measured = measures.measured_length(line["lengths"]) or f"none up to {line['longest']}"
    text = (
        f"{line['encoding']}, seed {line['seed']}, scores {line['scores']}: 1st percentile of the "
        f"heads' score gaps {gaps}; fails at {line['predicted'] or 'no length'} as predicted, at "
        f"{measured} as measured"
    )
    if proof := line.get("certificate"):
        verdict = (
            "proved right on" if proof["every_sequence_right"] else "not proved right, even on"
        )
        text += f"; {verdict} sequences of {proof['length']:,} values or more"
    print(text, flush=True)


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    chosen.add_arguments(parser)
    for option, kind, value, text in [
        ("--longest", cli.whole_number(16, 100_000), 1024, "longest sequences to test"),
        ("--num-samples", cli.whole_number(2), 100, "sequences of each length"),
        ("--output", Path, cli.RESULTS_DIR / "beyond" / "gaps.jsonl", "file of the records"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)
    args = parser.parse_args(arguments)

    # Load the models that have far keys, and the sequences that no test may hold.
    ensure_data(args.data_dir)
    models = [each for each in chosen.chosen_models(args) if measures.has_far_keys(each[2])]
    if not models:
        raise cli.UserError(
            "no model there has one layer, a relative bias and the lowest position as pooling: "
            "train one with python problem2/beyond train"
        )
    seen = set().union(*load_splits(args.data_dir))

    # Measure each model, and once more with its scale fixed if its scores are scaled.
    with files.locked(args.output.parent):
        lines = chosen.read_lines(args.output, LINE, NEEDED)
        for name, seed, model in models:
            digest = files.weights_digest(model)
            versions = {scores_name(model): model}
            if log_scaling(model):
                versions[f"frozen at {GAP_LENGTH}"] = measures.frozen(model, GAP_LENGTH)
            for scores, version in versions.items():
                key = name, seed, scores
                line = lines.get(key, {})
                # A record is never replaced by a smaller one of the same weights.
                same = line.get(files.WEIGHTS_DIGEST) == digest
                had = {option: line[option] if same else 0 for option in ("longest", "num_samples")}
                sizes = {option: max(size, getattr(args, option)) for option, size in had.items()}
                if sizes != had:
                    line = dict(zip(LINE, key)) | {files.WEIGHTS_DIGEST: digest, **sizes}
                    line |= measure(version, seen, **sizes)
                if bound_holds(version) and "certificate" not in line:
                    line = line | {"certificate": prove(version)}
                if line is not lines.get(key):
                    lines[key] = files.rounded(line)
                    studies.write_records(args.output, lines.values())
                report(lines[key])
        # Plot all lines, of this run and of earlier ones.
        figure = plot_gaps(list(lines.values()))
        files.save_figure(args.output.with_suffix(".png"), figure)
