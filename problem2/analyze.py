"""Test the trained models on longer sequences, and measure why they fail there.

Writes extrapolation_results.json and its figures into results/extrapolation/, and the copies that the handout names.
"""

import support.interrupt  # first: Ctrl-C while torch loads

from pathlib import Path

from dataset import SortingDataset
from extrapolation.analysis import (
    ABSOLUTE,
    MAIN_KINDS,
    SAMPLED,
    accuracy_table,
    classify_group,
    evaluation_groups,
    find_failures,
    load_group,
    measure_attention,
    measure_group,
    measure_positions,
    measure_shift,
)
from extrapolation.dissection import measure_dissection
from extrapolation.figures import (
    plot_attention,
    plot_dissection,
    plot_encodings,
    plot_extrapolation,
    plot_position_embeddings,
)
from generate_data import GAP_LENGTH, TEST_LENGTHS, ensure_data, ensure_test_set
from learning.checkpoint import load_model
from learning.variants import find_models
from positional_encoding import ENCODINGS, REQUIRED, visualize_positional_encoding
from support.cli import (
    DATA_DIR,
    RESULTS_DIR,
    Parser,
    Progress,
    UserError,
    choose_device,
    run,
    whole_number,
)
from support.digests import KEY, file_digest, weights_digest
from support.files import locked, read_json, replacing, save_figure, write_json
from train import initial_model

ROWS_SHOWN = 64
ATTENTION_LENGTH = 256
ATTENTION_SEQUENCES = 32
REMEDY = "train the model with python train.py"
LEARNED_POLICY = (
    "rows past the longest training sequence are used as they were initialised (neither gradient nor "
    "weight decay touches them); past max_len there is no row, which is an error"
)


def make_parser():
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--results-dir",
        type=Path,
        default=RESULTS_DIR,
        help="folder of the trained models, one folder each",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="folder of the data; made if empty"
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=None,
        help="folder for the results (default: extrapolation/ in --results-dir)",
    )
    parser.add_argument(
        "--test-lengths",
        type=whole_number(2, 100_000),
        nargs="+",
        default=list(TEST_LENGTHS),
        help="lengths to test",
    )
    parser.add_argument(
        "--num-samples",
        type=whole_number(2),
        default=None,
        help="sequences of each test set (default: all of swap and one inversion, 400 of the others)",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(1),
        default=None,
        help="sequences in one pass (default: by their length)",
    )
    parser.add_argument(
        "--device", default=None, help="cpu, cuda or mps; by default the best one present"
    )
    return parser


def copy(source, target):
    """Copy a file, whole."""
    with replacing(target) as file:
        file.write(source.read_bytes())


def load_models(results_dir, data_dir, device):
    """The models in a results folder and their training logs: two dicts by name.

    Raises:
        UserError: if there is none, or the data are not those that one was trained on.
    """
    models, logs = {}, {}
    trained_on = file_digest(data_dir / "train.json")
    for name, path in find_models(results_dir).items():
        models[name], about = load_model(path, device)
        log = path.parent / "training_log.json"
        logs[name] = read_json(log, REMEDY)
        if not isinstance(logs[name], dict) or not {"training", "model"} <= logs[name].keys():
            raise UserError(f"{log} is no log of a training: {REMEDY}")
        if about["train_sha256"] != trained_on:
            raise UserError(
                f"{data_dir} does not hold the training sequences of {path}, without which trained and "
                "untrained lengths cannot be told apart: name the folder that does with --data-dir"
            )
    if not models:
        raise UserError(f"{results_dir} holds no trained model: train some with python train.py")
    return models, logs


def takes(model, length):
    """Whether a model has an answer for sequences of that length."""
    return length <= model.config.max_len or not ENCODINGS[model.config.encoding_type].bounded


def lengths_of(model, args):
    """The lengths to test of which a model has an answer, each once."""
    return [length for length in dict.fromkeys(args.test_lengths) if takes(model, length)]


def measure_accuracy(models, logs, args):
    """Accuracy of each model on each test set, and its failures: two lists of records."""
    groups = evaluation_groups(dict.fromkeys(args.test_lengths))
    progress = Progress("sequence values", sum(group["length"] for group in groups) * len(models))
    accuracy, failures, done = [], [], 0
    for group in groups:
        ensure_test_set(args.data_dir, group["length"], group["gap_source"])
        sets = load_group(args.data_dir, group, args.num_samples)
        for name, model in models.items():
            if takes(model, group["length"]):
                about = {"encoding": name, "seed": logs[name]["training"]["seed"], **group}
                logits = classify_group(model, sets, args.batch_size)
                accuracy += measure_group(logits, sets, about)
                if group["set"] == "length":
                    failures += find_failures(
                        logits, {kind: sets[kind] for kind in MAIN_KINDS}, about
                    )
            else:
                print(
                    f"{name}: no answer at {group['length']} values, for it has {model.config.max_len} positions",
                    flush=True,
                )
            done += group["length"]
            progress.update(done)
    return accuracy, failures


def analyze(models, logs, trained_lengths, args, output_dir):
    """Run every measurement on the models, trained on `[shortest, longest]` values, and write the records and figures
    into `output_dir`."""
    results_dir, trained_rows = args.results_dir, trained_lengths[1]
    accuracy, failures = measure_accuracy(models, logs, args)

    ensure_test_set(args.data_dir, ATTENTION_LENGTH)
    sequences, labels = load_group(
        args.data_dir, {"length": ATTENTION_LENGTH, "gap_source": None}, kinds=["swap"]
    )["swap"]
    sequences = sequences[labels == 1][:ATTENTION_SEQUENCES]
    required = {
        name: models[name]
        for name in REQUIRED
        if name in models and takes(models[name], ATTENTION_LENGTH)
    }
    attention = [
        record
        for name, model in required.items()
        for record in measure_attention(model, sequences, trained_rows, {"encoding": name})
    ]
    ensure_test_set(args.data_dir, GAP_LENGTH)
    positions = [
        record
        for name, model in required.items()
        if name in ABSOLUTE
        for record in measure_positions(
            model, args.data_dir, args.num_samples, {"encoding": name}, args.batch_size
        )
    ]
    dissection = [
        record
        for name, model in required.items()
        if name in ABSOLUTE
        for record in measure_dissection(
            model,
            args.data_dir,
            lengths_of(model, args),
            args.num_samples or SAMPLED,
            trained_rows,
            {"encoding": name},
        )
    ]
    write_json(
        output_dir / "extrapolation_results.json",
        {
            KEY: {name: weights_digest(model.state_dict()) for name, model in models.items()},
            "training_lengths": trained_lengths,
            "models": {name: log["model"] for name, log in logs.items()},
            "learned_rows_policy": LEARNED_POLICY,
            "accuracy": accuracy,
            "position_control": positions,
            "dissection": dissection,
            "sinusoidal_shift": measure_shift(models["sinusoidal"].pos_encoding)
            if "sinusoidal" in required
            else [],
            "attention": attention,
            "failures": failures,
        },
    )

    figures = {"extrapolation_curves": plot_extrapolation(accuracy, trained_lengths)}
    tables = {
        name: visualize_positional_encoding(model.pos_encoding, ROWS_SHOWN, model.config.d_model)
        for name, model in required.items()
    }
    if "learned" in required:
        initial = initial_model(
            logs["learned"]["training"]["seed"], **logs["learned"]["model"]
        ).eval()
        initial = visualize_positional_encoding(
            initial.pos_encoding, ROWS_SHOWN, initial.config.d_model
        )
        figures["learned_position_embeddings"] = plot_position_embeddings(
            tables["learned"], initial, trained_rows
        )
    if required:
        figures |= {
            "attention_by_position": plot_attention(attention),
            "encodings": plot_encodings(tables, trained_rows),
        }
    if dissection:
        figures["dissection"] = plot_dissection(dissection)
    for name, figure in figures.items():
        save_figure(output_dir / f"{name}.png", figure)
    if args.output_dir is None:  # the handout's tree has them here as well
        copy(output_dir / "extrapolation_curves.png", results_dir / "extrapolation_curves.png")
        for name in ("learned_position_embeddings", "encodings"):
            if name in figures:
                copy(output_dir / f"{name}.png", results_dir / "position_viz" / f"{name}.png")
    print(accuracy_table(accuracy))
    print(f"written to {output_dir}")


def main(arguments=None):
    args = make_parser().parse_args(arguments)
    ensure_data(args.data_dir)
    output_dir = args.output_dir or args.results_dir / "extrapolation"
    lengths = SortingDataset(args.data_dir / "train.json").lengths
    models, logs = load_models(args.results_dir, args.data_dir, choose_device(args.device))
    with locked(output_dir):
        analyze(models, logs, [int(lengths.min()), int(lengths.max())], args, output_dir)


if __name__ == "__main__":
    run(main)
