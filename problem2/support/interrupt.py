"""Imported first by every command, before torch: Ctrl-C while libraries load ends in one line, not in a traceback."""

import sys


def _in_one_line(kind, error, traceback, otherwise=sys.excepthook):
    if issubclass(kind, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
    else:
        otherwise(kind, error, traceback)


sys.excepthook = _in_one_line
