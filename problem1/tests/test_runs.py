"""Many runs: a study goes on where it was, and its processes end as they should."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import unittest
from argparse import Namespace
from pathlib import Path
from unittest import mock

from support import cli, files, studies

from tests.helpers import HOME, TemporaryFolder, studies_in_this_process


def square(number, name, folder):
    """A run of a study."""
    print("a run's own output")
    return {"number": number, "name": name, "square": number**2, "seconds": 0.0}


def dies_once(number, name, folder):
    """A run whose process is killed the first time, as for want of memory."""
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number, name, folder)


def says_who_it_is(number, name, folder):
    """A run that leaves its process id and does not end."""
    files.write_json(folder.parent / "process.json", os.getpid())
    time.sleep(600)


class Studies(TemporaryFolder):
    KEYS = ("number", "name")

    def setUp(self):
        super().setUp()
        self.path = self.folder / "results" / "study.jsonl"
        self.enterContext(mock.patch.object(studies, "HERE", self.folder))

    def study(self, *todo, function=square, workers=1, minutes=None):
        args = Namespace(workers=workers, minutes=minutes)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            records = studies.do_runs(function, todo, self.path, self.KEYS, args)
        return records, output.getvalue()

    def test_a_study_goes_on_where_it_was(self):
        def stops(number, name, folder):
            if number == 4:
                raise KeyboardInterrupt
            return square(number, name, folder)

        with studies_in_this_process():
            self.assertIn("2 runs to do", self.study((2, "b"), (1, "a"), (2, "b"))[1])
            with self.assertRaises(KeyboardInterrupt):
                self.study((1, "a"), (3, "c"), (4, "d"), function=stops)
            records, output = self.study((1, "a"), (3, "c"), (4, "d"))
        self.assertIn("1 runs to do", output)
        self.assertEqual([record["square"] for record in records], [1, 4, 9, 16])
        self.assertEqual(records, studies.read_records(self.path, self.KEYS))

    @unittest.skipUnless(os.name == "posix", "signals of POSIX")
    def test_a_run_whose_process_was_killed_is_tried_once_more(self):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            records, output = self.study((1, "a"), function=dies_once)
        self.assertEqual(
            errors.getvalue(),
            "error: number 1, name a ended without a result; it is tried again\n",
        )
        self.assertEqual([record["square"] for record in records], [1])
        self.assertIn("number 1, name a: 0 s; 1 of 1 done", output)
        self.assertNotIn("own output", output)
        self.assertFalse((self.folder / "runs" / "results_study" / "1_a").exists())

    @unittest.skipUnless(os.name == "posix", "signals of POSIX")
    def test_a_run_ends_with_the_process_that_started_it(self):
        code = """
            import signal
            import sys
            from argparse import Namespace
            from pathlib import Path
            from support import cli, studies
            from tests.test_runs import says_who_it_is

            def main():
                signal.signal(signal.SIGINT, signal.default_int_handler)
                studies.HERE = Path(sys.argv[1])
                path, args = studies.HERE / "study.jsonl", Namespace(workers=1, minutes=None)
                studies.do_runs(says_who_it_is, [(1, "a")], path, ("number", "name"), args)

            if __name__ == "__main__":
                cli.run(main)
        """
        (self.folder / "study.py").write_text(textwrap.dedent(code))
        interrupted = "error: interrupted; what was there before is unchanged\n"
        ends = {}
        for name, end, number, words in [
            ("killed", os.kill, signal.SIGKILL, ""),
            ("terminated", os.kill, signal.SIGTERM, ""),
            ("interrupted", os.kill, signal.SIGINT, interrupted),
            ("interrupted in a terminal", os.killpg, signal.SIGINT, interrupted),
        ]:
            process = subprocess.Popen(
                [sys.executable, self.folder / "study.py", self.folder / name],
                env=os.environ | {"PYTHONPATH": str(HOME)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self.addCleanup(process.kill)
            ends[name] = process, end, number, words
        for name, (process, end, number, words) in ends.items():
            with self.subTest(name):
                note = self.folder / name / "runs" / f"{name}_study" / "process.json"
                self.wait_for(note.exists)
                end(process.pid, number)
                self.assertEqual(process.communicate(timeout=60)[1], words)
                self.assertEqual(process.returncode, 130 if words else -number)
                self.wait_for(lambda note=note: not is_running(json.loads(note.read_text())))

    def wait_for(self, condition):
        end = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def test_after_the_minutes_no_run_is_started(self):
        with studies_in_this_process(), mock.patch.object(studies.time, "monotonic") as clock:
            clock.side_effect = [0, 0, 59, 60]
            records, output = self.study(*((n, "a") for n in range(4)), minutes=1)
        self.assertEqual(len(records), 2)
        self.assertIn("2 runs were not started: run the same command again", output)

    def test_two_studies_do_not_share_a_folder(self):
        with files.locked(self.folder / "runs" / "results_study"):
            with self.assertRaisesRegex(cli.UserError, "another run"):
                self.study((1, "a"))

    def test_what_is_no_record_is_named(self):
        self.path.parent.mkdir()
        for line in ("{", "[1]", '{"number": 1}', "\x00"):
            self.path.write_text('{"number": 1, "name": "a"}\n' + line + "\n")
            with self.assertRaisesRegex(cli.UserError, "line 2, is no record of a run"):
                studies.read_records(self.path, self.KEYS)
        self.assertEqual(studies.read_records(self.folder / "none.jsonl"), [])


def is_running(process):
    """Whether a process runs; one that has ended may still wait to be collected."""
    try:
        os.kill(process, 0)
        return "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it has just ended, or there is no such folder here
        return not Path("/proc").exists()
