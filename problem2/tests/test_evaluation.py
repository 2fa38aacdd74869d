"""The measures by their definitions, the test sets of a group, and records of the answers."""

import unittest

from support.cli import UserError

import torch

from dataset import create_dataloaders
from extrapolation.analysis import (
    MAIN_KINDS,
    accuracy_table,
    classify,
    classify_group,
    evaluation_groups,
    find_failures,
    find_models,
    load_group,
    measure_group,
)
from extrapolation.evaluation import area_under_curve, evaluate, summarize
from generate_data import NEGATIVES
from model import create_model
from tests.helpers import TemporaryFolder
from tests.small import SIZES, Oracle, SmallData, save, small_model


class Measures(unittest.TestCase):
    def test_auc_is_the_share_of_pairs_in_order(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(2, (60,), generator=generator)
        for scores in (
            torch.randn(60, generator=generator),
            torch.randint(4, (60,), generator=generator).float(),
            torch.zeros(60),
        ):
            positives, negatives = scores[labels == 1], scores[labels == 0]
            wins = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
            share = (sum(wins) / len(wins)).item()
            self.assertAlmostEqual(area_under_curve(scores, labels), share, places=6)
        self.assertIsNone(area_under_curve(scores, torch.ones(60)))

    def test_a_constant_answer_is_seen(self):
        labels = torch.tensor([0, 1] * 20)
        for answer in (0, 1):
            result = summarize(torch.eye(2)[answer].expand(40, 2), labels)
            found = result["accuracy"], result["auc"], result["sorted_share"]
            self.assertEqual(found, (0.5, 0.5, answer))


class Analysis(SmallData):
    def test_evaluate(self):
        loader = create_dataloaders(self.small_data((60, 20, 40)), 8)[2]
        right, always = evaluate(Oracle(), loader), evaluate(Oracle(constant=1), loader)
        self.assertEqual((right["n"], right["accuracy"], right["auc"]), (40, 1, 1))
        self.assertAlmostEqual(always["accuracy"], loader.dataset.labels.float().mean().item())
        model = create_model("none", **SIZES).train()
        self.assertEqual(evaluate(model, loader)["loss"], evaluate(model, loader)["loss"])
        self.assertTrue(model.training, "its mode is given back")

    def test_groups_are_measured_by_kind(self):
        data = self.small_data((60, 20, 40), extrapolation=True)
        for group in evaluation_groups([8, 64]):
            sets = load_group(data, group)
            for oracle, accuracy in [(Oracle(), 1), (Oracle(constant=0), 0.5)]:
                logits = classify_group(oracle, sets)
                records = measure_group(logits, sets, {"encoding": "x", **group})
                self.assertEqual([record["negatives"] for record in records], list(NEGATIVES))
                for record in records:
                    found = [record[key] for key in ("n", "accuracy", "length", "encoding")]
                    self.assertEqual(found, [40, accuracy, group["length"], "x"])
        few = load_group(data, group, num_samples=10).values()
        self.assertEqual([labels.tolist() for _, labels in few], [[1] * 5 + [0] * 5] * 5)

    def test_shared_sequences_are_classified_as_if_alone(self):
        data = self.small_data((60, 20, 40), extrapolation=True)
        model, sets = small_model("learned").float(), load_group(data, {"length": 12})
        together = classify_group(model, sets, batch_size=7)
        for kind, (sequences, _) in sets.items():
            torch.testing.assert_close(together[kind], model(sequences).detach())
            torch.testing.assert_close(classify(model, sequences), together[kind])

    def test_failures_are_the_wrong_answers(self):
        data = self.small_data((60, 20, 40), extrapolation=True)
        sets = load_group(data, {"length": 32}, kinds=["one_inversion"])
        self.assertEqual(find_failures(classify_group(Oracle(), sets), sets, {}), [])
        logits = classify_group(Oracle(constant=1), sets)
        failures = find_failures(logits, sets, {"encoding": "x"}, most=2)
        self.assertEqual(
            [(each["encoding"], each["is_sorted"]) for each in failures], [("x", 0)] * 2
        )
        for failure in failures:
            sequence, (place,) = failure["sequence"], failure["violations"]
            self.assertEqual(len(sequence), 32)
            self.assertGreater(sequence[place], sequence[place + 1])
            self.assertGreater(failure["probability_sorted"], 0.9)

    def test_table(self):
        def record(encoding, length, accuracy, auc):
            names = {"set": "length", "encoding": encoding, "negatives": MAIN_KINDS[0]}
            return {**names, "length": length, "accuracy": accuracy, "auc": auc}

        records = [record("x", 16, 0.75, 1.0), record("x", 8, 1.0, 1.0), record("y", 8, 0.5, 0.9)]
        rows = [line.split() for line in accuracy_table(records).splitlines()][:6]
        expected = [["swap,", "accuracy", "8", "16"], ["x", "100.0%", "75.0%"], ["y", "50.0%", "-"]]
        expected += [["swap,", "auc", "8", "16"], ["x", "1.00", "1.00"], ["y", "0.90", "-"]]
        self.assertEqual(rows, expected)


class Models(TemporaryFolder):
    def test_the_required_come_first_and_then_the_others_by_name(self):
        with self.assertRaisesRegex(UserError, "no trained model.*python train.py"):
            find_models(self.folder)
        for name in ("none", "mine", "sinusoidal", "beyond/recommended", "beyond/none"):
            save(self.folder / name / "best_model.pth", create_model("none", **SIZES))
        (self.folder / "empty").mkdir()
        found = find_models(self.folder)
        self.assertEqual(list(found), ["sinusoidal", "none", "mine", "recommended"])
        path = self.folder / "beyond" / "recommended" / "best_model.pth"
        self.assertEqual(found["recommended"], path)
        self.assertEqual(found["none"], self.folder / "none" / "best_model.pth")
