"""What several tests need: a command run in this process, small data, a model that knows the answers."""

import contextlib
import io
import json
import platform
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch

from generate_data import generate
from support import cli
from support.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "results"


def command(main, *arguments, stdin=b""):
    """Run a command's main as its script would; returns `(exit status, standard output, standard error)`."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), \
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))):
        try:
            cli.run(lambda: main([str(argument) for argument in arguments]))
        except SystemExit as exit_:
            return exit_.code or 0, output.getvalue(), errors.getvalue()


def record_robustness(part, record):
    """Put what a script found (`part` is "fuzz" or "kills") into results/robustness.json, beside what the other one
    found."""
    path = RESULTS / "robustness.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, records | {part: record
                          | {"environment": {"python": platform.python_version(), "torch": str(torch.__version__)}}})


def without_pictures(module):
    """A patch with which a command draws its figures and saves a few bytes in the place of each: saving takes
    longest."""
    def save(path, figure):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    return mock.patch.object(module, "save_figure", save)


class TemporaryFolder(unittest.TestCase):
    """A test with an empty folder of its own, `self.folder`."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def small_data(self, sizes=(60, 20, 20), extrapolation=False):
        """A data folder with few sequences."""
        generate(self.folder / "data", 641, *sizes, generate_extrapolation=extrapolation)
        return self.folder / "data"

    def assert_one_line(self, result, *words, status=2):
        """The command failed with this status and one line on standard error that has these words."""
        code, output, errors = result
        self.assertEqual(code, status, errors)
        self.assertEqual(errors.count("\n"), 1, errors)
        self.assertTrue(errors.startswith("error: "), errors)
        for word in words:
            self.assertIn(word, errors)


class Oracle(torch.nn.Module):
    """A stand-in for the model that knows the answers; `constant` makes it answer one class whatever it is shown."""

    def __init__(self, constant=None):
        super().__init__()
        self.constant = constant
        self.config = mock.Mock(encoding_type="sinusoidal", max_len=300)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, mask=None):
        is_sorted = (x[:, :-1] <= x[:, 1:]).all(dim=1).long()
        if self.constant is not None:
            is_sorted = torch.full_like(is_sorted, self.constant)
        return torch.nn.functional.one_hot(is_sorted, 2) * 6.0
