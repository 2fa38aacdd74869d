"""Imported first by every command, before torch: Ctrl-C while libraries load ends in one line, not in a traceback.

An exception would not do, for a library that is loading may catch it, and the command would then go on.
`support.cli.run` ends this. Nothing is changed where a command is imported by another program.
"""

import os
import signal
import sys
from pathlib import Path


def end(number, frame):
    """End this process as `support.cli.run` does on Ctrl-C."""
    print("error: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


def is_command():
    """Whether a file of this problem's folder was started as a program."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and Path(__file__).resolve().parent.parent in Path(started).resolve().parents


if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end)
