"""What tests of both folders need: a command run in this process, a served page. Same in both."""

import contextlib
import io
import json
import platform
import shutil
import sys
import tempfile
import threading
import unittest
from argparse import Namespace
from http.client import HTTPConnection
from pathlib import Path
from unittest import mock

from support import cli, files, studies
from support.server import ADDRESS, Server

import torch

HOME = Path(__file__).resolve().parent.parent
RESULTS = HOME / "results"
CODE = {"data", "results", "runs", "tests", "__pycache__"}  # a copy of the code is without these


def text_stream(content=b"", encoding="utf-8"):
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding, newline="")


def command(main, *arguments, stdin=b"", encoding="utf-8"):
    """Run a command's main as its script would, but without progress.

    Returns:
        `(exit status, standard output, standard error)`.
    """
    output, errors = text_stream(encoding=encoding), io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "stdin", text_stream(stdin)),
        mock.patch.object(cli.Progress, "update"),
    ):
        try:
            cli.run(lambda: main([str(argument) for argument in arguments]))
        except SystemExit as exit_:
            output.flush()
            return exit_.code or 0, output.buffer.getvalue().decode(encoding), errors.getvalue()


def copy_of_the_code(folder):
    """Copy this folder's code to `folder`, without data, results and tests; returns `folder`."""
    return shutil.copytree(HOME, folder, ignore=shutil.ignore_patterns(*CODE))


def without_pictures():
    """A patch with which every figure is a few bytes: to draw a picture takes longest."""
    return mock.patch.object(files, "figure_bytes", return_value=b"picture")


def record_robustness(part, record):
    """Put what a tool found (`part` is "fuzz" or "kills") into results/beyond/robustness.json."""
    path = RESULTS / "beyond" / "robustness.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    files.write_json(path, records | {part: record | {"environment": versions}})


class InThisProcess:
    """A stand-in for the process of one run of a study."""

    def __init__(self, target, args, daemon):
        self.args, self.sentinel = args, object()

    def start(self):
        function, values, folder = self.args
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / "record.json", function(*values, folder))

    def join(self):
        pass


@contextlib.contextmanager
def studies_in_this_process():
    """Within the block the runs of a study are done in this process, one after the other."""
    context = Namespace(Process=InThisProcess)
    with (
        mock.patch.object(studies.multiprocessing, "get_context", lambda _: context),
        mock.patch.object(studies, "wait", lambda sentinels: sentinels[:1]),
    ):
        yield


@contextlib.contextmanager
def serving(groups, page=b"page"):
    """Serve the questions of `groups` while the block runs.

    Yields:
        The server; its `request(method, path, body, headers)` is answered with
        `(status, headers, JSON or bytes)`.
    """
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
    """The body of a question: JSON of some arguments with any values, or no JSON at all."""
    if generator.random() < 0.1:
        broken = [b"", b"[" * 50_000, b"{", b"null", b'{"a": NaN}', b"\xff", b'{"a": 1e999}']
        return generator.choice([*broken, b"9" * 5000, generator.randbytes(100)])
    kept = [name for name in names if generator.random() < 0.97]
    return json.dumps({name: generator.choice(values) for name in kept}).encode()


class TemporaryFolder(unittest.TestCase):
    """A test with an empty folder of its own, `self.folder`."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def contents(self, folder=None):
        """The files below a folder, `{name: bytes}`, without locks."""
        folder = folder or self.folder
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"
        }

    def assert_one_line(self, result, *words, status=2):
        """The command failed with this status and one line on standard error with these words."""
        code, output, errors = result
        self.assertEqual(code, status, errors)
        self.assertEqual(errors.count("\n"), 1, errors)
        self.assertTrue(errors.startswith("error: "), errors)
        for word in words:
            self.assertIn(word, errors)
