"""Training: resumed runs end with identical weights, the best epoch is kept, bad runs stop in one line."""

import json
import shutil
from unittest import mock

import torch

import train
from dataset import SortingDataset, make_loader
from generate_data import generate
from learning import loop
from learning.checkpoint import load_model
from learning.loop import TrainingConfig, focal_loss, learning_rate, make_optimizer
from learning.variants import VARIANTS
from model import create_model
from positional_encoding import REQUIRED, LearnedPositionalEncoding
from support.digests import weights_digest
from support.files import replacing, write_json
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


class Optimizer(TemporaryFolder):
    def test_is_fused_only_where_a_fused_step_works(self):
        model = create_model(d_model=4, num_heads=1, num_layers=1, d_ff=4)
        release = tuple(map(int, torch.__version__.split(".")[:2]))
        self.assertEqual(loop.make_optimizer(model, TrainingConfig()).defaults["fused"], release >= (2, 4))
        with mock.patch.object(torch.optim.AdamW, "step",
                               side_effect=NotImplementedError):  # as torch 2.0 fails, and only when it steps
            self.assertFalse(loop.make_optimizer(model, TrainingConfig()).defaults["fused"])


class Train(TemporaryFolder):
    def setUp(self):
        super().setUp()
        self.enterContext(without_pictures(train))

    def train(self, name, *options, epochs=4):
        return command(train.main, "--encoding", "learned", "--data-dir", self.small_data(), "--output-dir",
                       self.folder / name, "--epochs", epochs, *SMALL, *options)

    def weights(self, name):
        return dict(load_model(self.folder / name / "learned" / "best_model.pth")[0].named_parameters())

    def log(self, name):
        return json.loads((self.folder / name / "learned" / "training_log.json").read_text())

    def assert_identical_weights(self, one, other):
        for name, tensor in self.weights(one).items():
            self.assertTrue(torch.equal(tensor, self.weights(other)[name]), name)

    def interrupted(self, name, after, *options):
        """A run that is interrupted while it trains the epoch that follows epoch `after`."""
        original = loop.train_epoch

        def train_epoch(model, loader, optimizer, config, epoch):
            if epoch > after:
                raise KeyboardInterrupt
            return original(model, loader, optimizer, config, epoch)
        with mock.patch.object(loop, "train_epoch", train_epoch):
            self.assert_one_line(self.train(name, *options), "interrupted; continue with the same options and --resume")

    def test_leaves_weights_log_and_curves(self):
        status, output, errors = self.train("run")
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(output.count("\n"), 5, "a line an epoch, and one at the end")
        self.assertEqual(sorted(path.name for path in (self.folder / "run" / "learned").glob("[!.]*")),
                         ["best_model.pth", "training_curves.png", "training_log.json"])
        log = self.log("run")
        self.assertEqual(len(log["epochs"]), 4)
        self.assertLess(log["epochs"][3]["train"]["loss"], log["epochs"][0]["train"]["loss"])
        best = max(log["epochs"], key=lambda epoch: (epoch["val"]["accuracy"], epoch["epoch"]))
        self.assertEqual(log["best_epoch"], best["epoch"])
        self.assertEqual(log["test"]["n"], 20)

    def test_the_weights_kept_are_those_of_the_best_epoch(self):
        results = [{"accuracy": accuracy, "loss": loss, "n": 20, "accuracy_interval": [0, 1]}
                   for accuracy, loss in [(0.1, 3), (0.6, 1), (0.6, 2), (0.2, 1), (0.6, 2)]]
        with mock.patch.object(loop, "evaluate", side_effect=results):
            self.train("four")
        with mock.patch.object(loop, "evaluate", side_effect=results):
            self.interrupted("three", after=3)
        last = torch.load(self.folder / "three" / "learned" / "resume.pth", weights_only=True)
        self.assertEqual(self.log("four")["best_epoch"], 3)
        for name, tensor in self.weights("four").items():
            self.assertTrue(torch.equal(tensor, last["model"][name]), name)

    def test_the_same_seed_gives_identical_weights_and_another_does_not(self):
        for name, seed in [("one", 3), ("two", 3), ("three", 4)]:
            self.train(name, "--seed", seed, epochs=1)
        self.assert_identical_weights("one", "two")
        with self.assertRaises(AssertionError):
            self.assert_identical_weights("one", "three")

    def test_a_run_interrupted_in_its_first_epoch_can_be_resumed(self):
        self.train("whole", epochs=2)
        self.interrupted("stopped", 0, "--epochs", 2)
        state = torch.load(self.folder / "stopped" / "learned" / "resume.pth", weights_only=True)
        self.assertEqual((state["log"]["epochs"], state["best_weights"]), ([], None))
        self.assertEqual(self.train("stopped", "--resume", epochs=2)[0], 0)
        self.assert_identical_weights("whole", "stopped")

    def test_an_interruption_with_nothing_to_resume_advises_no_resume(self):
        with mock.patch.object(train, "initial_model", side_effect=KeyboardInterrupt):
            status, _, errors = self.train("run")
        self.assertEqual((status, errors), (130, "error: interrupted\n"))

    def test_resume_with_nothing_there_starts_and_with_a_finished_run_changes_nothing(self):
        self.assertEqual(self.train("run", "--resume", epochs=1)[0], 0)
        folder = self.folder / "run"
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("[!.]*")
                  if path.is_file()}
        status, output, _ = self.train("run", "--resume", epochs=1)
        self.assertEqual((status, output), (0, "learned: finished already\n"))
        self.assert_one_line(self.train("run", "--resume", "--lr", 0.5, epochs=1),
                             f"{folder / 'learned'} holds a finished run that differs in "
                             "lr 0.001, now 0.5: give the options it had, another --output-dir, or train without "
                             "--resume to replace it")
        self.assert_one_line(self.train("run", "--resume", epochs=3), "differs in epochs 1, now 3")
        self.assertEqual({path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}, before)

    def test_records_of_other_weights_are_named(self):
        self.train("run", epochs=1)
        digest = self.log("run")["weights_sha256"]
        self.assertEqual(digest,
                         weights_digest(load_model(self.folder / "run" / "learned" / "best_model.pth")[0].state_dict()))
        path = self.folder / "run" / "extrapolation" / "extrapolation_results.json"
        write_json(path, {"weights_sha256": {"learned": digest, "none": "other"}})
        self.assertNotIn("other weights", self.train("run", epochs=1)[1])
        output = self.train("run", "--seed", 1, epochs=1)[1]
        self.assertIn(f"made from other weights than are there now: {path} (again: python analyze.py)\n", output)

    def test_max_len_follows_the_data(self):
        generate(self.folder / "long", 641, 8, 4, 4, 300, 301, generate_extrapolation=False)
        for encoding in ("learned", "sinusoidal"):
            status, _, errors = command(train.main, "--encoding", encoding, "--data-dir", self.folder / "long",
                                        "--output-dir", self.folder / "run", "--epochs", 1, *SMALL)
            self.assertEqual((status, errors), (0, ""))
            self.assertEqual(load_model(self.folder / "run" / encoding / "best_model.pth")[0].config.max_len, 301)

    def test_what_cannot_be_trained_is_one_line(self):
        with mock.patch.object(train, "MOST_POSITIONS", 15):
            self.assert_one_line(self.train("run"), "the data hold a sequence of 16 values, and 15 are the most")
        self.assert_one_line(command(train.main, "--encoding", "rotary", "--data-dir", self.small_data(),
                                     "--output-dir", self.folder / "run",
                                     *SMALL, "--d-model", 6), "a model of this size cannot be made", "a head has 3")
        with mock.patch.object(loop, "train_epoch",
                               side_effect=RuntimeError("DefaultCPUAllocator: can't allocate memory: 57 GB")):
            self.assert_one_line(self.train("run"), "no memory for a batch of 8 sequences of up to 16 values",
                                 "--batch-size")

    def test_a_resumed_run_ends_with_identical_weights(self):
        self.train("whole")
        self.interrupted("stopped", after=2)
        self.train("other", "--seed", 9, epochs=1)
        shutil.copy(self.folder / "other" / "learned" / "best_model.pth", self.folder / "stopped"
                    / "learned")  # not to be taken for the best so far
        self.assertEqual(len(self.log("stopped")["epochs"]), 2)
        self.assertEqual(self.train("stopped", "--resume")[0], 0)
        self.assert_identical_weights("whole", "stopped")
        for key in ("train", "val"):
            self.assertEqual(*([epoch[key] for epoch in self.log(name)["epochs"]] for name in ("whole", "stopped")))
        self.assertEqual(self.log("whole")["test"], self.log("stopped")["test"])

    def test_augmentation_is_recorded_changes_the_weights_and_is_off_in_the_required_three(self):
        for name, options in [("plain", ()), ("augmented", ("--augmentation", "crop+shift+swap")),
                              ("again", ("--augmentation", "crop+shift+swap"))]:
            self.train(name, *options, epochs=1)
        self.assertEqual([self.log(name)["training"]["augmentation"] for name in ("plain", "augmented")],
                         ["none", "crop+shift+swap"])
        self.assert_identical_weights("augmented", "again")
        with self.assertRaises(AssertionError):
            self.assert_identical_weights("augmented", "plain")
        self.assertEqual({VARIANTS[name].augmentation for name in REQUIRED}, {"none"})

    def test_focal_loss_is_its_formula_and_the_log_holds_the_cross_entropy(self):
        logits, labels = torch.tensor([[2.0, 0.0], [0.5, 1.0], [3.0, -3.0]]), torch.tensor([0, 0, 1])
        p = logits.softmax(dim=1)[range(3), labels]
        torch.testing.assert_close(focal_loss(logits, labels, 2.0), (-(1 - p) ** 2 * p.log()).mean())
        torch.testing.assert_close(focal_loss(logits, labels, 0.0), loop.F.cross_entropy(logits, labels))
        losses, weights = [], []
        for focus in (0.0, 2.0):
            torch.manual_seed(0)
            model = create_model("none", d_model=8, num_heads=1, num_layers=1, d_ff=8, dropout=0.0)
            (batch,) = make_loader(SortingDataset(self.small_data() / "val.json", max_len=8), 20)
            config = TrainingConfig(focus=focus, epochs=1)
            losses.append(loop.train_epoch(model, [batch], make_optimizer(model, config), config, 1)["loss"])
            weights.append(model.embedding.weight)
        self.assertEqual(*losses)
        self.assertFalse(torch.equal(*weights))

    def test_the_positions_learn_at_their_own_rate(self):
        with mock.patch.object(LearnedPositionalEncoding, "lr_scale", 0.0):
            self.train("still", epochs=1)
        torch.manual_seed(0)
        initial = create_model("learned", d_model=16, num_heads=2, num_layers=1, d_ff=16)
        still = self.weights("still")
        key = "pos_encoding.position_embeddings.weight"
        self.assertTrue(torch.equal(still[key], initial.get_parameter(key)))
        self.assertFalse(torch.equal(still["embedding.weight"], initial.embedding.weight))

    def test_what_cannot_be_resumed_is_said_in_one_line(self):
        self.interrupted("stopped", after=1)
        self.assert_one_line(self.train("stopped", "--resume", "--lr", 0.5),
                             "the interrupted run differs in lr 0.001, now 0.5: give the "
                             "options it had, or train without --resume")
        self.assert_one_line(self.train("stopped", "--resume", "--d-ff", 8), "differs in d_ff 16, now 8")
        state = torch.load(self.folder / "stopped" / "learned" / "resume.pth", weights_only=True)
        for value in ({}, {"log": 3}, state | {"model": {}}, state | {"optimizer": {}}, state | {"optimizer": 3}):
            torch.save(value, self.folder / "stopped" / "learned" / "resume.pth")
            self.assert_one_line(self.train("stopped", "--resume"), "not of such a training run")
        torch.save(torch.zeros(2), self.folder / "stopped" / "learned" / "resume.pth")
        self.assert_one_line(self.train("stopped", "--resume"), "no dict")
        torch.save(state, self.folder / "stopped" / "learned" / "resume.pth")
        (self.folder / "data" / "train.json").write_text((self.folder / "data" / "train.json").read_text() + " ")
        self.assert_one_line(command(train.main, "--data-dir", self.folder / "data", "--output-dir",
                                     self.folder / "stopped", "--epochs", 4,
                                     "--encoding", "learned", *SMALL, "--resume"), "differs in train ")
        (self.folder / "stopped" / "learned" / "resume.pth").write_bytes((self.folder / "stopped" / "learned"
                                                                          / "resume.pth").read_bytes()[:1000])
        self.assert_one_line(self.train("stopped", "--resume"), "damaged")

    def test_a_loss_that_is_not_finite_stops_training(self):
        with mock.patch.object(loop.F, "cross_entropy", return_value=torch.tensor(float("nan"))):
            self.assert_one_line(self.train("run"), "the loss is nan at step 1, learning rate", "--lr")

    def test_bad_options_exit_with_2(self):
        for options in [("--lr", 0), ("--lr", "nan"), ("--dropout", 1), ("--epochs", 0), ("--batch-size", "x"),
                        ("--d-model", 10, "--num-heads", 4),
                        ("--device", "abacus"), ("--device", "meta"), ("--device", "cuda:99"), ("--nonsense",),
                        ("--encoding", "alphabetical"), ("--seed", 10 ** 14), ("--variant", "alphabetical"),
                        ("--variant", "none", "--encoding", "none"), ("--pooling", "min"), ("--d-model", 10 ** 9),
                        ("--d-ff", 10 ** 9), ("--num-layers", 10 ** 9), ("--num-layers", 1000, "--d-model", 8192),
                        ("--batch-size", 10 ** 20)]:
            with self.subTest(options=options):
                self.assert_one_line(command(train.main, "--data-dir", self.small_data(), "--output-dir", self.folder,
                                             *options))

    def test_all_four_are_trained_and_copied_to_both_of_the_handout_s_places(self):
        arguments = ("--data-dir", self.small_data(), "--output-dir", self.folder / "all", "--epochs", 1, *SMALL)
        status, output, errors = command(train.main, *arguments)
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("none: at chance by construction", output)
        for encoding in ("sinusoidal", "learned", "none", "recommended", "unrestricted"):
            for place, name in [("best_models", "best_model.pth"), ("training_logs", "training_log.json"),
                                ("training_logs", "training_curves.png")]:
                self.assertEqual((self.folder / "all" / place / f"{encoding}_{name}").read_bytes(),
                                 (self.folder / "all" / encoding / name).read_bytes())
        (self.folder / "all" / "learned" / "training_log.json").unlink()
        output = command(train.main, *arguments, "--resume")[1]
        self.assertIn("sinusoidal: finished already", output)
        self.assertIn("learned: best epoch 1", output)
        self.assertIn("none: finished already", output)

    def test_missing_data_is_made(self):
        with mock.patch("generate_data.generate", side_effect=lambda folder: self.small_data()) as generate:
            status, *_ = command(train.main, "--data-dir", self.folder / "data", "--output-dir", self.folder / "run",
                                 "--epochs", 1, *SMALL)
        self.assertEqual((status, generate.call_count), (0, 1))

    def test_a_missing_split_is_one_line_that_says_what_to_do(self):
        data = self.small_data()
        (data / "val.json").unlink()
        self.assert_one_line(command(train.main, "--data-dir", data, "--output-dir", self.folder / "run", *SMALL),
                             "val.json", "python generate_data.py")

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
