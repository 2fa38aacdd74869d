"""Studies: many runs, each on one core, several at a time, a line of a file for each that ended.

A study that is stopped and started again goes on where it was: a run that has its line in the file
is not done again.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
from multiprocessing.connection import wait

from support.cli import HERE, UserError, complain, whole_number
from support.files import json_bytes, locked, read_json, write_files, write_json

import torch

TRIES = 2  # of a run whose process ends without a record


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


def scratch_folder(path):
    """Where the runs work whose records are in the file `path`."""
    return HERE / "runs" / f"{path.parent.name}_{path.stem}"


def do_runs(function, todo, path, keys, args):
    """Do the runs that have no line in the file `path` yet.

    Args:
        function: called as `function(*values, folder)` in a process of its own; returns the run's
            record, a dict that holds `seconds`. What it prints goes to `folder / "output.txt"`.
        todo: for each run its values of `keys`, in the order in which to do them.
        path: the file of JSON lines.
        keys: the entries that identify a run.
        args: what `add_arguments` added.

    Returns:
        All records in the file, sorted by `keys`.

    Raises:
        UserError: if a run failed twice; the other runs are done first.
    """

    def values_of(record):
        return tuple(record[key] for key in keys)

    # Each run works in a folder of its own below a scratch folder that no other study may use.
    scratch = scratch_folder(path)
    context, start = multiprocessing.get_context("spawn"), time.monotonic()
    with locked(scratch):
        done = {values_of(record) for record in read_records(path, keys)}
        waiting = [values for values in dict.fromkeys(todo) if values not in done]
        total, ended, running, tries, failed = len(waiting), 0, {}, {}, []
        print(f"{total} runs to do, {args.workers} at a time", flush=True)
        while waiting or running:
            # Start runs while there is room, but none after the time is over.
            late = bool(args.minutes) and time.monotonic() - start >= 60 * args.minutes
            while waiting and not late and len(running) < args.workers:
                values = waiting.pop(0)
                folder = scratch / "_".join(map(str, values))
                (folder / "record.json").unlink(missing_ok=True)  # of a study that was killed
                process = context.Process(target=_run, args=(function, values, folder), daemon=True)
                # Ctrl-C reaches all processes of a terminal; only this one answers it.
                handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
                process.start()
                signal.signal(signal.SIGINT, handler)
                running[process.sentinel] = process, values, folder
            if not running:
                break

            # Wait until one has ended, and keep its record; try once more if there is none.
            for sentinel in wait(list(running)):
                process, values, folder = running.pop(sentinel)
                process.join()
                name = ", ".join(f"{key} {value}" for key, value in zip(keys, values))
                if not (folder / "record.json").exists():
                    tries[values] = tries.get(values, 0) + 1
                    again = tries[values] < TRIES
                    then = "it is tried again" if again else f"see {folder / 'output.txt'}"
                    complain(f"{name} ended without a result; {then}")
                    (waiting if again else failed).append(values)
                    continue
                record = read_json(folder / "record.json", "run the same command again")
                records = [*read_records(path, keys), record]
                write_records(path, sorted(records, key=values_of))
                shutil.rmtree(folder, ignore_errors=True)
                ended += 1
                print(f"{name}: {record['seconds']:.0f} s; {ended} of {total} done", flush=True)
    if waiting:
        print(f"{len(waiting)} runs were not started: run the same command again for them")
    if failed:
        raise UserError(f"{len(failed)} of {total} runs failed: run the same command again")
    return read_records(path, keys)


def _run(function, values, folder):
    """One run, in its own process and on one core, with its output and its record in files."""
    # A process whose parent was killed must not go on.
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a") as output:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                write_json(folder / "record.json", function(*values, folder))
            except Exception:  # told in the file; the parent sees that there is no record
                traceback.print_exc()
