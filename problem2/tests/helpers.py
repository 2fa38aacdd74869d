"""What several tests need: a command run in this process, small data, a model that knows the answers."""

import contextlib
import io
import json
import platform
import sys
import tempfile
import threading
import unittest
from http.client import HTTPConnection
from pathlib import Path
from unittest import mock

import torch

from generate_data import generate
from support import cli
from support.files import write_json
from support.server import ADDRESS, Server

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


@contextlib.contextmanager
def serving(groups, page=b"page"):
    """Within the block of code the questions of `groups` are served; yields the server, whose `request(method, path,
    body, headers)` is answered with `(status, headers, JSON or bytes)`."""
    with Server(page, groups) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()

        def request(method, path, body=None, headers=None):
            connection = HTTPConnection(ADDRESS, server.server_port, timeout=20)
            try:
                connection.request(method, path, body, headers or {})
                reply = connection.getresponse()
                content = reply.read()
                is_json = reply.headers["Content-Type"] == "application/json"
                return reply.status, reply.headers, json.loads(content) if is_json else content
            finally:
                connection.close()
        server.request = request
        try:
            yield server
        finally:
            server.shutdown()


def fuzzed_body(generator, names, values):
    """The body of a question: JSON of some of the arguments `names` with `values` of any kind, or no such thing."""
    if generator.random() < 0.1:
        return generator.choice([b"", b"[" * 50_000, b"{", b"null", b'{"a": NaN}', b"\xff", b'{"a": 1e999}',
                                 b"9" * 5000, generator.randbytes(generator.randrange(300))])
    kept = [name for name in names if generator.random() < 0.97]
    return json.dumps({name: generator.choice(values) for name in kept}).encode()


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
