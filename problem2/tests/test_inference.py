"""Inference: a verdict for each sequence, errors in their place; bad checkpoints are refused."""

import json
import os
import select
import subprocess
import sys
import unittest
from unittest import mock

from support import files
from support.cli import UserError

import torch

import inference
from inference import LONGEST_LINE, parse_sequence
from model import EXTRA_STATE, LONGEST, MODELS, create_model, load_model
from tests.helpers import HOME, TemporaryFolder, command
from tests.small import SIZES, Oracle, save


class Parse(unittest.TestCase):
    def test_sequences(self):
        for text in ["3 15 27", " 3\t15  27\r\n", "3,15,27", "3, 15 ,27", "03 15 27"]:
            self.assertEqual(parse_sequence(text, 300), [3, 15, 27])
        self.assertEqual(len(parse_sequence("7 " * 300, 300)), 300)

    def test_what_is_no_sequence(self):
        texts = ["", " ", "100", "-1", "3 -1", "1.5", "three", "3,,4", ",3", "3,", "٣", "1e1"]
        for text in [*texts, "9" * 10_000, "7 " * 301, "0x1"]:
            with self.subTest(text=text[:20]), self.assertRaises(ValueError) as raised:
                parse_sequence(text, 300)
            self.assertNotIn("\n", str(raised.exception))
            self.assertLess(len(str(raised.exception)), 200)


class Answer(TemporaryFolder):
    """The command, with a model that knows the answers in the place of the weights."""

    def setUp(self):
        super().setUp()
        for name in ("learned", "none", "beyond/recommended"):
            save(self.folder / name / "best_model.pth", create_model("none", **SIZES))

    def inference(self, *arguments, stdin=b"", models=Oracle):
        arguments = "--results-dir", self.folder, *arguments
        with mock.patch.object(inference, "load_model", lambda path, device: models()):
            return command(inference.main, *arguments, stdin=stdin)

    def test_the_recommended_model_answers_or_the_one_named(self):
        expected = "3 15 27 41\n  recommended  sorted 0.998\n"
        for values in [("3", "15", "27", "41"), ("3 15 27 41",), ("3,15,27,41",)]:
            self.assertEqual(self.inference(*values), (0, expected, ""))
        output = self.inference("3", "1", "--encoding", "learned")[1]
        self.assertEqual(output, "3 1\n  learned      unsorted 0.998\n")
        path = self.folder / "none" / "best_model.pth"
        self.assertIn("  model        sorted", self.inference("3", "--model-path", path)[1])

    def test_without_a_recommended_model_another_one_answers(self):
        (self.folder / "beyond" / "recommended" / "best_model.pth").unlink()
        status, output, errors = self.inference("3", "1")
        self.assertEqual((status, output), (0, "3 1\n  learned      unsorted 0.998\n"))
        self.assertEqual(errors, f"no recommended model in {self.folder}: learned answers\n")

    def test_bad_arguments_are_one_line(self):
        for arguments, words in [
            (("3", "100"), "'100' is no whole number from 0 to 99"),
            (("3", "--stdin"), "not both"),
            (("3", "--encoding", "x"), "no model called x, but learned, none, recommended"),
            (("3", "--encoding", "none", "--model-path", "x"), "not both"),
            (("",), "the line is empty: write values"),
            (("7 " * 3000,), f"more than {LONGEST:,} values"),
        ]:
            with self.subTest(words):
                self.assert_one_line(self.inference(*arguments), words)
        empty = command(inference.main, "--results-dir", self.folder / "x")
        self.assert_one_line(empty, "holds no trained model", "python train.py")

    def test_learned_positions_answer_up_to_their_last_row(self):
        def learned():
            return create_model("learned", **SIZES).eval()

        line = b"7 " * 301
        self.assert_one_line(self.inference("7 " * 301, models=learned), "more than 300 values")
        found = self.inference("--stdin", stdin=line, models=learned)
        self.assertEqual(found, (1, "error: more than 300 values\n", ""))
        self.assertRegex(self.inference("7 " * 300, models=learned)[1], r"(un)?sorted 0\.")

    def test_lines_are_answered_in_order_with_errors_in_their_place(self):
        self.assertEqual(self.inference("--stdin"), (0, "", ""))
        bad = [b"", b"seven", b"1 100", b"\xff\xfe\x00", b"7 " * 10_000, b"7" * 10**6]
        bad += [b" " * 10**6, b"7" + b" " * LONGEST_LINE]
        good = [b"1 2 3", b"3,2,1", b"5", b"7" + b" " * (LONGEST_LINE - 1), b"2 1"]
        expected = ["sorted 0.998", "unsorted 0.998", "sorted 0.998", "sorted 0.998"]
        lines = [good[0], *bad, *good[1:]]
        status, output, errors = self.inference("--stdin", stdin=b"\n".join(lines))
        answers = output.splitlines()
        self.assertEqual((status, errors, len(answers)), (1, "", len(lines)))
        for answer in answers[1 : len(bad) + 1]:
            self.assertRegex(answer, "^error: .{1,190}$")
        del answers[1 : len(bad) + 1]
        self.assertEqual(answers, [*expected, "unsorted 0.998"])

    def test_mixed_lengths_are_answered_as_if_alone(self):
        torch.manual_seed(0)
        model = create_model("sinusoidal", **SIZES).eval()
        texts = [" ".join(str(i % 100) for i in range(n, 2 * n)) for n in (1, 9, 3, 9, 40, 3)]
        alone = [inference.answer(model, [text])[0] for text in texts]
        self.assertEqual(inference.answer(model, texts), alone)
        self.assertGreater(len(set(alone)), 3)

    def test_the_accuracy_table_is_shown_and_other_weights_are_named(self):
        path = self.folder / "extrapolation" / "extrapolation_results.json"
        self.assert_one_line(command(inference.main, "--results-dir", self.folder), str(path))
        for content in ("[]", "{}", '{"accuracy": [{}]}'):
            files.write_files({path: content.encode()})
            result = command(inference.main, "--results-dir", self.folder)
            self.assert_one_line(result, "holds no accuracy by length", "python analyze.py")
        entry = {"set": "length", "encoding": "none", "negatives": "swap"}
        digest = files.weights_digest(load_model(self.folder / "none" / "best_model.pth"))
        record = {"accuracy": [{**entry, "length": 8, "accuracy": 0.5, "auc": 0.75}]}
        digests = {"none": digest, "learned": "x" * 64, "recommended": digest}
        for weights, stale in [
            (digests, "learned, recommended"),
            ({}, "learned, none, recommended"),
        ]:
            files.write_json(path, record | {"weights_sha256": weights})
            status, output, errors = command(inference.main, "--results-dir", self.folder)
            self.assertRegex(output, r"none +50\.0%")
            self.assertRegex(output, r"none +0\.75")
            self.assertIn(f"not of the present weights of {stale}:", errors)
            self.assertEqual((status, errors.count("\n")), (0, 1))


class Checkpoints(TemporaryFolder):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "m.pth"
        save(self.path, create_model("learned", **SIZES))
        self.good = torch.load(self.path, weights_only=True)
        self.extra = json.loads(bytes(self.good[EXTRA_STATE].tolist()))

    def refused(self, *words):
        result = command(inference.main, "7", "--model-path", self.path)
        self.assert_one_line(result, "m.pth", "python train.py", *words)

    def with_extra(self, content):
        state = torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)
        return self.good | {EXTRA_STATE: state}

    def test_arguments_that_are_no_model_s(self):
        changes = [{"d_model": size} for size in (64, 10**9)] + [{"num_heads": 3}, {"d_ff": -1}]
        changes += [{"num_layers": 10**5}, {"max_len": 99}, {"max_len": 10**9}, {"extra": 1}]
        changes += [{"encoding_type": name} for name in ("sinusoidal", "x", 7)]
        changes += [{"pooling": name} for name in ("min", [])]
        changes += [{"log_scaling": True}, {"dropout": float("nan")}, {"vocab_size": 102}]
        extras = [{"config": self.extra["config"] | change} for change in changes]
        extras += [{"config": {}}, {"config": None}, {"model": "Linear"}]
        for extra in [*extras, {"training_info": 3}, {"training_info": {}}]:
            torch.save(self.with_extra(self.extra | extra), self.path)
            with self.subTest(extra):
                self.refused("no model of this project")

    def test_values_that_are_no_model_s_weights(self):
        good, extra = self.good, self.good[EXTRA_STATE]
        weights = {name: value for name, value in good.items() if name != EXTRA_STATE}
        bad = [None, 3, [], {}, weights, {EXTRA_STATE: extra}, torch.zeros(3)]
        bad += [good | {EXTRA_STATE: value} for value in (3, torch.zeros(2, 2), torch.tensor(3))]
        bad += [good | {"more": torch.zeros(1)}, good | {"embedding.weight": 7}]
        for change in (lambda value: value * float("nan"), torch.Tensor.cfloat, torch.Tensor.long):
            bad.append(good | {name: change(value) for name, value in weights.items()})
        for value in bad:
            torch.save(value, self.path)
            self.refused()

    def test_code_in_a_checkpoint_is_not_run(self):
        ran, old_form = self.folder / "ran", {"_use_new_zipfile_serialization": False}

        class Code:
            def __reduce__(self):
                return os.mkdir, (str(ran),)

        for value, form in [
            (Code(), {}),
            (self.good | {EXTRA_STATE: Code()}, {}),
            (Code(), old_form),
        ]:
            torch.save(value, self.path, **form)
            self.refused("damaged or holds more than tensors")
            self.assertFalse(ran.exists())

    def test_no_memory_is_taken_for_a_model_that_cannot_be(self):
        sizes = {"d_model": 32, "num_heads": 2, "num_layers": 4, "d_ff": 64}
        self.good = create_model("none", **sizes).state_dict()
        config = self.extra["config"] | sizes
        for size in ("d_model", "d_ff", "num_layers"):
            changed = config | {size: 2 * config[size]}
            torch.save(self.with_extra(self.extra | {"config": changed}), self.path)
            with mock.patch.dict(MODELS, SortingClassifier=mock.Mock(side_effect=AssertionError)):
                with self.assertRaisesRegex(UserError, "not those of a model of these sizes"):
                    load_model(self.path)
        zeros = {k: torch.zeros(1).expand(v.shape) for k, v in self.good.items()}
        state = self.with_extra(self.extra | {"config": config})
        torch.save(zeros | {EXTRA_STATE: state[EXTRA_STATE]}, self.path)
        with self.assertRaisesRegex(UserError, "larger than the file"):
            load_model(self.path)


class Script(TemporaryFolder):
    def test_lines_are_answered_as_they_arrive(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": self.folder}
        script = HOME / "inference.py"
        with subprocess.Popen([sys.executable, script, "--stdin"], **pipes) as run:
            try:
                for line in (b"3 15 27\n", b"27 15\n"):
                    run.stdin.write(line)
                    run.stdin.flush()
                    arrived = select.select([run.stdout], [], [], 60)[0]
                    self.assertTrue(arrived, "no answer, though no more input is waiting")
                    self.assertRegex(run.stdout.readline(), rb"^(un)?sorted [0-9.]{5}\n$")
            finally:
                run.stdin.close()
