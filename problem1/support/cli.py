"""Command lines: options, errors in one line, the choice of device, progress."""

import argparse
import os
import platform
import sys
import time
import warnings
from collections import deque
from importlib.metadata import version
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent.parent
DATA_DIR = HERE / "data"
RESULTS_DIR = HERE / "results"


class UserError(Exception):
    """Something that the user can put right: shown as one line, exit status 2."""


def run(main):
    """Run a command's `main()` and exit with its status; an error of the user is one line."""
    for name in ("stdin", "stdout", "stderr"):  # a stream that the caller closed is None
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
    for stream in (sys.stdout, sys.stderr):  # a path may not fit the output's encoding
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *rest, **more: f"warning: {message}\n"
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        status = complain(error)
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        status = 141
    except KeyboardInterrupt:
        status = complain("interrupted; what was there before is unchanged", 130)
    except OSError as error:
        status = complain(f"{error.filename or 'output'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        words = "out of memory", "allocate memory"
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        status = complain("not enough memory: use a smaller --batch-size, a smaller model or less")
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads the rest; without this Python would complain once more
        sys.stdout = open(os.devnull, "w")
    sys.exit(status)


def complain(error, status=2):
    """Print one short line without control characters to standard error; return the status."""
    line = " ".join(str(error).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    print(
        "error:", line if len(line) <= 800 else f"{line[:400]} ... {line[-400:]}", file=sys.stderr
    )
    return status


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each default, except None (the help text explains it) and False (a switch)."""

    def _get_help_string(self, action):
        silent = action.default is None or action.default is False
        return action.help if silent else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults and reports a mistake in one line."""

    def __init__(self, **options):
        super().__init__(formatter_class=HelpFormatter, **options)

    def error(self, message):
        raise UserError(f"{message} (--help lists the options)")


def whole_number(minimum, maximum=10**9):
    """An argparse type: an integer from `minimum` to `maximum`."""

    def parse(text):
        value = int(text)
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} is not from {minimum:,} to {maximum:,}")
        return value

    parse.__name__ = "whole number"
    return parse


def number(is_valid, description):
    """An argparse type: a float for which `is_valid` holds; `description` says which these are."""

    def parse(text):
        value = float(text)
        if not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text} is not {description}")
        return value

    parse.__name__ = "number"
    return parse


positive_number = number(lambda value: 0 < value < float("inf"), "above zero")
number_from_zero = number(lambda value: 0 <= value < float("inf"), "zero or more")
probability = number(lambda value: 0 <= value < 1, "from 0 up to 1")


def choose_device(name=None):
    """The named device, or the best one present: cuda, then mps, then cpu.

    Raises:
        UserError: if the name is none of these, or torch cannot use the device here.
    """
    if name is None:
        has_mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name} is none of cpu, cuda, mps")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here: {reason}") from None


def environment(device):
    """What the numbers of a run may depend on beside its arguments."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": version("numpy"),
        "matplotlib": version("matplotlib"),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


class Progress:
    """Progress on standard error: one updating line on a terminal, else a line each `seconds`.

    The time that is left is reckoned from the pace of the last minute.
    """

    def __init__(self, what, total, seconds=5):
        self.what, self.total, self.seconds = what, total, seconds
        self.shown = time.monotonic()
        self.marks = deque([(self.shown, 0)])  # of about each second of the last minute
        self.terminal = sys.stderr.isatty()

    def update(self, done):
        """Say that `done` of `total` are done, if it is time to say so again."""
        now = time.monotonic()
        while len(self.marks) > 1 and now - self.marks[1][0] > 60:
            self.marks.popleft()
        if self.terminal and done == self.total:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        elif done < self.total and now - self.shown >= (0.2 if self.terminal else self.seconds):
            self.shown = now
            since, before = self.marks[0]
            left = (now - since) * (self.total - done) / max(done - before, 1)
            line = f"{self.what}: {done:,} of {self.total:,}, {left:.0f} s left"
            start, end = ("\r\033[K", "") if self.terminal else ("", "\n")
            print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
        if now - self.marks[-1][0] >= 1:
            self.marks.append((now, done))
