"""Inference: one line for each problem, errors named, damaged checkpoints refused and never run."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import unittest
from unittest import mock

import torch

import inference
from dataset import VOCAB_SIZE
from inference import LONGEST_LINE, parse_problem
from learning.checkpoint import load_model
from model import Seq2SeqTransformer
from support.digests import file_digest
from tests.helpers import RESULTS, Oracle, TemporaryFolder, command, save_with


ABOUT = {"num_digits": 3, "train_sha256": ""}


class Parse(TemporaryFolder):
    def test_problems(self):
        for text in ["507+159", " 507 + 159 ", "507+159=", "507 + 159 =\n", "507+159\r\n", "\t507\t+159"]:
            self.assertEqual(parse_problem(text, 3), (507, 159))
        self.assertEqual(parse_problem("7+9", 1), (7, 9))

    def test_what_is_no_problem(self):
        for text in ["", " ", "507", "507+", "+159", "507-159", "507+159+1", "5 07+159", "507 159", "٥٠٧+159",
                     "507+159 = 666", "-507+159",
                     "99+100", "1000+100", "050+123", "1e2+100", "\x00", "9" * 10_000 + "+100", "507+159;",
                     "507 + 159 = ="]:
            with self.subTest(text=text[:20]), self.assertRaises(ValueError) as raised:
                parse_problem(text, 3)
            self.assertNotIn("\n", str(raised.exception))
            self.assertLess(len(str(raised.exception)), 200)


class Answer(TemporaryFolder):
    """The commands, with a model that knows the answers in the place of the weights."""

    def run_inference(self, *arguments, stdin=b"", wrong=lambda target: target):
        with mock.patch.object(inference, "load_model", return_value=(Oracle(wrong=wrong), ABOUT)):
            return command(inference.main, *arguments, stdin=stdin)

    def test_a_line_for_each_argument(self):
        self.assertEqual(self.run_inference("507+159", "999 + 999 =", "100+100"),
                         (0, "507 + 159 = 666\n999 + 999 = 1998\n100 + 100 = 200\n", ""))

    def test_a_wrong_answer_is_shown_as_wrong(self):
        _, output, _ = self.run_inference("507+159", wrong=lambda target: target.clamp(max=5))
        self.assertEqual(output, "507 + 159 = 555   (wrong: it is 666)\n")

    def test_a_bad_argument_exits_with_2_and_answers_nothing(self):
        result = self.run_inference("507+159", "12+3")
        self.assert_one_line(result, "12 is not from 100 to 999")
        self.assertEqual(result[1], "")

    def test_stdin_gives_one_line_each_in_order(self):
        status, output, errors = self.run_inference("--stdin", stdin=b"507+159\n999+999\n100 + 100 =\r\n")
        self.assertEqual((status, output, errors), (0, "666\n1998\n200\n", ""))
        self.assertEqual(self.run_inference("--stdin", stdin=b""), (0, "", ""))
        self.assertEqual(self.run_inference("--stdin", stdin=b"507+159"), (0, "666\n", ""))

    def test_bad_lines_are_answered_in_their_place_and_the_status_is_1(self):
        status, output, errors = self.run_inference("--stdin",
                                                    stdin=b"507+159\n\nseven\n12+3\n\xff\xfe\x00\x0c\n999+999\n")
        lines = output.split("\n")
        self.assertEqual((status, errors, len(lines)), (1, "", 7))
        self.assertEqual((lines[0], lines[5]), ("666", "1998"))
        for line in lines[1:5]:
            self.assertRegex(line, "^error: .")

    def test_lines_are_read_a_batch_at_a_time(self):
        lines = [f"{a}+{b}" for a in range(100, 130) for b in range(100, 130)]
        with mock.patch.object(inference, "LINES_AT_ONCE", 7), \
                mock.patch.object(inference, "predict", wraps=inference.predict) as predict:
            status, output, _ = self.run_inference("--stdin", stdin="\n".join(lines).encode())
        self.assertEqual(output.split(), [str(sum(map(int, line.split("+")))) for line in lines])
        self.assertEqual(max(len(call.args[1]) for call in predict.call_args_list), 7)

    def test_without_arguments_shows_problems_and_the_test_accuracy(self):
        status, output, _ = self.run_inference("--data-dir", self.small_data(3))
        self.assertEqual(status, 0)
        self.assertIn("507 + 159 = 666\n", output)
        self.assertIn("20 test problems, free-running: 100.00%", output)

    def test_data_of_another_size_is_named(self):
        self.assert_one_line(self.run_inference("--data-dir", self.small_data(2)), "2-digit", "3-digit", "--data-dir")

    def test_options_that_exclude_each_other(self):
        for options in [("--stdin", "507+159"), ("--stdin", "--exhaustive"), ("--exhaustive", "1+1")]:
            self.assert_one_line(self.run_inference(*options), "not two of them")

    def test_options_may_stand_between_problems(self):
        self.assertEqual(self.run_inference("507+159", "--device", "cpu", "100+100")[1],
                         "507 + 159 = 666\n100 + 100 = 200\n")

    def test_lines_of_any_length_take_bounded_time_and_give_one_line(self):
        stdin = b"507+159" + b" " * 10 ** 6 + b"x\n" + b"9" * 10 ** 6 + b"\n507+159\n" + b"1" * 5000
        status, output, _ = self.run_inference("--stdin", stdin=stdin)
        lines = output.split("\n")
        self.assertEqual((status, len(lines), lines[2]), (1, 5, "666"))
        self.assertTrue(all(lines[i].startswith("error: ") for i in (0, 1, 3)))

    def test_a_byte_order_mark_is_not_part_of_the_first_problem(self):
        self.assertEqual(self.run_inference("--stdin", stdin=b"\xef\xbb\xbf507+159\n")[1], "666\n")

    def test_the_longest_line_that_is_allowed(self):
        for spaces, answer in [(LONGEST_LINE - 7, "666"),
                               (LONGEST_LINE - 6, f"error: a line of more than {LONGEST_LINE:,} characters")]:
            for end in (b"", b"\n", b"\r\n"):
                self.assertEqual(self.run_inference("--stdin", stdin=b"507+159" + b" " * spaces + end)[1],
                                 answer + "\n")

    def test_words_of_one_problem_may_be_arguments_of_their_own(self):
        for arguments in [("507", "+", "159"), ("507", "+159"), ("507+", "159", "=")]:
            self.assertEqual(self.run_inference(*arguments)[1], "507 + 159 = 666\n")
        self.assertEqual(self.run_inference("507", "+", "159", "999+999", "100 + 100 =")[1].count("\n"), 3)
        for arguments in [("507", "159"), ("507", "+"), ("5", "07+159"), ("+", "507")]:
            self.assert_one_line(self.run_inference(*arguments), "is no problem such as")


class Exhaustive(TemporaryFolder):
    def test_writes_the_record_beside_the_model(self):
        data = self.small_data(1)
        with mock.patch.object(inference, "load_model",
                               return_value=(Oracle(1),
                                             {"num_digits": 1, "train_sha256": file_digest(data / "train.json")})):
            status, output, _ = command(inference.main, "--exhaustive", "--data-dir", data, "--model-path",
                                        self.folder / "m.pth")
        record = json.loads((self.folder / "exhaustive.json").read_text())
        self.assertEqual((status, record["pairs"], record["errors"], record["unseen"]["pairs"]), (0, 81, 0, 41))
        self.assertEqual((record["num_digits"], record["model"]["d_model"]), (1, 4))
        self.assertIn("0 errors in all 81 pairs", output)

    def test_needs_the_training_problems_of_the_model(self):
        with mock.patch.object(inference, "load_model", return_value=(Oracle(1), ABOUT | {"num_digits": 1})):
            self.assert_one_line(command(inference.main, "--exhaustive", "--data-dir", self.small_data(1)),
                                 "training problems")

    def test_other_than_3_digit_problems_are_not_put_where_those_belong(self):
        with mock.patch.object(inference, "load_model", return_value=(Oracle(2), ABOUT | {"num_digits": 2})), \
                mock.patch("generate_data.DATA_DIR", self.folder / "data"):
            self.assert_one_line(command(inference.main, "--data-dir", self.folder / "data"), "2-digit", "--data-dir")
        self.assertFalse((self.folder / "data").exists())


class Checkpoints(TemporaryFolder):
    def test_round_trip(self):
        model = Seq2SeqTransformer(VOCAB_SIZE, 16, 2, 1, 1, 24)
        save_with(self.folder / "m.pth", model, **ABOUT)
        loaded, about = load_model(self.folder / "m.pth")
        self.assertEqual((loaded.config, about, loaded.training), (model.config, ABOUT, False))
        source = torch.randint(10, (5, 5))
        self.assertTrue(torch.equal(loaded.encode(source), model.eval().encode(source)))

    def test_damaged_and_foreign_files_are_one_line(self):
        good = torch.load(RESULTS / "best_model.pth", weights_only=True)
        path, data = self.folder / "m.pth", (RESULTS / "best_model.pth").read_bytes()

        def refused(*words):
            self.assert_one_line(command(inference.main, "507+159", "--model-path", path), "m.pth", "python train.py",
                                 *words)
        refused("no checkpoint file")
        for content in (b"", b"text", data[:100], data[:len(data) // 2], data[:-20], b"PK\x03\x04" + bytes(100),
                        pickle.dumps([1, 2])):
            path.write_bytes(content)
            refused()
        extra = good["_extra_state"]
        weights = {name: value for name, value in good.items() if name != "_extra_state"}

        def with_extra(value):
            return weights | {"_extra_state": value}
        changed_configs = [{"d_model": 64}, {"num_heads": 3}, {"d_model": 10 ** 9}, {"num_encoder_layers": 10 ** 5},
                           {"d_ff": -1},
                           {"extra": 1}, {"dropout": "x"}, {"dropout": torch.zeros(2)}, {"max_len": 5},
                           {"dropout": float("nan")},
                           {"vocab_size": 5}]
        changed_abouts = [{}, {"num_digits": "3"}, {"num_digits": 3}, extra["about"] | {"num_digits": 11},
                          torch.zeros(2, 2)]
        for value in [None, 3, [], {}, torch.zeros(3), weights, with_extra(None), with_extra({}),
                      with_extra(torch.zeros(2)),
                      with_extra(extra | {"config": {}}), {"_extra_state": extra},
                      *(with_extra(extra | {"config": extra["config"] | change}) for change in changed_configs),
                      *(with_extra(extra | {"about": about}) for about in changed_abouts),
                      {name: value * float("nan") for name, value in weights.items()} | {"_extra_state": extra},
                      good | {"embedding.weight": weights["embedding.weight"][:5]}, good | {"embedding.weight": 7},
                      good | {"more.weight": torch.zeros(1)}]:
            torch.save(value, path)
            refused()

    def test_code_in_a_checkpoint_is_not_run(self):
        folder = self.folder

        class Code:
            def __reduce__(self):
                return os.mkdir, (str(folder / "ran"),)
        path = self.folder / "m.pth"
        for write in (lambda: torch.save({"config": Code()}, path), lambda: path.write_bytes(pickle.dumps(Code()))):
            write()
            self.assert_one_line(command(inference.main, "507+159", "--model-path", path), "more than plain tensors")
            self.assertFalse((self.folder / "ran").exists())


def hear_interrupts():
    """For a child process: what a shell starts in the background is deaf to Ctrl-C, and its children are too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Script(TemporaryFolder):
    def test_from_another_folder_and_into_a_closed_pipe(self):
        script = RESULTS.parent / "inference.py"
        done = subprocess.run([sys.executable, script, "507+159"], cwd=self.folder, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "507 + 159 = 666\n", ""))
        problems = "\n".join(f"{a}+100" for a in range(100, 1000)) + "\n"
        done = subprocess.run(["bash", "-c", f'"{sys.executable}" "{script}" --stdin | head -n 1'], input=problems * 20,
                              capture_output=True, text=True)
        self.assertEqual((done.stdout, done.stderr), ("200\n", ""))

    def test_a_line_from_a_pipe_is_answered_while_the_pipe_stays_open(self):
        with subprocess.Popen([sys.executable, RESULTS.parent / "inference.py", "--stdin"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE,
                              text=True, bufsize=1) as process:
            watch = threading.Timer(60, process.kill)  # so that a failure does not wait for ever
            watch.start()
            for problem, answer in [("507+159", "666"), ("seven", "error: 'seven' is no problem such as 507+159"),
                                    ("999+999", "1998")]:
                process.stdin.write(problem + "\n")
                self.assertEqual(process.stdout.readline(), answer + "\n")
            watch.cancel()

    @unittest.skipUnless(os.name == "posix", "signals of POSIX")
    def test_an_interrupt_while_torch_loads_is_one_line(self):
        """Also if what is loading catches the exception and goes on."""
        (self.folder / "torch.py").write_text("import time\nprint('loading', flush=True)\n"
                                              "try:\n    time.sleep(60)\nexcept BaseException:\n    time.sleep(60)\n")
        for script in ("generate_data.py", "train.py", "analyze.py", "inference.py", "seeds.py", "sizes.py",
                       "lengths.py",
                       "benchmark.py", ""):
            with self.subTest(script), \
                    subprocess.Popen([sys.executable, RESULTS.parent / script], stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts,
                                     env=os.environ | {"PYTHONPATH": str(self.folder)}) as process:
                self.assertEqual(process.stdout.readline(), "loading\n")
                process.send_signal(signal.SIGINT)
                self.assertEqual((process.stderr.read(), process.wait()), ("error: interrupted\n", 130))

    def test_a_program_that_imports_a_command_keeps_its_own_way_with_interrupts(self):
        code = "import signal, train; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        done = subprocess.run([sys.executable, "-c", code], cwd=RESULTS.parent, capture_output=True, text=True,
                              preexec_fn=hear_interrupts)
        self.assertEqual((done.stdout, done.stderr), ("True\n", ""))

    def test_closed_streams(self):
        for closed, arguments in [(">&- 2>&-", "507+159"), ("<&-", "--stdin")]:
            with self.subTest(closed=closed):
                done = subprocess.run(["bash", "-c", f'"{sys.executable}" "{RESULTS.parent / "inference.py"}" '
                                                     f'{arguments} {closed}'],
                                      input="507+159\n", capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
