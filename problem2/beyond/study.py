"""Train the variants of learning/variants.py with several seeds and measure each run: a line for each in
results/study/runs.jsonl.

A run that has its line is not run again, and an interrupted one goes on where it was, so that the study can be stopped
and started at will. Records are kept, weights are not. With --figures nothing is trained: the recommended model is
taken apart (recommended.json), and figures are drawn of that and of the runs.
"""

import support.interrupt  # first: Ctrl-C while torch loads

import contextlib
import math
import multiprocessing
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch

from dataset import SPLITS, create_dataloaders
from extrapolation.analysis import classify_group, evaluation_groups, load_group, measure_group
from extrapolation.records import REMEDY, add_record, read_lines, unpack
from extrapolation.shortcut import TrendModel, measure_shortcut
from extrapolation.study import (examine, measure_dilution, measure_heads, measure_pairs, measure_ties,
                                 measure_untrained_rows, pair_errors)
from extrapolation.study_figures import (plot_bias, plot_dilution, plot_gap, plot_grid, plot_neighbour_head, plot_pairs,
                                         plot_parts, plot_shortcut, plot_ties, plot_untrained_rows)
from extrapolation.verification import applies, judge, window_margins
from generate_data import NEGATIVES, TEST_LENGTHS, ensure_data, ensure_test_set
from learning.checkpoint import load_model
from learning.evaluation import evaluate
from learning.loop import fit
from learning.variants import CELLS, GRID, RECOMMENDED, SCALED_CELLS, VARIANTS
from positional_encoding import ENCODINGS, REQUIRED
from support.cli import DATA_DIR, HERE, RESULTS_DIR, Parser, UserError, run, whole_number
from support.digests import KEY, file_digest, weights_digest
from support.files import locked, save_figure, write_json
from train import environment, initial_model, model_arguments

STUDY_DIR = RESULTS_DIR / "study"
SCRATCH_DIR = HERE / "runs" / "study"
NUM_SAMPLES = 500
HEAD_SAMPLES = 64
LONGER = tuple(length for length in TEST_LENGTHS if length >= 16)
# Figures of few variants; one that has no records is left out.
COMPARED = ("sinusoidal-mean-plain", "causal-mean-plain", "local_bias-mean-augmented", "local_bias-max-augmented",
            "relative_bias-max-augmented", RECOMMENDED)
SCALING = ("relative_bias-max-augmented", "relative_bias-max-augmented-scaled", "sinusoidal-max-augmented",
           "sinusoidal-max-augmented-scaled", GRID)
LEARNED = ("learned-mean-plain", "learned-max-augmented", "learned_offset-max-augmented")


def describe(variant, seed, data_dir, num_samples):
    """What a run is, as its record begins."""
    return {"variant": variant.name, "parent": variant.parent, "seed": seed, "settings": variant.settings(),
            "training_sha256": file_digest(data_dir / "train.json"), "num_samples": num_samples}


def train_variant(variant, seed, data_dir, folder):
    """Train in `folder`, going on with what an interrupted run left there; returns `(best model, log, loaders)`."""
    loaders = create_dataloaders(data_dir, variant.batch_size)
    model = initial_model(seed, **model_arguments(variant, loaders))
    log = {"data_sha256": {split: file_digest(data_dir / f"{split}.json") for split in SPLITS},
           "settings": variant.settings()}
    log = fit(model, *loaders[:2], variant.training_config(seed), log, folder, (folder / "resume.pth").exists())
    return load_model(folder / "best_model.pth")[0], log, loaders


def measure_run(model, loaders, data_dir, num_samples):
    """Everything that the study asks of a trained model: a dict of records."""
    batches = [[(batch["sequence"], batch["label"]) for batch in loader] for loader in loaders]
    accuracy = []
    for group in evaluation_groups(TEST_LENGTHS):
        sets = load_group(data_dir, group, num_samples)
        accuracy += measure_group(classify_group(model, sets), sets, group)
    measures = {"test": evaluate(model, loaders[2]), "accuracy": accuracy,
                "shortcut": measure_shortcut(model, TrendModel(batches[0]), batches[2]),
                "dilution": measure_dilution(model, data_dir, LONGER, num_samples),
                "heads": measure_heads(model, data_dir, LONGER, HEAD_SAMPLES), "ties": measure_ties(model),
                "pair_errors": len(pair_errors(measure_pairs(model)))}
    if ENCODINGS[model.config.encoding_type].bounded:
        trained = int(loaders[0].dataset.lengths.max())
        measures["untrained_rows"] = measure_untrained_rows(model, data_dir, LONGER[1:], num_samples, trained)
    if applies(model):
        measures["every_window"] = judge(window_margins(model))
    return measures


def run_one(name, seed, data_dir, num_samples):
    """Train and measure one variant with one seed on one core; returns its record. What it leaves in `SCRATCH_DIR` is
    for the caller to clear away once the record is kept."""
    torch.set_num_threads(1)
    start, variant, folder = time.perf_counter(), VARIANTS[name], scratch(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a") as output, \
            contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        model, log, loaders = train_variant(variant, seed, data_dir, folder)
        epochs = log["epochs"]
        record = describe(variant, seed, data_dir, num_samples) | {
            KEY: weights_digest(model.state_dict()),
            "parameters": sum(parameter.numel() for parameter in model.parameters()), "best_epoch": log["best_epoch"],
            "train": epochs[-1]["train"], "val": epochs[log["best_epoch"] - 1]["val"],
            "training_seconds": sum(epoch["seconds"] for epoch in epochs),
            **measure_run(model, loaders, data_dir, num_samples), "environment": environment("cpu")}
    return record | {"seconds": time.perf_counter() - start}


def scratch(name, seed):
    """The folder of a run under way."""
    return SCRATCH_DIR / f"{name}_{seed}"


def read_records(path, data_dir=None, num_samples=0):
    """The records of the runs, `{(variant, seed): record}`, in the order of the table of variants; those of test sets
    of at least `num_samples` sequences alone.

    Raises:
        UserError: if one is of a variant that has other settings now, or (with `data_dir`) of other training data.
    """
    records = {}
    order = list(VARIANTS)
    trained_on = data_dir and file_digest(data_dir / "train.json")
    for line in read_lines(path):
        name, seed = line["variant"], line["seed"]
        if name not in VARIANTS or line["settings"] != VARIANTS[name].settings():
            raise UserError(f"{path}: {name}, seed {seed}, is of a variant that is not, or no longer, in "
                            f"learning/variants.py: {REMEDY}")
        if data_dir and line["training_sha256"] != trained_on:
            raise UserError(f"{path}: {name}, seed {seed}, was trained on other data than {data_dir}: {REMEDY}")
        if line["num_samples"] >= num_samples:
            records[name, seed] = unpack(line)
    return dict(sorted(records.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def plan(names, seeds):
    """The runs to do, `[(variant, seed)]`: all variants with the first seed, then with the next, so that a study cut
    short is one of fewer seeds."""
    return list(dict.fromkeys((name, seed) for seed in seeds for name in names))


def list_variants(records, names):
    """Print each variant with its parent, the setting that differs, its seeds, and the mean seconds of a run."""
    for name in names:
        variant = VARIANTS[name]
        before = VARIANTS[variant.parent].settings() if variant.parent else variant.settings()
        changed = [f"{key} = {value}" for key, value in variant.settings().items() if before[key] != value]
        done = [record for key, record in records.items() if key[0] == name]
        seeds = ", ".join(str(record["seed"]) for record in done) or "none yet"
        seconds = f"; {statistics.mean(record['seconds'] for record in done):.0f} s a run" if done else ""
        print(f"{name:46} {f'{variant.parent}, but {changed[0]}' if changed else 'a root':70} seeds: {seeds}{seconds}")


def run_all(todo, args):
    """Do the runs `todo`, `[(variant, seed)]`, and keep each record as its run ends; returns how many were not started
    in time."""
    start, limit = time.monotonic(), math.inf if args.minutes is None else 60 * args.minutes
    done, waiting, running = 0, list(todo), {}
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while running or (waiting and time.monotonic() - start < limit):
            while waiting and len(running) < args.workers and time.monotonic() - start < limit:
                key = waiting.pop(0)
                running[pool.submit(run_one, *key, args.data_dir, args.num_samples)] = key
            finished = next(as_completed(running))
            (name, seed), record = running.pop(finished), finished.result()
            add_record(args.runs, record)
            shutil.rmtree(scratch(name, seed))
            done += 1
            left = (time.monotonic() - start) / done * (len(todo) - done)
            print(f"{name}, seed {seed}: {record['seconds']:.0f} s; {done} of {len(todo)} done, {left / 60:.0f} min "
                  "left", flush=True)
    return len(waiting)


def draw_figures(args):
    """Take the recommended model apart, and draw that and the runs."""
    records = list(read_records(args.runs).values())
    if not records:
        raise UserError(f"{args.runs} holds no records: make them with python study.py")
    model, _ = load_model(args.results_dir / RECOMMENDED / "best_model.pth")
    ensure_data(args.data_dir)
    examined = examine(model, args.data_dir)
    write_json(args.output_dir / "recommended.json", examined)

    figures = {"shortcut": plot_shortcut(records),
               "pairs": plot_pairs(examined["pair_margins"]["alone"], examined["pair_errors"]["alone"]),
               "bias": plot_bias(examined["bias"]["weights"], examined["bias"]["reach"])}
    parts = {name for record in records if record["variant"] not in (*CELLS, *SCALED_CELLS)
             for name in (record["variant"], record["parent"])}
    grids = [(f"grid_{scores}{negatives}", partial(plot_grid, negatives=negatives), cells)
             for scores, cells in [("", CELLS), ("scaled_", SCALED_CELLS)] for negatives in NEGATIVES]
    for name, plot, names in [*grids, ("parts", plot_parts, parts), ("untrained_rows", plot_untrained_rows, LEARNED),
                              ("dilution", plot_dilution, COMPARED), ("neighbour_head", plot_neighbour_head, SCALING),
                              ("gap", plot_gap, COMPARED), ("ties", plot_ties, COMPARED)]:
        if chosen := [record for record in records if record["variant"] in names]:
            figures[name] = plot(chosen)
    for name, figure in figures.items():
        save_figure(args.output_dir / f"{name}.png", figure)
    print(f"{len(figures)} figures of {len(records)} runs, and recommended.json, written to {args.output_dir}")


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the variants and the runs there are, and do nothing")
    parser.add_argument("--figures", action="store_true",
                        help="train nothing; draw the figures and write recommended.json")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", default=None,
                        help="these variants alone (default: all)")
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1, 2, 3, 4], help="seeds to train with")
    parser.add_argument("--workers", type=whole_number(1, 256), default=2, help="runs at a time, each on one core")
    parser.add_argument("--num-samples", type=whole_number(2), default=NUM_SAMPLES, help="sequences of each test set")
    parser.add_argument("--minutes", type=whole_number(1), default=None, help="start no run after so many minutes")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="folder of the data; made if empty")
    parser.add_argument("--runs", type=Path, default=STUDY_DIR / "runs.jsonl", help="file of the records of the runs")
    parser.add_argument("--results-dir", type=Path, default=RESULTS_DIR,
                        help="folder of the trained models (with --figures)")
    parser.add_argument("--output-dir", type=Path, default=STUDY_DIR, help="folder of the figures (with --figures)")
    args = parser.parse_args(arguments)
    if args.list:
        list_variants(read_records(args.runs), args.only or VARIANTS)
        return
    if args.figures:
        draw_figures(args)
        return
    ensure_data(args.data_dir)
    for group in evaluation_groups(TEST_LENGTHS):
        ensure_test_set(args.data_dir, group["length"], group["gap_source"])
    with locked(args.runs.parent):
        records = read_records(args.runs, args.data_dir, args.num_samples)
        names = args.only or [name for name in VARIANTS if name not in REQUIRED]
        todo = [key for key in plan(names, args.seeds) if key not in records]
        again = len(read_records(args.runs).keys() & todo)
        print(f"{len(todo)} runs to do, {args.workers} at a time"
              + (f"; {again} of them again, for their records are of fewer than {args.num_samples:,} sequences a set"
                 if again else ""),
              flush=True)
        waiting = run_all(todo, args)
    if waiting:
        print(f"{waiting} runs were not started in {args.minutes} minutes: run the same command again for them")


if __name__ == "__main__":
    run(main)
