"""Many training runs: each on one core, several at a time, a line of a file for each that has ended."""

import contextlib
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from support.cli import UserError
from support.files import replacing, rounded


def read_runs(path, keys):
    """The records in the file, `{their values of keys: record}`; none if there is no file.

    Raises:
        UserError: if a line is no record.
    """
    records = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        try:
            record = json.loads(line)
            records[tuple(record[key] for key in keys)] = record
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}, is no record of a run ({error}): move the file away") from None
    return dict(sorted(records.items()))


def add_run(path, record, keys):
    """Write the file anew with one more line."""
    lines = [json.dumps(each) for each in (*read_runs(path, keys).values(), rounded(record))]
    with replacing(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def do_runs(function, todo, folder, path, keys, workers, minutes=None):
    """Do the runs that have no line in the file yet.

    Args:
        function: called with the values of a run and a folder of its own; returns its record. What it prints goes into
            the folder. It must be one that another process can import.
        todo: the values of `keys` of each run, in the order in which to do them.
        folder: where the folders of the runs are.
        path: the file of records.
        workers: runs at a time.
        minutes: start no run after so many.

    Returns:
        All records in the file.
    """
    waiting = [values for values in dict.fromkeys(todo) if values not in read_runs(path, keys)]
    total, running = len(waiting), {}
    print(f"{total} runs to do, {workers} at a time", flush=True)
    start, limit = time.monotonic(), math.inf if minutes is None else 60 * minutes
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while running or (waiting and time.monotonic() - start < limit):
            while waiting and len(running) < workers and time.monotonic() - start < limit:
                values = waiting.pop(0)
                running[pool.submit(_do_run, function, values,
                                    folder / "_".join(f"{key}_{value}" for key, value in zip(keys, values)))] = values
            finished = next(as_completed(running))
            name = ", ".join(f"{key} {value}" for key, value in zip(keys, running.pop(finished)))
            record = finished.result()
            add_run(path, record, keys)
            print(f"{name}: {record['seconds']:.0f} s; {total - len(waiting) - len(running)} of {total} done",
                  flush=True)
    if waiting:
        print(f"{len(waiting)} runs were not started in {minutes} minutes: run the same command again for them")
    return list(read_runs(path, keys).values())


def _do_run(function, values, folder):
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a") as output, contextlib.redirect_stdout(output), \
            contextlib.redirect_stderr(output):
        return function(*values, folder)
