"""Training: the loss, the best epoch, results replaced together, bad runs that stop in a line."""

import contextlib
import io
import json
import unittest
from unittest import mock

from support import files
from support.files import locked, weights_digest

import torch
from torch.nn import functional as F

import train
from dataset import (
    ORDERS,
    PAD_TOKEN,
    AdditionDataset,
    create_dataloaders,
    decode_problems,
    encode_problems,
    in_order,
    shift_right,
)
from heads.exhaustive import all_pairs, find_unseen
from model import load_model
from tests.helpers import command, without_pictures
from tests.small import TINY, Oracle, SmallData, small_model
from train import (
    TrainingConfig,
    evaluate,
    exchange_digits,
    focal_loss,
    learning_rate,
    score_tokens,
)


class Loss(unittest.TestCase):
    logits = torch.randn(5, 4, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.randint(10, (5, 4), generator=torch.Generator().manual_seed(1))

    def test_without_focus_is_the_cross_entropy(self):
        expected = F.cross_entropy(self.logits.flatten(0, 1), self.target.flatten())
        for value in focal_loss(self.logits, self.target, 0.0):
            torch.testing.assert_close(value, expected)

    def test_is_the_mean_weighted_by_what_is_missing_to_certainty(self):
        p = self.logits.softmax(-1).gather(2, self.target.unsqueeze(2)).squeeze(2)
        for focus in (1.0, 2.0):
            expected = ((1 - p) ** focus * -p.log()).sum() / ((1 - p) ** focus).sum()
            loss, _ = focal_loss(self.logits, self.target, focus)
            torch.testing.assert_close(loss, expected)

    def test_weights_pass_no_gradient_and_padding_does_not_count(self):
        logits, target = self.logits.clone().requires_grad_(), self.target.clone()
        target[2, 1:] = PAD_TOKEN
        focal_loss(logits, target, 1.0)[0].backward()
        self.assertEqual(logits.grad[2, 1:].abs().sum(), 0)
        real = target != PAD_TOKEN
        p = logits.detach().softmax(-1)[real]
        weights = 1 - p.gather(1, target[real].unsqueeze(1))
        expected = weights / weights.sum() * (p - F.one_hot(target[real], 13))
        torch.testing.assert_close(logits.grad[real], expected)

    def test_the_learning_rate_rises_linearly_then_falls_along_a_cosine(self):
        config = TrainingConfig(lr=1.0, warmup=0.1)
        rates = [learning_rate(step, 100, config) for step in range(100)]
        self.assertEqual(rates, sorted(rates[:11]) + sorted(rates[11:], reverse=True))
        for step, rate in [(0, 1 / 11), (10, 1), (55, 0.5)]:
            self.assertAlmostEqual(rates[step], rate)
        self.assertLess(rates[99], 0.001)

    def test_matrices_decay_and_biases_and_norms_do_not(self):
        model = small_model()
        decayed, others = train.make_optimizer(model, TrainingConfig(weight_decay=0.3)).param_groups
        self.assertEqual((decayed["weight_decay"], others["weight_decay"]), (0.3, 0))
        self.assertEqual({p.dim() for p in decayed["params"]}, {2})
        self.assertEqual({p.dim() for p in others["params"]}, {1})
        both = len(decayed["params"]) + len(others["params"])
        self.assertEqual(both, len(list(model.parameters())))

    def test_a_matrix_that_two_layers_share_is_stepped_once(self):
        model = small_model()
        model.output_projection.weight = model.embedding.weight
        groups = train.make_optimizer(model, TrainingConfig()).param_groups
        given = [id(parameter) for group in groups for parameter in group["params"]]
        self.assertEqual(sorted(given), sorted(id(each) for each in model.parameters()))

    def test_where_there_is_no_fused_step_the_plain_one_is_taken(self):
        def adamw(groups, fused=False, make=torch.optim.AdamW, **options):
            if fused:
                raise RuntimeError("`fused=True` requires all the params to be on a GPU")
            return make(groups, **options)

        with mock.patch.object(torch.optim, "AdamW", adamw):
            optimizer = train.make_optimizer(small_model(), TrainingConfig(beta2=0.5))
        self.assertEqual((optimizer.defaults["fused"], optimizer.defaults["betas"][1]), (None, 0.5))


class Exchange(unittest.TestCase):
    source, target = encode_problems(*(1 + torch.arange(60) % 9).view(10, 2, 3).unbind(1))

    def test_some_columns_are_exchanged_and_the_sum_stays(self):
        torch.manual_seed(0)
        shown = exchange_digits(self.source, 0.5)
        (a, b), (c, d) = decode_problems(self.source), decode_problems(shown)
        exchanged = (c == b) & (d == a)
        self.assertTrue((exchanged | ((c == a) & (d == b))).all())
        for column in range(3):
            self.assertTrue(0 < exchanged[:, column].sum() < 10)
        self.assertGreater(len(exchanged.unique(dim=0)), 3)  # columns are drawn apart
        self.assertTrue(encode_problems(c, d)[0].equal(shown))
        self.assertTrue(encode_problems(c, d)[1].equal(self.target))

    def test_the_draw_follows_the_seed_and_zero_exchanges_none(self):
        drawn = []
        for _ in range(2):
            torch.manual_seed(1)
            drawn.append(exchange_digits(self.source, 0.5))
        self.assertTrue(drawn[0].equal(drawn[1]))
        self.assertTrue(exchange_digits(self.source, 0.0).equal(self.source))

    def test_what_training_may_show_is_not_unseen(self):
        torch.manual_seed(0)
        shown = torch.cat([exchange_digits(self.source, 0.5) for _ in range(40)])
        self.assertFalse(find_unseen(*decode_problems(shown), self.source).any())
        pairs = all_pairs(3)
        shown = {tuple(row) for row in torch.cat(decode_problems(shown), dim=1).tolist()}
        seen = torch.cat(pairs, dim=1)[~find_unseen(*pairs, self.source)].tolist()
        self.assertEqual(shown, set(map(tuple, seen)))


class Scores(SmallData):
    def test_one_wrong_digit_is_counted_wherever_it_stands(self):
        gold = torch.tensor([[0, 5, 0, 6], [1, 0, 0, 0]])
        self.assertEqual(score_tokens(gold, gold), (8, 8, 2))
        for row in range(2):
            for column in range(4):
                wrong = gold.clone()
                wrong[row, column] = (wrong[row, column] + 1) % 10
                self.assertEqual(score_tokens(wrong, gold), (7, 8, 1))

    def test_padding_is_not_scored(self):
        target = torch.tensor([[0, 3, PAD_TOKEN], [1, 2, 3]])
        self.assertEqual(score_tokens(torch.tensor([[0, 3, 7], [1, 2, 3]]), target), (5, 5, 2))

    def evaluate(self, wrong=lambda target: target):
        self.loader = create_dataloaders(self.small_data(3, (20, 300, 20)), 64)[1]
        return evaluate(Oracle(wrong=wrong), self.loader)

    def test_a_model_that_knows_the_answers(self):
        result = self.evaluate()
        shares = "exact_match", "token_accuracy", "teacher_forced_exact_match"
        self.assertEqual([result[share] for share in shares], [1, 1, 1])
        self.assertEqual((result["n"], result["exact_match_interval"][1]), (300, 1))
        self.assertLess(result["loss"], 1e-6)

    def test_a_wrong_zero_and_a_wrong_first_digit_are_counted(self):
        def zeros_wrong(target):
            last = torch.arange(4) == 3
            return torch.where(last & (target == 0), 9, target)

        result = self.evaluate(zeros_wrong)
        zeros = (self.loader.dataset.targets[:, -1] == 0).sum().item()
        self.assertGreater(zeros, 0)
        self.assertAlmostEqual(result["exact_match"], 1 - zeros / 300)
        self.assertAlmostEqual(result["token_accuracy"], 1 - zeros / 1200)

        result = self.evaluate(lambda target: torch.where(torch.arange(4) == 0, 1 - target, target))
        self.assertEqual((result["exact_match"], result["token_accuracy"]), (0, 0.75))

    def test_one_pass_with_teacher_forcing_finds_what_greedy_decoding_gets_wrong(self):
        model = small_model(num_encoder_layers=1, num_decoder_layers=1).train()
        loader = create_dataloaders(self.small_data(1, (40, 20, 21)), 8)[2]
        source, target = loader.dataset.inputs, loader.dataset.targets
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(30):  # until some answers are right and some are not
            loss = F.cross_entropy(model(source, shift_right(target)).mT, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        result = evaluate(model, loader)
        answers = model.generate(source, 2)
        right = (answers == target).all(dim=1)
        self.assertTrue(0 < right.sum() < len(right))
        self.assertAlmostEqual(result["exact_match"], right.float().mean().item(), places=6)
        share = (answers == target).float().mean().item()
        self.assertAlmostEqual(result["token_accuracy"], share, places=6)
        self.assertTrue(model.training, "the model is left in the mode it was in")


class Train(SmallData):
    def setUp(self):
        super().setUp()
        self.enterContext(without_pictures())

    def train(self, name, *options, epochs=4, sizes=(40, 20, 20)):
        folders = "--data-dir", self.small_data(sizes=sizes), "--output-dir", self.folder / name
        return command(train.main, *folders, "--epochs", epochs, *TINY, *options)

    def digest(self, name):
        return weights_digest(load_model(self.folder / name / "best_model.pth"))

    def log(self, name):
        return json.loads((self.folder / name / "training_log.json").read_text())

    def test_leaves_weights_log_and_curves(self):
        status, output, errors = self.train("run")
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(output.count("\n"), 5, "a line an epoch, and one at the end")
        names = {"best_model.pth", "training_curves.png", "training_log.json"}
        self.assertEqual(self.contents(self.folder / "run").keys(), names)
        log = self.log("run")
        losses = [epoch["train"]["loss"] for epoch in log["epochs"]]
        self.assertEqual(len(losses), 4)
        self.assertLess(losses[3], losses[0])
        best = max(log["epochs"], key=lambda epoch: (epoch["val"]["exact_match"], epoch["epoch"]))
        self.assertEqual((log["best_epoch"], log["test"]["n"]), (best["epoch"], 20))
        model = load_model(self.folder / "run" / "best_model.pth")
        digest = files.file_digest(self.folder / "data" / "train.json")
        self.assertEqual(
            model.training_info, {"num_digits": 1, "order": ORDERS[0], "train_sha256": digest}
        )
        self.assertEqual(log["weights_sha256"], weights_digest(model))

    def test_the_weights_kept_are_those_of_the_best_epoch(self):
        values = {"n": 20, "exact_match_interval": [0, 1], "token_accuracy": 0.5, "loss": 1.0}
        matches, digests = [0.1, 0.6, 0.6, 0.2, 0.6], []

        def evaluate(model, loader):
            digests.append(weights_digest(model))
            return values | {"exact_match": matches[len(digests) - 1]}

        with mock.patch.object(train, "evaluate", evaluate):
            self.train("run")
        self.assertEqual(self.log("run")["best_epoch"], 3)
        self.assertEqual(len(set(digests)), 4)
        self.assertEqual((self.digest("run"), digests[4]), (digests[2], digests[2]))

    def test_the_same_seed_gives_the_same_bits_and_another_does_not(self):
        for name, seed in [("one", 3), ("two", 3), ("three", 4)]:
            self.train(name, "--seed", seed, epochs=1)
        self.assertEqual(self.digest("one"), self.digest("two"))
        self.assertNotEqual(self.digest("one"), self.digest("three"))

    def test_it_learns_in_either_order_of_writing(self):
        data = self.small_data(sizes=(75, 3, 3))
        config = TrainingConfig(epochs=60, batch_size=8, lr=0.01)
        sizes = {"num_encoder_layers": 1, "num_decoder_layers": 1, "d_model": 16, "num_heads": 2}
        model = train.make_model(0, "cpu", d_ff=16, dropout=0, **sizes)
        with contextlib.redirect_stdout(io.StringIO()):
            train.train(model, config, data, self.folder / "run", order=ORDERS[1])
        model = load_model(self.folder / "run" / "best_model.pth")
        self.assertEqual(model.training_info["order"], ORDERS[1])
        problems = AdditionDataset(data / "train.json")
        answers = in_order(model.generate(problems.inputs, 2), ORDERS[1])
        self.assertGreater((answers == problems.targets).all(dim=1).float().mean(), 0.7)

    def test_an_interrupted_run_changes_nothing(self):
        self.train("run", epochs=1)
        before, original = self.contents(self.folder / "run"), train.train_epoch

        def train_epoch(model, loader, optimizer, config, epoch):
            if epoch == 3:
                raise KeyboardInterrupt
            return original(model, loader, optimizer, config, epoch)

        with mock.patch.object(train, "train_epoch", train_epoch):
            self.assert_one_line(self.train("run"), "interrupted", "unchanged", status=130)
        self.assertEqual(self.contents(self.folder / "run"), before)

    def test_a_full_disk_and_a_second_run_are_one_line_and_change_nothing(self):
        self.train("run", epochs=1)
        before = self.contents(self.folder / "run")
        with mock.patch.object(files.os, "fsync", side_effect=OSError(28, "No space left")):
            # The data are there already, so that the first file to be written is a result.
            with mock.patch.object(self, "small_data", lambda sizes: self.folder / "data"):
                self.assert_one_line(self.train("run", epochs=1), "best_model.pth: No space left")
        with locked(self.folder / "run"):
            self.assert_one_line(self.train("run", epochs=1), "another run is writing to")
        self.assertEqual(self.contents(self.folder / "run"), before)

    def test_records_of_other_weights_are_named(self):
        for name in ("exhaustive", "head_analysis/carry"):
            files.write_json(self.folder / "run" / f"{name}.json", {files.WEIGHTS_DIGEST: "other"})
        output = self.train("run", epochs=1)[1]
        self.assertRegex(output, "of other weights now: exhaustive.json, head_analysis.carry.json")
        self.assertIn(f"python analyze.py --results-dir {self.folder / 'run'}", output)

    def test_a_loss_that_is_not_finite_stops_training(self):
        bad = torch.tensor(float("nan")), torch.tensor(1.0)
        with mock.patch.object(train, "focal_loss", return_value=bad):
            self.assert_one_line(self.train("run"), "the loss is nan at step 1, ", "lower --lr")

    def test_bad_options_exit_with_2(self):
        (self.folder / "file").write_text("kept")
        bad = "--lr=0 --lr=nan --dropout=1 --epochs=0 --batch-size=x --d-model=10 --device=abacus "
        bad += f"--seed={10**14} --batch-size={10**20} --d-model={10**9} --num-layers={10**9} --x "
        for options in [*bad.split(), f"--output-dir={self.folder / 'file' / 'run'}"]:
            with self.subTest(options):
                self.assert_one_line(self.train("run", "--num-heads=4", options, epochs=1))
        large = "--num-layers=1000", "--d-model=8192"
        self.assert_one_line(self.train("run", *large, epochs=1), "parameters; the most is")
        self.assertEqual((self.folder / "file").read_text(), "kept")

    def test_missing_data_is_made(self):
        def generate(folder, n):
            return self.small_data()

        options = "--data-dir", self.folder / "data", "--output-dir", self.folder / "run"
        with mock.patch("generate_data.generate", side_effect=generate) as made:
            status, *_ = command(train.main, *options, "--epochs", 1, *TINY)
        self.assertEqual((status, made.call_count), (0, 1))

    def test_a_last_step_that_breaks_the_weights_stops_training(self):
        bad = {"loss": float("nan"), "exact_match": 0.0}
        with mock.patch.object(train, "evaluate", return_value=bad):
            self.assert_one_line(self.train("run"), "validation is nan after epoch 1", "lower --lr")
