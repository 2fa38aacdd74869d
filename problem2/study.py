"""Train the variants of variants.py with several seeds and measure each run: a file for each in results/study/runs/.

A run that has its file is not run again, and an interrupted one goes on where it was, so that the study can be stopped and
started at will. Records are kept, weights are not. `study_figures.py` draws what the records say.
"""

import support.interrupt  # first: Ctrl-C while torch loads

import contextlib
import math
import multiprocessing
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from analysis import classify_group, evaluation_groups, load_group, measure_group
from checkpoint import load_model
from support.cli import DATA_DIR, HERE, RESULTS_DIR, Parser, UserError, run, whole_number
from dataset import SPLITS, create_dataloaders
from evaluation import evaluate
from support.digests import KEY, file_digest, weights_digest
from support.files import read_json, write_json
from generate_data import TEST_LENGTHS, ensure_data
from positional_encoding import ENCODINGS, REQUIRED
from shortcut import TrendModel, measure_shortcut
from study_analysis import measure_dilution, measure_heads, measure_pairs, measure_ties, measure_untrained_rows, pair_errors
from train import environment, initial_model, model_arguments
from training import fit
from variants import VARIANTS
from verification import applies, judge, window_margins

RUNS_DIR = RESULTS_DIR / "study" / "runs"
SCRATCH_DIR = HERE / "runs" / "study"
NUM_SAMPLES = 500
HEAD_SAMPLES = 64
LONGER = tuple(length for length in TEST_LENGTHS if length >= 16)


def describe(variant, seed, data_dir, num_samples):
    """What a run is, as its record begins."""
    return {"variant": variant.name, "parent": variant.parent, "seed": seed, "settings": variant.settings(),
            "training_sha256": file_digest(data_dir / "train.json"), "num_samples": num_samples}


def train_variant(variant, seed, data_dir, folder):
    """Train in `folder`, going on with what an interrupted run left there; returns `(best model, log, loaders)`."""
    loaders = create_dataloaders(data_dir, variant.batch_size)
    model = initial_model(seed, **model_arguments(variant, loaders))
    log = {"data_sha256": {split: file_digest(data_dir / f"{split}.json") for split in SPLITS}, "settings": variant.settings()}
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


def run_one(name, seed, data_dir, runs_dir, num_samples):
    """Train and measure one variant with one seed on one core, and write its record; returns its seconds."""
    torch.set_num_threads(1)
    start, variant, folder = time.perf_counter(), VARIANTS[name], SCRATCH_DIR / f"{name}_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        model, log, loaders = train_variant(variant, seed, data_dir, folder)
        epochs = log["epochs"]
        record = describe(variant, seed, data_dir, num_samples) | {
            KEY: weights_digest(model.state_dict()),
            "parameters": sum(parameter.numel() for parameter in model.parameters()), "best_epoch": log["best_epoch"],
            "train": epochs[-1]["train"], "val": epochs[log["best_epoch"] - 1]["val"],
            "training_seconds": sum(epoch["seconds"] for epoch in epochs),
            **measure_run(model, loaders, data_dir, num_samples), "environment": environment("cpu")}
    record["seconds"] = time.perf_counter() - start
    write_json(runs_dir / f"{name}_{seed}.json", record)
    shutil.rmtree(folder)
    return record["seconds"]


def read_records(runs_dir, data_dir=None, num_samples=0):
    """The records in `runs_dir`, `{(variant, seed): record}`, in the order of the table of variants; those of test sets of at least
    `num_samples` sequences alone.

    Raises:
        UserError: if one is of a variant that has other settings now, or (with `data_dir`) of other training data.
    """
    records = {}
    order = list(VARIANTS)
    for path in runs_dir.glob("*.json"):
        record = read_json(path, "run python study.py again")
        if not isinstance(record, dict) or not {"variant", "seed", "settings", "training_sha256"} <= record.keys():
            raise UserError(f"{path} is no record of a run: move it away")
        variant = VARIANTS.get(record["variant"])
        if variant is None or record["settings"] != variant.settings():
            raise UserError(f"{path} is of a variant that is not, or no longer, in variants.py: move it away")
        if data_dir and record["training_sha256"] != file_digest(data_dir / "train.json"):
            raise UserError(f"{path} was trained on other data than {data_dir}: move it away")
        if record.get("num_samples", NUM_SAMPLES) >= num_samples:
            records[record["variant"], record["seed"]] = record
    return dict(sorted(records.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def plan(names, seeds):
    """The runs to do, `[(variant, seed)]`: all variants with the first seed, then with the next, so that a study cut short is
    one of fewer seeds."""
    return list(dict.fromkeys((name, seed) for seed in seeds for name in names))


def list_variants(records, names):
    """Print each variant with its parent, the setting that differs, its seeds, and the mean seconds of a run."""
    for name in names:
        variant = VARIANTS[name]
        changed = [] if variant.parent is None else [
            f"{key} = {value}" for key, value in variant.settings().items() if VARIANTS[variant.parent].settings()[key] != value]
        done = [record for key, record in records.items() if key[0] == name]
        seeds = ", ".join(str(record["seed"]) for record in done) or "none yet"
        seconds = f"; {statistics.mean(record['seconds'] for record in done):.0f} s a run" if done else ""
        print(f"{name:36} {f'{variant.parent}, but {changed[0]}' if changed else 'a root':70} seeds: {seeds}{seconds}")


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the variants and the runs there are, and do nothing")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", default=None, help="these variants alone (default: all)")
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", default=[0, 1, 2, 3, 4], help="seeds to train with")
    parser.add_argument("--workers", type=whole_number(1, 256), default=2, help="runs at a time, each on one core")
    parser.add_argument("--num-samples", type=whole_number(2), default=NUM_SAMPLES, help="sequences of each test set")
    parser.add_argument("--minutes", type=whole_number(1), default=None, help="start no run after so many minutes")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="folder of the data; made if empty")
    parser.add_argument("--runs-dir", type=Path, default=RUNS_DIR, help="folder of the records")
    args = parser.parse_args(arguments)
    names = args.only or [name for name in VARIANTS if name not in REQUIRED]
    if args.list:
        list_variants(read_records(args.runs_dir), args.only or VARIANTS)
        return
    ensure_data(args.data_dir)
    records = read_records(args.runs_dir, args.data_dir, args.num_samples)
    todo = [key for key in plan(names, args.seeds) if key not in records]
    again = len(read_records(args.runs_dir).keys() & todo)
    print(f"{len(todo)} runs to do, {args.workers} at a time"
          + (f"; {again} of them again, for their records are of fewer than {args.num_samples:,} sequences a set" if again else ""),
          flush=True)
    start, limit = time.monotonic(), math.inf if args.minutes is None else 60 * args.minutes
    done, waiting, running = 0, list(todo), {}
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while running or (waiting and time.monotonic() - start < limit):
            while waiting and len(running) < args.workers and time.monotonic() - start < limit:
                key = waiting.pop(0)
                running[pool.submit(run_one, *key, args.data_dir, args.runs_dir, args.num_samples)] = key
            finished = next(as_completed(running))
            (name, seed), seconds = running.pop(finished), finished.result()
            done += 1
            left = (time.monotonic() - start) / done * (len(todo) - done)
            print(f"{name}, seed {seed}: {seconds:.0f} s; {done} of {len(todo)} done, {left / 60:.0f} min left", flush=True)
    if waiting:
        print(f"{len(waiting)} runs were not started in {args.minutes} minutes: run the same command again for them")


if __name__ == "__main__":
    run(main)
