"""Test the trained models on longer sequences, and measure why they fail there.

Writes extrapolation_results.json and its figures into results/extrapolation/, and the copies that the handout names.
"""

from pathlib import Path

from analysis import (ABSOLUTE, MAIN_KINDS, accuracy_table, classify_group, evaluation_groups, find_failures, load_group, measure_attention,
                      measure_group, measure_positions, measure_shift)
from checkpoint import load_model
from cli import DATA_DIR, RESULTS_DIR, Parser, Progress, choose_device, run, whole_number
from files import locked, read_json, replacing, save_figure, write_json
from generate_data import TEST_LENGTHS, ensure_data
from plots import plot_attention, plot_encodings, plot_extrapolation, plot_position_embeddings
from positional_encoding import REQUIRED, visualize_positional_encoding
from train import initial_model
from variants import TRAINED_BY_DEFAULT

ROWS_SHOWN = 64
ATTENTION_LENGTH = 256
ATTENTION_SEQUENCES = 32
LEARNED_POLICY = ("rows past the longest training sequence are used as they were initialised (neither gradient nor weight decay touches "
                  "them); past max_len there is no row, which is an error")


def make_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--results-dir", type=Path, default=RESULTS_DIR, help="folder of the trained models, one folder each")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="folder of the data; made if empty")
    parser.add_argument("--output-dir", type=Path, default=None, help="folder for the results (default: extrapolation/ in --results-dir)")
    parser.add_argument("--test-lengths", type=whole_number(2), nargs="+", default=list(TEST_LENGTHS), help="lengths to test")
    parser.add_argument("--num-samples", type=whole_number(2), default=None, help="sequences of each test set (default: all of swap and one inversion, 400 of the others)")
    parser.add_argument("--device", default=None, help="cpu, cuda or mps; by default the best one present")
    return parser


def copy(source, target):
    """Copy a file, whole."""
    with replacing(target) as file:
        file.write(source.read_bytes())


def analyze(args, output_dir):
    """Run every measurement, and write the records and figures into `output_dir`."""
    device, results_dir = choose_device(args.device), args.results_dir
    models = {name: load_model(results_dir / name / "best_model.pth", device)[0] for name in TRAINED_BY_DEFAULT}
    logs = {name: read_json(results_dir / name / "training_log.json", "train the model with python train.py") for name in TRAINED_BY_DEFAULT}

    groups = evaluation_groups(args.test_lengths)
    progress = Progress("sequence values", sum(group["length"] for group in groups) * len(models))
    accuracy, failures, done = [], [], 0
    for group in groups:
        sets = load_group(args.data_dir, group, args.num_samples)
        for encoding, model in models.items():
            about = {"encoding": encoding, "seed": logs[encoding]["training"]["seed"], **group}
            logits = classify_group(model, sets)
            accuracy += measure_group(logits, sets, about)
            if group["set"] == "length":
                failures += find_failures(logits, {kind: sets[kind] for kind in MAIN_KINDS}, about)
            done += group["length"]
            progress.update(done)

    trained_lengths = logs["learned"]["training_lengths"]
    sequences, labels = load_group(args.data_dir, {"length": ATTENTION_LENGTH, "gap_source": None}, kinds=["swap"])["swap"]
    sequences = sequences[labels == 1][:ATTENTION_SEQUENCES]
    attention = [record for encoding in REQUIRED
                 for record in measure_attention(models[encoding], sequences, trained_lengths[1], {"encoding": encoding})]
    positions = [record for encoding in ABSOLUTE
                 for record in measure_positions(models[encoding], args.data_dir, args.num_samples, {"encoding": encoding})]
    write_json(output_dir / "extrapolation_results.json", {
        "training_lengths": trained_lengths, "models": {encoding: log["model"] for encoding, log in logs.items()},
        "learned_rows_policy": LEARNED_POLICY, "accuracy": accuracy, "position_control": positions,
        "sinusoidal_shift": measure_shift(models["sinusoidal"].positions),
        "attention": attention, "failures": failures})

    trained_rows = trained_lengths[1]
    save_figure(output_dir / "extrapolation_curves.png", plot_extrapolation(accuracy, trained_lengths))

    initial = initial_model(logs["learned"]["training"]["seed"], **logs["learned"]["model"]).eval()
    initial = visualize_positional_encoding(initial.positions, ROWS_SHOWN, initial.config.d_model)
    tables = {encoding: visualize_positional_encoding(models[encoding].positions, ROWS_SHOWN, models[encoding].config.d_model)
              for encoding in REQUIRED}
    save_figure(output_dir / "learned_position_embeddings.png", plot_position_embeddings(tables["learned"], initial, trained_rows))
    save_figure(output_dir / "attention_by_position.png", plot_attention(attention))
    save_figure(output_dir / "encodings.png", plot_encodings(tables, trained_rows))
    if args.output_dir is None:  # the handout's tree has them here as well
        copy(output_dir / "extrapolation_curves.png", results_dir / "extrapolation_curves.png")
        for name in ("learned_position_embeddings.png", "encodings.png"):
            copy(output_dir / name, results_dir / "position_viz" / name)
    print(accuracy_table(accuracy))
    print(f"written to {output_dir}")


def main(arguments=None):
    args = make_parser().parse_args(arguments)
    ensure_data(args.data_dir)
    output_dir = args.output_dir or args.results_dir / "extrapolation"
    with locked(output_dir):
        analyze(args, output_dir)


if __name__ == "__main__":
    run(main)
