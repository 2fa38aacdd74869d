"""Inference: a line for each problem, and what is wrong said in one line."""

import json
import subprocess
import sys
import threading
import unittest
from unittest import mock

from support.files import file_digest

import inference
from dataset import ORDERS, AdditionDataset, decode_problems
from tests.helpers import HOME, RESULTS, command
from tests.small import Oracle, SmallData, info


class Answer(SmallData):
    """The command, with a model that knows the answers in the place of the weights."""

    def run_inference(self, *arguments, stdin=b"", model=None):
        with mock.patch.object(inference, "load_model", return_value=model or Oracle()):
            return command(inference.main, *arguments, stdin=stdin)

    def stdin(self, content):
        return self.run_inference("--stdin", stdin=content)

    def test_a_line_for_each_argument_in_either_order_of_writing(self):
        for order in ORDERS:
            result = self.run_inference(
                "507+159", "999 + 999 =", "--device", "cpu", "100+100", model=Oracle(order=order)
            )
            lines = "507 + 159 = 666\n999 + 999 = 1998\n100 + 100 = 200\n"
            self.assertEqual(result, (0, lines, ""))
        wrong = Oracle(wrong=lambda target: target.clamp(max=5))
        output = self.run_inference("507+159", model=wrong)[1]
        self.assertEqual(output, "507 + 159 = 555   (wrong: it is 666)\n")

    def test_words_of_one_problem_may_be_arguments_of_their_own(self):
        for text in ("507 + 159", "507 +159", "507+ 159 ="):
            self.assertEqual(self.run_inference(*text.split())[1], "507 + 159 = 666\n")
        output = self.run_inference("507", "+", "159", "999+999", "100 + 100 =")[1]
        self.assertEqual(output.count("\n"), 3)

    def test_bad_arguments_are_one_line(self):
        for arguments, words in [
            (("507+159", "12+3"), "12 is not from 100 to 999"),
            (("507", "159"), "is no problem such as"),
            (("507", "+"), "is no problem such as"),
            (("",), "the line is empty: write a problem such as 507+159"),
            (("--stdin", "507+159"), "not two of them"),
            (("--stdin", "--exhaustive"), "not two of them"),
            (("--exhaustive", "1+1"), "not two of them"),
            (("--data-dir", self.small_data(2)), "--data-dir"),
        ]:
            result = self.run_inference(*arguments)
            self.assert_one_line(result, words)
            self.assertEqual(result[1], "")

    def test_stdin_gives_one_line_each_in_order(self):
        self.assertEqual(
            self.stdin(b"507+159\n999+999\n100 + 100 =\r\n")[:2], (0, "666\n1998\n200\n")
        )
        self.assertEqual(self.stdin(b""), (0, "", ""))
        self.assertEqual(self.stdin(b"\xef\xbb\xbf507+159"), (0, "666\n", ""))
        long = b" " * 10**6 + b"x\n" + b"9" * 10**6
        bad = [b"", b"seven", b"12+3", b"\xff\xfe\x00\x0c", *long.split(b"\n"), b"1" * 5000]
        status, output, errors = self.stdin(b"507+159\n" + b"\n".join(bad) + b"\n999+999\n")
        first, *lines, last, end = output.split("\n")
        self.assertEqual((status, errors, first, last, end), (1, "", "666", "1998", ""))
        self.assertEqual(len(lines), len(bad))
        for line in lines:
            self.assertRegex(line, "^error: .")
            self.assertLess(len(line), 200)

    def test_without_arguments_shows_problems_and_the_test_accuracy(self):
        data = self.small_data(3)
        status, output, _ = self.run_inference("--data-dir", data)
        self.assertEqual(status, 0)
        self.assertIn("507 + 159 = 666\n", output)
        self.assertRegex(
            output, "20 test problems, free-running: 100.00% .95% interval 83.89% to 100"
        )
        self.assertIn("trained on other data", output)
        model = Oracle()
        model.training_info = info(3, train_sha256=file_digest(data / "train.json"))
        self.assertNotIn("other data", self.run_inference("--data-dir", data, model=model)[1])

    def test_all_pairs_are_answered_and_the_record_is_beside_the_model(self):
        data, model = self.small_data(1), Oracle(1)
        options = "--exhaustive", "--data-dir", data, "--model-path", self.folder / "m.pth"
        self.assert_one_line(self.run_inference(*options, model=model), "training problems")
        model.training_info = info(1, train_sha256=file_digest(data / "train.json"))
        status, output, _ = self.run_inference(*options, model=model)
        record = json.loads((self.folder / "exhaustive.json").read_text())
        found = record["pairs"], record["errors"], record["unseen"]["pairs"], record["num_digits"]
        pairs = decode_problems(AdditionDataset(data / "train.json").inputs)
        shown = {
            pair for a, b in zip(*pairs) for pair in ((a.item(), b.item()), (b.item(), a.item()))
        }
        self.assertEqual((status, found), (0, (81, 0, 81 - len(shown), 1)))
        self.assertIn("0 errors in all 81 pairs", output)

    def test_other_than_3_digit_problems_are_not_put_where_those_belong(self):
        with mock.patch("generate_data.DATA_DIR", self.folder / "data"):
            options = "--data-dir", self.folder / "data"
            self.assert_one_line(
                self.run_inference(*options, model=Oracle(2)), "2-digit", "--data-dir"
            )
        self.assertFalse((self.folder / "data" / "train.json").exists())


class Script(SmallData):
    def test_into_a_closed_pipe_and_with_closed_streams(self):
        script = f'"{sys.executable}" "{HOME / "inference.py"}"'
        problems = "".join(f"{a}+100\n" for a in range(100, 1000)) * 20
        for command_line, output in [
            (f"{script} --stdin | head -n 1", "200\n"),
            (f"{script} 507+159 >&- 2>&-", ""),
            (f"{script} --stdin <&-", ""),
        ]:
            done = subprocess.run(
                ["bash", "-c", command_line], input=problems, capture_output=True, text=True
            )
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, output, ""))

    def test_a_line_from_a_pipe_is_answered_while_the_pipe_stays_open(self):
        with subprocess.Popen(
            [sys.executable, HOME / "inference.py", "--stdin"],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process:
            watch = threading.Timer(60, process.kill)  # so that a failure does not wait for ever
            watch.start()
            for problem, answer in [
                ("seven", "error: 'seven' is no problem such as 507.159"),
                ("99+100", "error: 99 is not from 100 to 999, .*"),
                ("507+159", "[0-9]+"),
            ]:
                process.stdin.write(problem + "\n")
                self.assertRegex(process.stdout.readline(), f"^{answer}\n$")
            watch.cancel()


@unittest.skipUnless((RESULTS / "best_model.pth").exists(), "no model is trained")
class Trained(SmallData):
    def test_the_model_in_results_answers(self):
        self.assertEqual(command(inference.main, "507+159"), (0, "507 + 159 = 666\n", ""))
