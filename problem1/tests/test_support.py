"""What every command needs: command lines, lines of input, plots."""

import contextlib
import errno
import io
import os
import subprocess
import sys
import unittest
from unittest import mock

from support import cli, plots
from support.lines import answer_lines, read_lines

import torch

from tests.helpers import HOME, TemporaryFolder, command


class CommandLine(TemporaryFolder):
    def result(self, error):
        def main(arguments):
            print("before")
            if error:
                raise error

        return command(main)

    def test_each_end_has_its_status_and_at_most_one_line(self):
        for error, status, words in [
            (None, 0, ""),
            (cli.UserError("wrong\nhere \x1b[2J"), 2, "error: wrong here ?[2J\n"),
            (cli.UserError("x" * 5000), 2, f"error: {'x' * 400} ... {'x' * 400}\n"),
            (KeyboardInterrupt(), 130, "error: interrupted; what was there before is unchanged\n"),
            (OSError(errno.ENOSPC, "No space", "a.json"), 2, "error: a.json: No space\n"),
            (BrokenPipeError(), 141, ""),
        ]:
            with self.subTest(error=repr(error)[:40]):
                self.assertEqual(self.result(error), (status, "before\n", words))
        for error in (MemoryError(), RuntimeError("CUDA out of memory")):
            self.assert_one_line(self.result(error), "not enough memory", "--batch-size")
        for words in ("a fault of ours", "CUDA error: an illegal memory access was encountered"):
            with self.assertRaisesRegex(RuntimeError, words):
                self.result(RuntimeError(words))

    def test_text_that_the_output_cannot_encode_is_written_with_backslashes(self):
        status, output, errors = command(lambda _: print("a → b"), encoding="cp1252")
        self.assertEqual((status, output.strip(), errors), (0, r"a \u2192 b", ""))

    def test_a_mistake_in_an_option_is_one_line(self):
        def main(arguments):
            parser = cli.Parser()
            parser.add_argument("--count", type=cli.whole_number(1, 10), default=3, help="how many")
            parser.add_argument("--rate", type=cli.positive_number, default=None, help="how fast")
            parser.add_argument("--seed", type=cli.whole_number(0), default=0, help="which draw")
            print(parser.parse_args(arguments).count)

        self.assertEqual(command(main, "--count", 7)[:2], (0, "7\n"))
        for arguments, words in [
            (("--count", 11), "11 is not from 1 to 10"),
            (("--count", "x"), "invalid whole number value: 'x'"),
            (("--rate", "nan"), "nan is not above zero"),
            (("--nonsense",), "unrecognized arguments: --nonsense (--help lists the options)"),
        ]:
            self.assert_one_line(command(main, *arguments), words)
        help_text = command(main, "--help")[1]
        self.assertIn("how many (default: 3)", help_text)
        self.assertIn("which draw (default: 0)", help_text)
        self.assertNotIn("None", help_text)

    def test_devices(self):
        self.assertEqual(cli.choose_device("cpu"), torch.device("cpu"))
        self.assertIn(cli.choose_device().type, ("cpu", "cuda", "mps"))
        for name in ("abacus", "meta", "", "cuda:99", "cpu:x"):
            with self.assertRaisesRegex(cli.UserError, f"--device {name}"):
                cli.choose_device(name)

    def test_progress_is_a_line_now_and_then_or_one_line_that_changes(self):
        for terminal, clock, expected in [
            (False, [0, 4, 11, 22], "cases: 2 of 4, 11 s left\ncases: 3 of 4, 7 s left\n"),
            (False, [0, 99, 100, 200], "cases: 1 of 4, 297 s left\ncases: 3 of 4, 100 s left\n"),
            (True, [0, 0.1, 0.3, 0.4], "\r\033[Kcases: 2 of 4, 0 s left\r\033[K"),
        ]:
            with (
                contextlib.redirect_stderr(io.StringIO()) as errors,
                mock.patch.object(errors, "isatty", lambda: terminal),
                mock.patch.object(cli.time, "monotonic", side_effect=[*clock, clock[-1]]),
            ):
                progress = cli.Progress("cases", 4)
                for done in (1, 2, 3, 4):
                    progress.update(done)
            self.assertEqual(errors.getvalue(), expected)


class Lines(unittest.TestCase):
    class Slow(io.BytesIO):
        """A stream on which a few bytes at a time arrive."""

        def read1(self, size=-1):
            return super().read1(3)

    def lines(self, content, longest=5):
        parts = [list(read_lines(stream(content), longest)) for stream in (io.BytesIO, self.Slow)]
        flat = [[line for lines in part for line in lines] for part in parts]
        self.assertEqual(*flat)
        return flat[0]

    def test_lines_and_their_ends(self):
        self.assertEqual(self.lines(b""), [])
        self.assertEqual(self.lines(b"one\n\ntwo\r\nthree"), ["one", "", "two", "three"])
        self.assertEqual(self.lines(b"\xef\xbb\xbf12345\n\xff\n"), ["12345", "\ufffd"])

    def test_long_lines_are_passed_over_wherever_they_are_cut(self):
        for length in (5, 6, 7, 27, 28, 29, 30, 1000, 200_000):
            for end in (b"", b"\n", b"\nabc", b"\r\nabc\n"):
                expected = ["1" * 5 if length == 5 else None] + (["abc"] if b"abc" in end else [])
                self.assertEqual(self.lines(b"1" * length + end), expected, (length, end))
        self.assertEqual(self.lines("٣".encode() * 5 + b"\n"), ["٣" * 5])

    def test_what_has_arrived_is_answered_before_more_is_read(self):
        output, read = io.StringIO(), []

        class Pipe(io.BytesIO):
            def read1(self, size=-1):
                read.append(output.getvalue().count("\n"))
                return super().read1(8)

        self.assertTrue(answer_lines(Pipe(b"abc\n" * 6), output, 5, 4, lambda lines: lines))
        self.assertEqual(read, [0, 2, 4, 6])
        self.assertEqual(output.getvalue(), "abc\n" * 6)

    def test_errors_stand_in_their_place(self):
        def answer(lines):
            return [ValueError("no b") if line == "b" else line for line in lines]

        output = io.StringIO()
        self.assertFalse(answer_lines(io.BytesIO(b"a\nlonger\nb\n"), output, 5, 2, answer))
        self.assertEqual(
            output.getvalue(), "a\nerror: a line of more than 5 characters\nerror: no b\n"
        )


class Plots(TemporaryFolder):
    def test_wilson_s_interval(self):
        low, high = plots.wilson_interval(81, 263)  # Newcombe 1998, table I
        self.assertAlmostEqual(low, 0.2553, places=4)
        self.assertAlmostEqual(high, 0.3662, places=4)
        self.assertLess(plots.wilson_interval(10, 10)[0], 0.75)

    def test_an_interval_holds_its_share_for_every_count(self):
        for n in range(1, 3001):
            for k in {0, 1, n // 3, n // 2, n - 1, n} if n > 60 else range(n + 1):
                low, high = plots.wilson_interval(k, n)
                self.assertTrue(0 <= low <= k / n <= high <= 1, (k, n, low, high))

    def test_figures_are_drawn_whatever_the_environment_says(self):
        (self.folder / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\n")
        code = (
            "import sys; from pathlib import Path; from support import files, plots; "
            "figure = plots.new_figure(2, 1); figure.subplots().set_title('title'); "
            "files.save_figure(Path(sys.argv[1]), figure)"
        )
        notebook = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        for name, folder, variables in [
            ("plain.png", HOME, {}),
            ("notebook.png", self.folder, notebook | {"MATPLOTLIBRC": str(self.folder)}),
        ]:
            done = subprocess.run(
                [sys.executable, "-c", code, self.folder / name],
                env=os.environ | {"PYTHONPATH": str(HOME)} | variables,
                cwd=folder,
                capture_output=True,
                text=True,
            )
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        plain, notebook = (
            (self.folder / f"{name}.png").read_bytes() for name in ("plain", "notebook")
        )
        self.assertEqual(plain, notebook)
