"""What every command shares: errors in one line, argument types, the choice of device, progress."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import torch

from support import interrupt

HERE = Path(__file__).resolve().parent.parent
DATA_DIR = HERE / "data"
RESULTS_DIR = HERE / "results"


class UserError(Exception):
    """Something the user can put right: shown as one line, exit status 2."""


def run(main):
    """Run a command's `main()` and exit with its status; an error the user can mend is one line, not a traceback."""
    if signal.getsignal(signal.SIGINT) is interrupt.end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("stdin", "stdout", "stderr"):  # a stream that the caller closed is None
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        status = complain(error)
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        status = 141
    except KeyboardInterrupt:
        status = complain("interrupted", 130)
    except OSError as error:
        status = complain(f"{error.filename or 'output'}: {error.strerror or error}")
    try:
        sys.stdout.flush()
    except OSError:  # what is left of the output has nowhere to go, and Python would say so once more at its end
        sys.stdout = open(os.devnull, "w")
    sys.exit(status)


def complain(error, status=2):
    """Print one line to standard error, without control characters and not too long; returns the exit status."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(str(error).split()))
    print("error:", line if len(line) <= 800 else f"{line[:400]} ... {line[-400:]}", file=sys.stderr)
    return status


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for those that say nothing: None, which a help text explains, and switches that are off."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults, and reports a mistake in one line."""

    def __init__(self, **options):
        super().__init__(formatter_class=HelpFormatter, **options)

    def error(self, message):
        raise UserError(f"{message} (--help lists the options)")


def whole_number(minimum, maximum=10 ** 9):
    """An argparse type: an integer from `minimum` to `maximum`."""
    def parse(text):
        value = int(text)
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} is not from {minimum:,} to {maximum:,}")
        return value
    parse.__name__ = "whole number"
    return parse


def positive_number(text):
    """An argparse type: a finite number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def number_from_zero(text):
    """An argparse type: a finite number, zero or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not zero or more")
    return value


def share(text):
    """An argparse type: a number from 0 up to, not including, 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 up to 1")
    return value


def choose_device(name=None):
    """The named device, or the best one present: cuda, then mps, then cpu.

    Raises:
        UserError: if it is none of these, or torch cannot use it here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name} is none of cpu, cuda, mps")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from None


class Progress:
    """Progress on standard error: one updating line on a terminal, cleared at the end; else a line each `seconds`."""

    def __init__(self, what, total, seconds=10):
        self.what, self.total, self.seconds = what, total, seconds
        self.start = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def update(self, done):
        """Say that `done` of `total` are done, if it is time to say so again."""
        now = time.monotonic()
        if self.terminal and done == self.total:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        elif now - self.shown >= (0.2 if self.terminal else self.seconds):
            self.shown = now
            left = (now - self.start) * (self.total - done) / done
            line = f"{self.what}: {done:,} of {self.total:,}, {left:.0f} s left"
            print(f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr,
                  flush=True)
