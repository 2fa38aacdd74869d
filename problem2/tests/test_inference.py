"""Inference: a verdict for each sequence, errors named, damaged checkpoints refused and never run."""

import os
import pickle
import select
import signal
import subprocess
import sys
import unittest
from unittest import mock

import torch

import inference
from inference import LONGEST_LINE, MOST_VALUES, parse_sequence
from learning.checkpoint import load_model, save_model
from model import create_model
from positional_encoding import ENCODINGS
from support.digests import weights_digest
from tests.helpers import RESULTS, Oracle, TemporaryFolder, command

ABOUT = {"train_sha256": ""}


class Parse(TemporaryFolder):
    def test_sequences(self):
        for text in ["3 15 27", " 3\t15  27\r\n", "3,15,27", "3, 15 ,27", "03 15 27"]:
            self.assertEqual(parse_sequence(text, 300), [3, 15, 27])
        self.assertEqual(parse_sequence("5", 300), [5])
        self.assertEqual(len(parse_sequence("7 " * 300, 300)), 300)

    def test_what_is_no_sequence(self):
        for text in ["", " ", "100", "-1", "3 -1", "1.5", "three", "3,,4", ",3", "3,", "٣", "1e1", "9" * 10_000,
                     "7 " * 301, "0x1"]:
            with self.subTest(text=text[:20]), self.assertRaises(ValueError) as raised:
                parse_sequence(text, 300)
            self.assertNotIn("\n", str(raised.exception))
            self.assertLess(len(str(raised.exception)), 200)


class Answer(TemporaryFolder):
    """The commands, with a model that knows the answers in the place of the weights."""

    def run_inference(self, *arguments, stdin=b""):
        with mock.patch.object(inference, "load_model", return_value=(Oracle(), ABOUT)):
            return command(inference.main, *arguments, stdin=stdin)

    def test_the_recommended_model_answers_or_the_one_named(self):
        for arguments in [("3", "15", "27", "41"), ("3 15 27 41",), ("3,15,27,41",)]:
            status, output, errors = self.run_inference(*arguments)
            self.assertEqual((status, errors), (0, ""))
            self.assertEqual(output, "3 15 27 41\n  recommended  sorted 0.998\n")
        self.assertEqual(self.run_inference("3", "1", "--encoding", "learned")[1],
                         "3 1\n  learned      unsorted 0.998\n")

    def test_bad_arguments_are_one_line(self):
        self.assert_one_line(self.run_inference("3", "100"), "'100' is no whole number from 0 to 99")
        self.assert_one_line(self.run_inference("3", "--stdin"), "not both")
        self.assert_one_line(self.run_inference("3", "--encoding", "x"),
                             "no model called x, but sinusoidal, learned, none, recommended")
        self.assert_one_line(command(inference.main, "--results-dir", self.folder), "holds no trained model",
                             "python train.py")
        self.assert_one_line(self.run_inference("3", "--encoding", "none", "--model-path", "x"), "not both")
        self.assert_one_line(self.run_inference(*["7"] * 3000), f"more than {MOST_VALUES:,} values")

    def test_a_sequence_too_long_for_the_learned_positions_is_answered_by_the_others(self):
        torch.manual_seed(0)
        models = {name: create_model(encoding, d_model=8, num_heads=1, num_layers=1, d_ff=8).eval()
                  for name, encoding in [("learned", "learned"), ("recommended", "local_bias")]}
        with mock.patch.object(inference, "load_model", side_effect=lambda path,
                               device: (models[path.parent.name], ABOUT)):
            status, output, _ = command(inference.main, *["7"] * 301)
            self.assertEqual(status, 0)
            self.assertRegex(output, r"recommended  (un)?sorted")
            self.assert_one_line(command(inference.main, "--encoding", "learned", *["7"] * 301), "more than 300 values")
            self.assertEqual(command(inference.main, "--stdin", "--encoding", "learned", stdin=b"7 " * 301)[:2],
                             (1, "error: more than 300 values\n"))

    def test_stdin_gives_one_line_each_in_order(self):
        status, output, errors = self.run_inference("--stdin", stdin=b"1 2 3\n3,2,1\n5\n1 2 3 4\n2 1")
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(output, "sorted 0.998\nunsorted 0.998\nsorted 0.998\nsorted 0.998\nunsorted 0.998\n")
        self.assertEqual(self.run_inference("--stdin"), (0, "", ""))

    def test_bad_lines_are_answered_in_their_place_and_the_status_is_1(self):
        bad = [b"", b"seven", b"1 100", b"\xff\xfe\x00", b"7 " * 10_000, b"7" * 10 ** 6, b" " * 10 ** 6]
        status, output, errors = self.run_inference("--stdin", stdin=b"1 2\n" + b"\n".join(bad) + b"\n2 1\n")
        lines = output.split("\n")
        self.assertEqual((status, errors, len(lines)), (1, "", len(bad) + 3))
        self.assertEqual((lines[0], lines[-2]), ("sorted 0.998", "unsorted 0.998"))
        for line in lines[1:-2]:
            self.assertRegex(line, "^error: .")
            self.assertLess(len(line), 200)

    def test_a_line_of_the_greatest_length_is_answered(self):
        lines = b"7" + b" " * (LONGEST_LINE - 1) + b"\n" + b"7" + b" " * LONGEST_LINE + b"\n"
        self.assertEqual(self.run_inference("--stdin", stdin=lines)[:2],
                         (1, f"sorted 0.998\nerror: a line of more than {LONGEST_LINE:,} characters\n"))

    def test_a_mixed_batch_equals_one_by_one(self):
        torch.manual_seed(0)
        model = create_model("sinusoidal", d_model=16, num_heads=2, num_layers=1, d_ff=16).eval()
        sequences = [[i % 100 for i in range(n, 2 * n)] for n in (1, 9, 3, 9, 40, 3)]
        with mock.patch.object(inference, "TOKENS_AT_ONCE", 10):
            together = inference.classify(model, sequences)
        for probability, sequence in zip(together, sequences):
            self.assertAlmostEqual(probability, inference.classify(model, [sequence])[0], places=5)


class Checkpoints(TemporaryFolder):
    def test_round_trip(self):
        for encoding in ENCODINGS:
            sizes = dict(d_model=16, num_heads=2, num_layers=1, d_ff=24, pooling="attention", log_scaling="learned")
            model = create_model(encoding, **sizes).eval()
            model.about = ABOUT
            save_model(self.folder / "m.pth", model.state_dict())
            loaded, about = load_model(self.folder / "m.pth")
            self.assertEqual((loaded.config, about, loaded.about, loaded.training), (model.config, ABOUT, ABOUT, False))
            by_hand = create_model(encoding, **sizes).eval()
            by_hand.load_state_dict(torch.load(self.folder / "m.pth", weights_only=True))
            x = torch.randint(100, (5, 7))
            self.assertTrue(torch.equal(loaded(x), model(x)) and torch.equal(by_hand(x), model(x)))
            self.assertEqual(weights_digest(by_hand.state_dict()), weights_digest(model.state_dict()))

    def test_damaged_and_foreign_files_are_one_line(self):
        model = create_model("learned", d_model=16, num_heads=2, num_layers=1, d_ff=24)
        path = self.folder / "m.pth"
        model.about = ABOUT
        save_model(path, model.state_dict())
        good, data = torch.load(path, weights_only=True), path.read_bytes()

        def refused(*words):
            self.assert_one_line(command(inference.main, "7", "--model-path", path), "m.pth", "python train.py", *words)
        path.unlink()
        refused("no checkpoint file")
        for content in (b"", b"text", data[:100], data[:len(data) // 2], data[:-20], b"PK\x03\x04" + bytes(100),
                        pickle.dumps([1, 2])):
            path.write_bytes(content)
            refused()
        extra = good["_extra_state"]
        for changes in [{"config": {}}, {"config": None}, {"about": 3}, {"about": {}}, {"about": torch.zeros(2, 2)}]:
            torch.save(good | {"_extra_state": extra | changes}, path)
            refused()
        for changes in [{"dropout": torch.zeros(2)}, {"d_model": 64}, {"num_heads": 3}, {"d_model": 10 ** 9},
                        {"num_layers": 10 ** 5}, {"max_len": 10 ** 9}, {"max_len": 99}, {"d_ff": -1}, {"extra": 1},
                        {"encoding_type": "sinusoidal"},
                        {"encoding_type": "x"}, {"encoding_type": 7}, {"pooling": "min"}, {"pooling": []},
                        {"log_scaling": 1}, {"log_scaling": "log"}, {"dropout": float("nan")}, {"vocab_size": 5}]:
            torch.save(good | {"_extra_state": extra | {"config": extra["config"] | changes}}, path)
            refused()
        tensors = {name: value for name, value in good.items() if name != "_extra_state"}
        for value in [None, 3, [], {}, tensors, torch.zeros(3), {"_extra_state": extra}, good | {"_extra_state": 3},
                      good | {"more": torch.zeros(1)}, good | {"embedding.weight": 7},
                      good | {name: value * float("nan") for name, value in tensors.items()}]:
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
            self.assert_one_line(command(inference.main, "7", "--model-path", path), "more than plain tensors")
            self.assertFalse((self.folder / "ran").exists())


def hear_interrupts():
    """For a child process: what a shell starts in the background is deaf to Ctrl-C, and its children are too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Script(TemporaryFolder):
    def test_lines_are_answered_as_they_arrive(self):
        with subprocess.Popen([sys.executable, RESULTS.parent / "inference.py", "--stdin"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as run:
            try:
                for line in (b"3 15 27\n", b"27 15\n"):
                    run.stdin.write(line)
                    run.stdin.flush()
                    self.assertTrue(select.select([run.stdout], [], [], 60)[0],
                                    "no answer, though nothing more is waiting")
                    self.assertRegex(run.stdout.readline(), rb"^(un)?sorted [0-9.]{5}\n$")
            finally:
                run.stdin.close()

    @unittest.skipUnless(os.name == "posix", "signals of POSIX")
    def test_an_interruption_while_torch_loads_is_one_line(self):
        (self.folder / "torch.py").write_text("print('loading', flush=True)\nimport time\ntime.sleep(60)\n")
        for script in ("inference.py", "train.py", "analyze.py", "generate_data.py", "scripts/generate_data.py",
                       "seeds.py", "study.py", "benchmark.py", ""):
            with subprocess.Popen([sys.executable, RESULTS.parent / script],
                                  env=os.environ | {"PYTHONPATH": str(self.folder)},
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  preexec_fn=hear_interrupts) as run:
                self.assertEqual(run.stdout.readline(), b"loading\n")
                run.send_signal(signal.SIGINT)
                self.assertEqual((script, run.stderr.read()), (script, b"error: interrupted\n"))

    def test_from_another_folder(self):
        script = RESULTS.parent / "inference.py"
        done = subprocess.run([sys.executable, script, "--stdin"], cwd=self.folder,
                              input="3 15 27 41 58 72 83 94\n94 83 72 58 41 27 15 3\n", capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"^sorted [0-9.]{5}\nunsorted [0-9.]{5}\n$")
