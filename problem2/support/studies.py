"""Studies: many runs, each on one core, several at a time, a line of a file for each that ended.

A study that is stopped and started again goes on where it was: a run that has its line in the file
is not done again.
"""

import contextlib
import json
import multiprocessing
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

import torch

from support.cli import HERE, UserError, whole_number
from support.files import json_bytes, locked, write_files


def add_arguments(parser, seeds=(0, 1, 2, 3, 4)):
    """Give a study's parser its options: which seeds, how many runs at a time, and how long."""
    parser.add_argument(
        "--seeds", type=whole_number(0), nargs="+", default=list(seeds), help="training seeds"
    )
    parser.add_argument(
        "--workers", type=whole_number(1, 256), default=2, help="runs at a time, each on one core"
    )
    parser.add_argument(
        "--minutes", type=whole_number(1), default=None, help="start no run after so many minutes"
    )


def read_records(path, keys=()):
    """The records in a file of JSON lines, sorted by their values of `keys`; [] without a file.

    Raises:
        UserError: if a line is no record with these keys.
    """
    records = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            [record[key] for key in keys]
            records.append(record)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}, is no record of a run ({error}): move the file away"
            ) from None
    return sorted(records, key=lambda record: [record[key] for key in keys])


def write_records(path, records):
    """Replace a file of JSON lines."""
    write_files({path: b"".join(json_bytes(record, indent=None) for record in records)})


def do_runs(function, todo, path, keys, args):
    """Do the runs that have no line in the file `path` yet.

    Args:
        function: called as `function(*values, folder)` in a process of its own; returns the run's
            record, a dict that holds `seconds`. What it prints goes to a file in `folder`.
        todo: for each run its values of `keys`, in the order in which to do them.
        path: the file of JSON lines.
        keys: the entries that identify a run.
        args: what `add_arguments` added.

    Returns:
        All records in the file, sorted by `keys`.
    """

    def values_of(record):
        return tuple(record[key] for key in keys)

    scratch = HERE / "runs" / path.stem if path.stem != "runs" else HERE / "runs" / path.parent.name
    start = time.monotonic()
    with locked(scratch):
        done = {values_of(record) for record in read_records(path, keys)}
        waiting = [values for values in dict.fromkeys(todo) if values not in done]
        total, running = len(waiting), {}
        print(f"{total} runs to do, {args.workers} at a time", flush=True)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.workers, mp_context=context) as pool:
            while waiting or running:
                late = args.minutes and time.monotonic() - start >= 60 * args.minutes
                if late and not running:
                    break
                while waiting and not late and len(running) < args.workers:
                    values = waiting.pop(0)
                    folder = scratch / "_".join(map(str, values))
                    running[pool.submit(_run, function, values, folder)] = values, folder
                finished = wait(running, return_when=FIRST_COMPLETED).done.pop()
                values, folder = running.pop(finished)
                record = finished.result()
                records = [*read_records(path, keys), record]
                write_records(path, sorted(records, key=values_of))
                shutil.rmtree(folder, ignore_errors=True)
                count = total - len(waiting) - len(running)
                name = ", ".join(f"{key} {value}" for key, value in zip(keys, values))
                print(f"{name}: {record['seconds']:.0f} s; {count} of {total} done", flush=True)
    if waiting:
        print(f"{len(waiting)} runs were not started: run the same command again for them")
    return read_records(path, keys)


def _run(function, values, folder):
    """One run in its own process, on one core, with its output in a file."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a") as output:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return function(*values, folder)
