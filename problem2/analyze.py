"""Test the trained models on longer sequences, and measure why they fail there.

Writes extrapolation_results.json and its figures into results/extrapolation/, and the copies that
the handout names.
"""

from dataclasses import asdict
from pathlib import Path

from support import cli, files

import torch

from extrapolation import analysis, dissection, figures
from generate_data import TEST_LENGTHS, ensure_data
from model import LONGEST, SortingClassifier, load_model
from positional_encoding import REQUIRED, visualize_positional_encoding

ROWS_SHOWN = 64
ATTENTION_LENGTH = 256
ATTENTION_SEQUENCES = 32
OUTPUT = (
    "folder for the results (default: RESULTS_DIR/extrapolation; runs/extrapolation if fewer "
    "sequences or lengths than by default are tested)"
)
BY_DEFAULT = "default: all with swaps or one inversion, 400 with the other negatives"
SMALLER_DIR = cli.HERE / "runs" / "extrapolation"  # for runs that measure less than the default
COPIES = {
    "extrapolation_curves": ".",
    "learned_position_embeddings": "position_viz",
    "encodings": "position_viz",
}
LEARNED_POLICY = (
    "rows past the longest training sequence are used as they were initialised (neither gradient "
    "nor weight decay touches them); past max_len there is no row, which is an error"
)


def load_models(results_dir, data_dir, device):
    """The trained models in a folder and their training logs: two dicts by name.

    Models of `beyond` that were trained on other data than those in `data_dir` are left out.

    Raises:
        UserError: if there is none, or a required one was trained on other data.
    """
    models, logs = {}, {}
    trained_on = files.file_digest(data_dir / "train.json")
    for name, path in analysis.find_models(results_dir).items():
        model, log = load_model(path, device), analysis.read_log(path)
        if model.training_info["train_sha256"] == trained_on:
            models[name], logs[name] = model, log
        elif name in REQUIRED:
            raise cli.UserError(
                f"{data_dir} does not hold the sequences that {path} was trained on: name the "
                "right folder with --data-dir"
            )
        else:
            print(f"{name} is left out: it was trained on other sequences than those in {data_dir}")
    if not models:
        raise cli.UserError(f"no model in {results_dir} was trained on the data in {data_dir}")
    return models, logs


def measure_accuracy(models, logs, args):
    """How often each model is right on each test set, and its worst mistakes: one record."""
    groups = analysis.evaluation_groups(dict.fromkeys(args.test_lengths))
    total = sum(group["length"] for group in groups) * len(models)
    progress, done = cli.Progress("sequence values", total), 0
    accuracy, failures = [], []
    for group in groups:
        length = group["length"]
        sets = analysis.load_group(args.data_dir, group, args.num_samples)
        main_sets = {kind: sets[kind] for kind in analysis.MAIN_KINDS}
        for name, model in models.items():
            if length <= model.longest:
                fields = {"encoding": name, "seed": logs[name]["training"]["seed"], **group}
                logits = analysis.classify_group(model, sets, args.batch_size)
                accuracy += analysis.measure_group(logits, sets, fields)
                if group["set"] == "length":
                    failures += analysis.find_failures(logits, main_sets, fields)
            else:
                print(f"{name}: no answer at {length} values; it has {model.longest} positions")
            done += length
            progress.update(done)
    return {"accuracy": accuracy, "failures": failures}


def measure_causes(models, trained, args):
    """Why the required models fail beyond `trained` values: one record of four lists."""
    causes = {"position_control": [], "dissection": [], "sinusoidal_shift": [], "attention": []}
    samples = args.num_samples or analysis.SAMPLED
    group = {"length": ATTENTION_LENGTH}
    sequences, labels = analysis.load_group(args.data_dir, group, kinds=["swap"])["swap"]
    sequences = sequences[labels == 1][:ATTENTION_SEQUENCES]

    def note(cause, name, records):
        causes[cause] += [{"encoding": name, **record} for record in records]

    for name, model in models.items():
        if name in dissection.ABSOLUTE:
            # Give short sequences the positions of long ones, and long ones trained positions.
            positions = dissection.measure_positions(model, args.data_dir, args.num_samples)
            note("position_control", name, positions)
            lengths = [each for each in dict.fromkeys(args.test_lengths) if each <= model.longest]
            data = args.data_dir, lengths, samples, trained
            note("dissection", name, dissection.measure_dissection(model, *data))
        if name == "sinusoidal":
            # Check the formula: a shift of k positions is a rotation of the rows.
            causes["sinusoidal_shift"] = dissection.measure_shift(model.pos_encoding)
        # See whether the heads attend to trained or to never trained positions.
        note("attention", name, dissection.measure_attention(model, sequences, trained))
    return causes


def draw_figures(record, models, logs):
    """The pictures of a record, and of what the required encodings add: `{name: figure}`."""
    lengths, accuracy = record["training_lengths"], record["accuracy"]
    pictures = {"extrapolation_curves": figures.plot_extrapolation(accuracy, lengths)}
    if models:
        pictures["attention_by_position"] = figures.plot_attention(record["attention"])
    if record["dissection"]:
        pictures["dissection"] = figures.plot_dissection(record["dissection"])

    def rows_of(model):  # [ROWS_SHOWN, d_model]
        return visualize_positional_encoding(model.pos_encoding, ROWS_SHOWN, model.d_model)

    tables = {name: rows_of(model) for name, model in models.items()}
    if tables:
        pictures["encodings"] = figures.plot_encodings(tables, lengths[1])
    if "learned" in tables:
        # The seed of the training gives the rows that it started from.
        torch.manual_seed(logs["learned"]["training"]["seed"] * 1_000_000)
        initial = rows_of(SortingClassifier(**asdict(models["learned"].config)))
        pictures["learned_position_embeddings"] = figures.plot_position_embeddings(
            tables["learned"], initial, lengths[1]
        )
    return pictures


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    for option, kind, default, text in [
        ("--results-dir", Path, cli.RESULTS_DIR, "folder of the trained models"),
        ("--data-dir", Path, cli.DATA_DIR, "folder of the data; made if empty"),
        ("--output-dir", Path, None, OUTPUT),
        ("--num-samples", cli.whole_number(2), None, f"sequences of each test set ({BY_DEFAULT})"),
        ("--batch-size", cli.whole_number(1), None, "sequences in one pass (default: by length)"),
        ("--device", str, None, "cpu, cuda or mps; by default the best one present"),
    ]:
        parser.add_argument(option, type=kind, default=default, help=text)
    lengths = {"type": cli.whole_number(2, LONGEST), "nargs": "+", "default": list(TEST_LENGTHS)}
    parser.add_argument("--test-lengths", **lengths, help="lengths to test")
    args = parser.parse_args(arguments)

    # Load every trained model. All must be trained on the sequences in the data folder.
    ensure_data(args.data_dir)
    device = cli.choose_device(args.device)
    models, logs = load_models(args.results_dir, args.data_dir, device)
    trained_lengths = next(iter(logs.values()))["training_lengths"]
    required = {
        name: model
        for name, model in models.items()
        if name in REQUIRED and model.longest >= ATTENTION_LENGTH
    }
    record = {
        files.WEIGHTS_DIGEST: {name: files.weights_digest(model) for name, model in models.items()},
        "training_lengths": trained_lengths,
        "models": {name: asdict(model.config) for name, model in models.items()},
        "learned_rows_policy": LEARNED_POLICY,
    }

    # A smaller run leaves the committed record alone.
    smaller = args.num_samples or not {*TEST_LENGTHS} <= {*args.test_lengths}
    if smaller and not args.output_dir and args.results_dir.resolve() == cli.RESULTS_DIR:
        args.output_dir = SMALLER_DIR
        print(f"a smaller run than the default one: its results go to {SMALLER_DIR}", flush=True)
    output_dir = args.output_dir or args.results_dir / "extrapolation"
    with files.locked(output_dir):
        # Measure how often each model is right, by length and by kind of unsorted sequences.
        record |= measure_accuracy(models, logs, args)

        # Measure why the required models fail: change positions alone, and look at attention.
        record |= measure_causes(required, trained_lengths[1], args)

        # Draw the pictures, and write them together with the record that they show.
        contents = {output_dir / "extrapolation_results.json": files.json_bytes(record)}
        for name, figure in draw_figures(record, required, logs).items():
            content = contents[output_dir / f"{name}.png"] = files.figure_bytes(figure)
            if args.output_dir is None and name in COPIES:  # the handout names a second place
                contents[args.results_dir / COPIES[name] / f"{name}.png"] = content
        files.write_files(contents)
    print(analysis.accuracy_table(record["accuracy"]))
    print(f"written to {output_dir}")


if __name__ == "__main__":
    cli.run(main)
