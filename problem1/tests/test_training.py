"""Training: resumed runs end in identical weights, the best epoch is kept, bad runs stop in one line."""

import json
import shutil
import unittest
from unittest import mock

import torch
from torch.nn import functional as F

import train
from dataset import PAD_TOKEN, AdditionDataset, numbers_of
from learning import checkpoint, loop
from learning.checkpoint import load_model
from learning.exhaustive import predict_forced
from learning.loop import TrainingConfig, learning_rate
from model import ORDERS, ModelConfig, Seq2SeqTransformer
from support.digests import weights_digest
from support.files import replacing
from tests.helpers import TemporaryFolder, command, without_pictures

SMALL = ("--d-model", 16, "--num-heads", 2, "--num-layers", 1, "--d-ff", 16, "--batch-size", 8, "--dropout", 0.1,
         "--device", "cpu")


class LearningRate(TemporaryFolder):
    def test_rises_linearly_then_falls_along_a_cosine(self):
        config = TrainingConfig(lr=1.0, warmup=0.1)
        rates = [learning_rate(step, 100, config) for step in range(100)]
        self.assertEqual(rates, sorted(rates[:11]) + sorted(rates[11:], reverse=True))
        self.assertEqual(max(rates), rates[10])
        self.assertAlmostEqual(rates[10], 1)
        self.assertAlmostEqual(rates[0], 1 / 11)
        self.assertAlmostEqual(rates[55], 0.5)
        self.assertLess(rates[99], 0.001)


class FocalLoss(unittest.TestCase):
    logits = torch.randn(5, 4, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.randint(10, (5, 4), generator=torch.Generator().manual_seed(1))

    def test_without_focus_is_the_cross_entropy(self):
        expected = F.cross_entropy(self.logits.flatten(0, 1), self.target.flatten())
        for value in loop.focal_loss(self.logits, self.target, 0.0):
            torch.testing.assert_close(value, expected)

    def test_is_the_mean_weighted_by_what_is_missing_to_certainty(self):
        p = self.logits.softmax(-1).gather(2, self.target.unsqueeze(2)).squeeze(2)
        for focus in (1.0, 2.0):
            expected = ((1 - p) ** focus * -p.log()).sum() / ((1 - p) ** focus).sum()
            torch.testing.assert_close(loop.focal_loss(self.logits, self.target, focus)[0], expected)

    def test_weights_pass_no_gradient_and_padding_does_not_count(self):
        logits = self.logits.clone().requires_grad_()
        target = self.target.clone()
        target[2, 1:] = PAD_TOKEN
        loop.focal_loss(logits, target, 1.0)[0].backward()
        self.assertEqual(logits.grad[2, 1:].abs().sum(), 0)
        real = target != PAD_TOKEN
        p = logits.detach().softmax(-1)
        weights = 1 - p[real].gather(1, target[real].unsqueeze(1))
        torch.testing.assert_close(logits.grad[real], weights / weights.sum() * (p[real] - F.one_hot(target[real], 13)))


class Optimizer(TemporaryFolder):
    def test_is_fused_only_where_a_fused_step_works(self):
        model = Seq2SeqTransformer(13, 4, 1, 1, 1, 4)
        release = tuple(map(int, torch.__version__.split(".")[:2]))
        self.assertEqual(loop.make_optimizer(model, TrainingConfig()).defaults["fused"], release >= (2, 4))
        with mock.patch.object(torch.optim.AdamW, "step",
                               side_effect=NotImplementedError):  # as torch 2.0 fails, and only when it steps
            self.assertFalse(loop.make_optimizer(model, TrainingConfig()).defaults["fused"])


class Train(TemporaryFolder):
    def setUp(self):
        super().setUp()
        self.enterContext(without_pictures(train))

    def train(self, name, *options, epochs=4, sizes=(40, 20, 20)):
        return command(train.main, "--data-dir", self.small_data(sizes=sizes), "--output-dir", self.folder / name,
                       "--epochs",
                       epochs, *SMALL, *options)

    def weights(self, name):
        return dict(load_model(self.folder / name / "best_model.pth")[0].named_parameters())

    def log(self, name):
        return json.loads((self.folder / name / "training_log.json").read_text())

    def assert_same_bits(self, one, other):
        for name, tensor in self.weights(one).items():
            self.assertTrue(torch.equal(tensor, self.weights(other)[name]), name)

    def interrupted(self, name, after):
        """A run that is interrupted while it trains the epoch that follows epoch `after`."""
        original = loop.train_epoch

        def train_epoch(model, loader, optimizer, config, epoch):
            if epoch > after:
                raise KeyboardInterrupt
            return original(model, loader, optimizer, config, epoch)
        with mock.patch.object(loop, "train_epoch", train_epoch):
            self.assert_one_line(self.train(name), "--resume")

    def test_leaves_weights_log_and_curves(self):
        status, output, errors = self.train("run")
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(output.count("\n"), 6, "a warning, a line an epoch, and one at the end")
        self.assertEqual(sorted(path.name for path in (self.folder / "run").glob("[!.]*")),
                         ["best_model.pth", "training_curves.png", "training_log.json"])
        log = self.log("run")
        self.assertEqual(len(log["epochs"]), 4)
        self.assertLess(log["epochs"][3]["train"]["loss"], log["epochs"][0]["train"]["loss"])
        best = max(log["epochs"], key=lambda epoch: (epoch["val"]["exact_match"], epoch["epoch"]))
        self.assertEqual(log["best_epoch"], best["epoch"])
        self.assertEqual(log["test"]["n"], 20)

    def test_the_weights_kept_are_those_of_the_best_epoch(self):
        results = [{"exact_match": match, "loss": loss, "n": 20, "exact_match_interval": [0, 1], "token_accuracy": 0.5}
                   for match, loss in [(0.1, 3), (0.6, 1), (0.6, 2), (0.2, 1), (0.6, 2)]]
        with mock.patch.object(loop, "evaluate", side_effect=results):
            self.train("four")
        with mock.patch.object(loop, "evaluate", side_effect=results):
            self.interrupted("three", after=3)
        last = torch.load(self.folder / "three" / "resume.pth", weights_only=True)
        self.assertEqual(self.log("four")["best_epoch"], 3)
        for name, tensor in self.weights("four").items():
            self.assertTrue(torch.equal(tensor, last["model"][name]), name)

    def test_the_same_seed_gives_the_same_bits_and_another_does_not(self):
        for name, seed in [("one", 3), ("two", 3), ("three", 4)]:
            self.train(name, "--seed", seed, epochs=1)
        self.assert_same_bits("one", "two")
        with self.assertRaises(AssertionError):
            self.assert_same_bits("one", "three")

    def test_a_resumed_run_ends_in_the_same_bits(self):
        self.train("whole")
        self.interrupted("stopped", after=2)
        self.train("other", "--seed", 9, epochs=1)
        shutil.copy(self.folder / "other" / "best_model.pth",
                    self.folder / "stopped")  # not to be taken for the best so far
        self.assertEqual(len(self.log("stopped")["epochs"]), 2)
        self.assertEqual(self.train("stopped", "--resume")[0], 0)
        self.assert_same_bits("whole", "stopped")
        for key in ("train", "val"):
            self.assertEqual(*([epoch[key] for epoch in self.log(name)["epochs"]] for name in ("whole", "stopped")))
        self.assertEqual(self.log("whole")["test"], self.log("stopped")["test"])

    def test_what_cannot_be_resumed_is_said_in_one_line(self):
        self.interrupted("stopped", after=1)
        self.assert_one_line(self.train("stopped", "--resume", "--lr", 0.5),
                             "interrupted run differs in lr 0.002, now 0.5:")
        self.assert_one_line(self.train("stopped", "--resume", "--d-ff", 8), "differs in d_ff 16, now 8:")
        state = torch.load(self.folder / "stopped" / "resume.pth", weights_only=True)
        for value in ({}, {"log": 3}, state | {"model": {}}, state | {"optimizer": {}}, state | {"optimizer": 3}):
            torch.save(value, self.folder / "stopped" / "resume.pth")
            self.assert_one_line(self.train("stopped", "--resume"), "not of such a training run")
        torch.save(torch.zeros(2), self.folder / "stopped" / "resume.pth")
        self.assert_one_line(self.train("stopped", "--resume"), "no dict")
        torch.save(state, self.folder / "stopped" / "resume.pth")
        (self.folder / "data" / "train.json").write_text((self.folder / "data" / "train.json").read_text() + " ")
        self.assert_one_line(command(train.main, "--data-dir", self.folder / "data", "--output-dir",
                                     self.folder / "stopped", "--epochs", 4,
                                     *SMALL, "--resume"), "differs in train ")
        (self.folder / "stopped"
         / "resume.pth").write_bytes((self.folder / "stopped" / "resume.pth").read_bytes()[:1000])
        self.assert_one_line(self.train("stopped", "--resume"), "damaged")

    def test_written_right_to_left_it_learns_and_answers_ordinary_numbers(self):
        options = ("--order", "right-to-left", "--dropout", 0, "--lr", 0.01)
        self.assertEqual(self.train("run", *options, epochs=60, sizes=(75, 3, 3))[0], 0)
        model, about = load_model(self.folder / "run" / "best_model.pth")
        self.assertEqual(model.config.order, "right-to-left")
        train_set = AdditionDataset(self.folder / "data" / "train.json")
        right = (model.generate(train_set.inputs, 2) == train_set.targets).all(dim=1)
        self.assertGreater(right.float().mean(), 0.7)
        forced, target = predict_forced(model, *numbers_of(train_set.inputs, 1), 1)
        self.assertTrue(torch.equal((forced == target).all(dim=1), right))

    def test_a_run_interrupted_in_its_first_epoch_can_be_resumed(self):
        self.train("whole")
        self.interrupted("stopped", after=0)
        self.assertEqual(self.train("stopped", "--resume")[0], 0)
        self.assert_same_bits("whole", "stopped")

    def test_resuming_what_is_finished_or_was_never_begun(self):
        self.assertIn("best epoch", self.train("run", "--resume")[1])
        before = {path: path.read_bytes() for path in (self.folder / "run").iterdir()}
        status, output, errors = self.train("run", "--resume")
        self.assertEqual((status, output, errors), (0, f"the run in {self.folder / 'run'} is finished already\n", ""))
        self.assert_one_line(self.train("run", "--resume", "--seed", 5), "finished run that differs in seed 0, now 5:",
                             "--output-dir")
        self.assertEqual({path: path.read_bytes() for path in (self.folder / "run").iterdir()}, before)
        (self.folder / "run" / "training_log.json").write_text("[]")
        self.assertIn("best epoch", self.train("run", "--resume")[1])

    def test_records_of_other_weights_are_named(self):
        (self.folder / "run" / "head_analysis").mkdir(parents=True)
        (self.folder / "run" / "head_analysis" / "carry.json").write_text('{"weights_sha256": "other"}')
        (self.folder / "run" / "exhaustive.json").write_text('{"weights_sha256": "other"}')
        output = self.train("run", epochs=1)[1]
        self.assertRegex(output, r"of other weights now: exhaustive.json, head_analysis.carry.json; make them again "
                                 "with python analyze.py")
        self.assertEqual(self.log("run")["weights_sha256"], weights_digest(self.weights("run")))

    def test_a_size_that_may_not_be_learned_is_warned_of_in_one_line(self):
        self.assertRegex(self.train("run", epochs=1)[1], "^warning: there are only 81 problems of one digit")
        sizes = {(digits, order, positions): train.doubt(digits,
                                                         ModelConfig(13, 8, 2, 1, 1, 8, 0, 100, order, positions))
                 for digits in (3, 10, 11) for order in ORDERS for positions in ("sinusoidal", "columns")}
        silent = {size for size, warning in sizes.items() if warning is None}
        self.assertEqual(silent, {(3, order, positions) for order in ORDERS for positions in ("sinusoidal", "columns")}
                         | {(10, "right-to-left", "columns")})
        self.assertIn("--positions columns", sizes[10, "right-to-left", "sinusoidal"])
        self.assertIn("--order right-to-left", sizes[10, "left-to-right", "columns"])
        self.assertIn("have not been tried", sizes[11, "right-to-left", "columns"])

    def test_each_order_has_its_folder_of_results(self):
        for order, folder in zip(ORDERS, (self.folder, self.folder / "right_to_left")):
            with mock.patch.object(checkpoint, "RESULTS_DIR", self.folder):
                command(train.main, "--data-dir", self.small_data(), "--order", order, "--epochs", 1, *SMALL)
            self.assertEqual(load_model(folder / "best_model.pth")[0].config.order, order)

    def test_a_loss_that_is_not_finite_stops_training(self):
        with mock.patch.object(loop, "focal_loss", return_value=(torch.tensor(float("nan")), None)):
            self.assert_one_line(self.train("run"), "the loss is nan at step 1, learning rate", "--lr")

    def test_bad_options_exit_with_2(self):
        for options in [("--lr", 0), ("--lr", "nan"), ("--dropout", 1), ("--epochs", 0), ("--batch-size", "x"),
                        ("--d-model", 10, "--num-heads", 4),
                        ("--device", "abacus"), ("--device", "meta"), ("--device", "cuda:99"), ("--nonsense",),
                        ("--seed", 10 ** 14), ("--d-model", 10 ** 9), ("--d-ff", 10 ** 9), ("--num-layers", 10 ** 9),
                        ("--num-layers", 1000, "--d-model", 8192), ("--batch-size", 10 ** 20)]:
            with self.subTest(options=options):
                self.assert_one_line(command(train.main, "--data-dir", self.small_data(), "--output-dir", self.folder,
                                             *options))

    def test_missing_data_is_made(self):
        with mock.patch("generate_data.generate", side_effect=lambda folder, n: self.small_data()) as generate:
            status, *_ = command(train.main, "--data-dir", self.folder / "data", "--output-dir", self.folder / "run",
                                 "--epochs", 1, *SMALL)
        self.assertEqual((status, generate.call_count), (0, 1))

    def test_an_output_folder_that_cannot_be_written_is_one_line(self):
        (self.folder / "file").write_text("kept")
        self.assert_one_line(self.train("file/run", epochs=1), "file")
        self.assertEqual((self.folder / "file").read_text(), "kept")


class Replace(TemporaryFolder):
    def test_a_write_that_fails_leaves_the_file_as_it_was(self):
        path = self.folder / "file"
        path.write_text("old")
        with self.assertRaises(ZeroDivisionError), replacing(path) as file:
            file.write(b"half of the new")
            1 / 0
        self.assertEqual([(p.name, p.read_text()) for p in self.folder.iterdir()], [("file", "old")])
        with replacing(path) as file:
            file.write(b"new")
        self.assertEqual([(p.name, p.read_text()) for p in self.folder.iterdir()], [("file", "new")])
