"""Training: the best epoch is kept, results are replaced together, bad runs stop in one line."""

import errno
import json
import os
from unittest import mock

from support import files

import torch

import train
from dataset import SortingDataset, make_loader
from generate_data import generate
from model import create_model, load_model
from positional_encoding import REQUIRED, LearnedPositionalEncoding
from tests.helpers import command, without_pictures
from tests.small import SIZES, SMALL, SmallData
from train import TrainingConfig, focal_loss, learning_rate, make_optimizer, train_epoch


class Parts(SmallData):
    def test_the_learning_rate_rises_linearly_then_falls_along_a_cosine(self):
        config = TrainingConfig(lr=1.0, warmup=0.1)
        rates = [learning_rate(step, 100, config) for step in range(100)]
        self.assertEqual(rates, sorted(rates[:11]) + sorted(rates[11:], reverse=True))
        for step, rate in [(10, max(rates)), (10, 1), (0, 1 / 11), (55, 0.5)]:
            self.assertAlmostEqual(rates[step], rate)
        self.assertLess(rates[99], 0.001)

    def test_where_there_is_no_fused_step_the_plain_one_is_taken(self):
        def adamw(groups, fused=False, make=torch.optim.AdamW, **options):
            if fused:
                raise RuntimeError("`fused=True` requires all the params to be on a GPU")
            return make(groups, **options)

        with mock.patch.object(torch.optim, "AdamW", adamw):
            optimizer = make_optimizer(create_model(**SIZES), TrainingConfig(beta2=0.5))
        self.assertEqual((optimizer.defaults["fused"], optimizer.defaults["betas"][1]), (None, 0.5))

    def test_focal_loss_is_its_formula(self):
        logits = torch.tensor([[2.0, 0.0], [0.5, 1.0], [3.0, -3.0]])
        labels = torch.tensor([0, 0, 1])
        p = logits.softmax(dim=1)[range(3), labels]
        for focus in (0.0, 2.0):
            loss, plain = focal_loss(logits, labels, focus)
            torch.testing.assert_close(loss, (-((1 - p) ** focus) * p.log()).mean())
            torch.testing.assert_close(plain, -p.log().mean())

    def test_the_log_holds_the_cross_entropy_whatever_the_focus(self):
        dataset = SortingDataset(self.small_data() / "val.json", max_len=8)
        losses, weights = [], []
        for focus in (0.0, 2.0):
            torch.manual_seed(0)
            model = create_model("none", **SIZES, dropout=0.0)
            config = TrainingConfig(focus=focus, epochs=1)
            optimizer = make_optimizer(model, config)
            losses.append(
                train_epoch(model, make_loader(dataset, 20), optimizer, config, 1)["loss"]
            )
            weights.append(model.embedding.weight)
        self.assertEqual(*losses)
        self.assertFalse(torch.equal(*weights))

    def test_weight_decay_is_for_matrices_and_not_for_positions(self):
        model = create_model("learned", **SIZES)
        decayed = {}
        for group in make_optimizer(model, TrainingConfig()).param_groups:
            decayed |= {id(each): group["weight_decay"] > 0 for each in group["params"]}
        for name, parameter in model.named_parameters():
            expected = parameter.dim() > 1 and not name.startswith("pos_encoding")
            self.assertEqual(decayed.pop(id(parameter)), expected, name)
        self.assertEqual(decayed, {})


class Train(SmallData):
    def setUp(self):
        super().setUp()
        self.data = self.small_data()
        self.enterContext(without_pictures())

    def train(self, name, *options, epochs=1, encoding="learned"):
        folders = "--data-dir", self.data, "--output-dir", self.folder / name
        arguments = "--encoding", encoding, *folders, "--epochs", epochs, *SMALL, *options
        return command(train.main, *arguments)

    def log(self, name):
        return json.loads((self.folder / name / "learned" / "training_log.json").read_text())

    def weights(self, name):
        model = load_model(self.folder / name / "learned" / "best_model.pth")
        return dict(model.named_parameters())

    def test_leaves_weights_log_and_curves(self):
        status, output, errors = self.train("run", epochs=4)
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(output.count("\n"), 5, "a line for each epoch, and one at the end")
        folder = self.folder / "run" / "learned"
        names = ["best_model.pth", "training_curves.png", "training_log.json"]
        self.assertEqual(sorted(path.name for path in folder.iterdir()), names)
        log, model = self.log("run"), load_model(folder / "best_model.pth")
        losses = [epoch["train"]["loss"] for epoch in log["epochs"]]
        self.assertEqual((len(losses), losses[3] < losses[0]), (4, True))
        best = max(log["epochs"], key=lambda epoch: (epoch["val"]["accuracy"], epoch["epoch"]))
        self.assertEqual((log["best_epoch"], log["test"]["n"]), (best["epoch"], 20))
        self.assertEqual(log["weights_sha256"], files.weights_digest(model))
        digest = files.file_digest(self.data / "train.json")
        self.assertEqual(log["data_sha256"]["train"], digest)
        self.assertEqual(model.training_info, {"train_sha256": digest})

    def test_the_weights_kept_are_those_of_the_best_epoch(self):
        seen = []

        def evaluate(model, loader):
            seen.append(model.embedding.weight.detach().clone())
            accuracy = [0.1, 0.6, 0.6, 0.2, 0.6][len(seen) - 1]
            return {"accuracy": accuracy, "loss": 1, "n": 20, "accuracy_interval": [0, 1]}

        with mock.patch.object(train, "evaluate", evaluate):
            self.train("run", epochs=4)
        self.assertEqual(self.log("run")["best_epoch"], 3)
        kept = self.weights("run")["embedding.weight"]
        self.assertEqual(
            [torch.equal(kept, each) for each in seen], [False, False, True, False, True]
        )

    def test_the_same_seed_gives_identical_weights_and_another_does_not(self):
        for name, seed in [("one", 3), ("two", 3), ("three", 4)]:
            self.train(name, "--seed", seed)
        one, two, three = map(self.weights, ("one", "two", "three"))
        for name in one:
            self.assertTrue(torch.equal(one[name], two[name]), name)
        self.assertFalse(torch.equal(one["embedding.weight"], three["embedding.weight"]))

    def test_the_positions_learn_at_their_own_rate(self):
        with mock.patch.object(LearnedPositionalEncoding, "lr_scale", 0.0):
            self.train("still")
        torch.manual_seed(0)
        initial, still = create_model("learned", **SIZES), self.weights("still")
        rows = "pos_encoding.position_embeddings.weight"
        self.assertTrue(torch.equal(still[rows], initial.get_parameter(rows)))
        self.assertFalse(torch.equal(still["embedding.weight"], initial.embedding.weight))

    def test_results_change_together_or_not_at_all(self):
        self.train("run")
        before = self.contents(self.folder / "run")
        no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        broken = mock.Mock(side_effect=[None, None, no_space])
        memory = RuntimeError("DefaultCPUAllocator: can't allocate memory: 57 GB")
        for patch, status, words in [
            (mock.patch.object(files.os, "fsync", broken), 2, "No space left"),
            (mock.patch.object(train, "evaluate", side_effect=KeyboardInterrupt), 130, "unchanged"),
            (mock.patch.object(train, "train_epoch", side_effect=memory), 2, "--batch-size"),
        ]:
            with self.subTest(words), patch:
                self.assert_one_line(self.train("run", "--seed=1"), words, status=status)
            self.assertEqual(self.contents(self.folder / "run"), before)
        self.train("run", "--seed=1")
        self.assertNotEqual(self.contents(self.folder / "run"), before)

    def test_records_of_other_weights_are_named(self):
        self.train("run")
        path = self.folder / "run" / "extrapolation" / "extrapolation_results.json"
        digests = {"learned": self.log("run")["weights_sha256"], "none": "other"}
        files.write_json(path, {"weights_sha256": digests})
        self.assertNotIn("other weights", self.train("run")[1])
        output = self.train("run", "--seed", 1)[1]
        self.assertIn(f"of other weights now: {path}", output)
        self.assertIn(f"python analyze.py --results-dir {self.folder / 'run'}\n", output)

    def test_positions_reach_the_longest_sequence(self):
        self.data = self.folder / "long"
        generate(self.data, 641, 8, 4, 4, 300, 301, generate_extrapolation=False)
        for encoding in ("learned", "sinusoidal"):
            self.assertEqual(self.train("run", encoding=encoding)[0], 0)
            model = load_model(self.folder / "run" / encoding / "best_model.pth")
            self.assertEqual(model.config.max_len, 301)

    def test_what_cannot_be_trained_is_one_line(self):
        nan = torch.tensor([float("nan")] * 8)
        with mock.patch.object(train.F, "cross_entropy", return_value=nan.mean()):
            self.assert_one_line(self.train("run"), "the loss is nan at step 1", "--lr")

    def test_a_last_step_that_breaks_the_weights_stops_training(self):
        bad = {"loss": float("nan"), "accuracy": 0.5}
        with mock.patch.object(train, "evaluate", return_value=bad):
            self.assert_one_line(self.train("run"), "validation is nan after epoch 1", "--lr")
        with mock.patch.object(train, "MOST_POSITIONS", 15):
            self.assert_one_line(self.train("run"), "a sequence of 16 values; the most is 15")
        (self.folder / "file").write_text("kept")
        self.assert_one_line(self.train("file/run"), "file")
        self.assertEqual((self.folder / "file").read_text(), "kept")
        (self.data / "val.json").unlink()
        self.assert_one_line(self.train("run"), "val.json", "python generate_data.py")
        self.assertEqual([path.name for path in (self.folder / "run").iterdir()], [".lock"])

    def test_bad_options_are_one_line(self):
        sizes = (
            "--d-model=1000000000",
            "--num-layers=1000000000",
            "--num-layers=1000 --d-model=8192",
        )
        devices = "--device=abacus", "--device=meta", "--device=cuda:99"
        counts = "--epochs=0", "--batch-size=x", f"--batch-size={10**20}", f"--seed={10**14}"
        rates = "--lr=0", "--lr=nan", "--dropout=1", "--d-model=10 --num-heads=4"
        for options in (*sizes, *devices, *counts, *rates, "--nonsense", "--encoding=alphabetical"):
            with self.subTest(options=options):
                self.assert_one_line(self.train("run", *options.split()))

    def test_the_three_are_trained_and_copied_to_both_places_of_the_handout(self):
        with mock.patch("generate_data.generate", side_effect=lambda *_: self.small_data()) as made:
            folders = "--data-dir", self.data, "--output-dir", self.folder / "all"
            for path in self.data.glob("*.json"):
                path.unlink()
            status, output, errors = command(train.main, *folders, "--epochs", 1, *SMALL)
        self.assertEqual((status, errors, made.call_count), (0, "", 1), "missing data are made")
        self.assertIn("none: at chance by construction", output)
        for encoding in REQUIRED:
            for place, name in [
                ("best_models", "best_model.pth"),
                ("training_logs", "training_log.json"),
                ("training_logs", "training_curves.png"),
            ]:
                copy = self.folder / "all" / place / f"{encoding}_{name}"
                original = self.folder / "all" / encoding / name
                self.assertEqual(copy.read_bytes(), original.read_bytes())
