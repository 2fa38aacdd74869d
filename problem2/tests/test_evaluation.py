"""The measures: AUC by definition, constant predictors seen for what they are, records of the analysis."""

import subprocess
import sys
import unittest

import torch

from dataset import create_dataloaders
from extrapolation.analysis import (accuracy_table, classify, classify_group, evaluation_groups, find_failures,
                                    load_group, measure_attention, measure_group, measure_positions, measure_shift,
                                    moved)
from generate_data import NEGATIVES
from learning.evaluation import area_under_curve, evaluate, evaluating, summarize, wilson_interval
from model import create_model
from positional_encoding import SinusoidalPositionalEncoding
from tests.helpers import RESULTS, Oracle, TemporaryFolder


MEMORY = """
import resource, torch
torch.set_num_threads(1)
from extrapolation.analysis import classify
from model import create_model
model = create_model("local_bias", d_model=8, num_heads=4, num_layers=1, d_ff=8, pooling="lowest").eval()
for _ in range(2):
    classify(model, torch.randint(100, (20, 1024)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


class Measures(unittest.TestCase):
    def test_each_module_has_its_own_mode_again(self):
        model = create_model("none", d_model=8, num_heads=1, num_layers=2, d_ff=8).train()
        model.layers[0].eval()
        modes = [module.training for module in model.modules()]
        with self.assertRaises(ZeroDivisionError), evaluating(model):
            self.assertFalse(any(module.training for module in model.modules()))
            1 / 0
        self.assertEqual([module.training for module in model.modules()], modes)
        batch = {"sequence": torch.tensor([[1, 2]]), "label": torch.tensor([1]),
                 "mask": torch.ones(1, 2, dtype=torch.bool)}
        evaluate(model, [batch])
        self.assertEqual([module.training for module in model.modules()], modes)

    @unittest.skipUnless(sys.platform == "linux", "the memory allocator of Linux")
    def test_memory_does_not_grow_with_the_number_of_long_sequences(self):
        done = subprocess.run([sys.executable, "-c", MEMORY], cwd=RESULTS.parent, capture_output=True, text=True)
        first, second = map(int, done.stdout.split())
        self.assertLess(second - first, 50, "MB more for another twenty sequences")

    def test_auc_is_the_share_of_pairs_in_order(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(2, (60,), generator=generator)
        for scores in (torch.randn(60, generator=generator), torch.randint(4, (60,), generator=generator).float(),
                       torch.zeros(60)):
            pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
            self.assertAlmostEqual(area_under_curve(scores, labels), (sum(pairs) / len(pairs)).item(), places=6)
        self.assertIsNone(area_under_curve(scores, torch.ones(60)))

    def test_wilson_interval(self):
        low, high = wilson_interval(81, 263)  # Newcombe 1998, table I
        self.assertAlmostEqual(low, 0.2553, places=4)
        self.assertAlmostEqual(high, 0.3662, places=4)
        self.assertLess(wilson_interval(10, 10)[0], 0.75)

    def test_a_constant_predictor_is_seen_for_what_it_is(self):
        labels = torch.tensor([0, 1] * 20)
        for answer in (0, 1):
            result = summarize(torch.eye(2)[answer].expand(40, 2), labels)
            self.assertEqual((result["accuracy"], result["auc"], result["sorted_share"]), (0.5, 0.5, answer))


class Analysis(TemporaryFolder):
    def data(self):
        return self.small_data((60, 20, 40), extrapolation=True)

    def test_evaluate(self):
        loader = create_dataloaders(self.data(), 8)[2]
        positives = loader.dataset.labels.float().mean().item()
        right, always = evaluate(Oracle(), loader), evaluate(Oracle(constant=1), loader)
        self.assertEqual((right["n"], right["accuracy"], right["auc"]), (40, 1, 1))
        self.assertAlmostEqual(always["accuracy"], positives)
        self.assertEqual(always["sorted_share"], 1)

    def test_groups_are_measured_by_kind(self):
        data = self.data()
        for group in evaluation_groups([8, 64]):
            sets = load_group(data, group)
            for oracle, accuracy in [(Oracle(), 1), (Oracle(constant=0), 0.5)]:
                records = measure_group(classify_group(oracle, sets), sets, {"encoding": "x", **group})
                self.assertEqual([record["negatives"] for record in records], list(NEGATIVES))
                self.assertEqual({(record["n"], record["accuracy"], record["length"]) for record in records},
                                 {(40, accuracy, group["length"])})
        self.assertEqual([len(labels) for _, labels in load_group(data, group, num_samples=10).values()], [10] * 5)

    def test_shared_sequences_are_classified_alike(self):
        torch.manual_seed(0)
        model, sets = create_model("learned", d_model=16, num_heads=2, num_layers=1,
                                   d_ff=16).eval(), load_group(self.data(), evaluation_groups([12])[0])
        for record, (sequences, labels) in zip(measure_group(classify_group(model, sets), sets, {}), sets.values()):
            expected = summarize(classify(model, sequences), labels)
            for key, value in expected.items():
                torch.testing.assert_close(torch.tensor(record[key]), torch.tensor(value), rtol=1e-5, atol=1e-6,
                                           msg=key)

    def test_failures_are_the_wrong_answers(self):
        sets = load_group(self.data(), evaluation_groups([32])[0])
        self.assertEqual(find_failures(classify_group(Oracle(), sets), sets, {}), [])
        sets = {"one_inversion": sets["one_inversion"]}
        failures = find_failures(classify_group(Oracle(constant=1), sets), sets, {"encoding": "x"}, most=2)
        self.assertEqual([(f["encoding"], f["is_sorted"], len(f["violations"]), len(f["sequence"])) for f in failures],
                         [("x", 0, 1, 32)] * 2)
        i = failures[0]["violations"][0]
        self.assertGreater(failures[0]["sequence"][i], failures[0]["sequence"][i + 1])
        self.assertGreater(failures[0]["probability_sorted"], 0.9)

    def test_a_moved_sequence_gets_the_rows_of_its_new_positions(self):
        for encoding in ("sinusoidal", "learned"):
            torch.manual_seed(0)
            model = create_model(encoding, d_model=16, num_heads=2, num_layers=1, d_ff=16).eval()
            x = torch.randint(100, (3, 16))
            plain = model(x)
            rows = model.pos_encoding(torch.zeros(1, 56, 16))[0, 40:]
            with moved(model, 40):
                torch.testing.assert_close(model.embed(x), model.embedding(x) * 4 + rows)
            self.assertTrue(torch.equal(model(x), plain))
            self.assertGreater((model.embed(x) - model.embedding(x) * 4 - rows).abs().max(), 0.1)

    def test_the_position_control_moves_the_same_sequences(self):
        torch.manual_seed(0)
        model, data = create_model("learned", d_model=16, num_heads=2, num_layers=1, d_ff=16).eval(), self.data()
        records = measure_positions(model, data, 20, {"encoding": "learned"})
        self.assertEqual([(record["encoding"], record["first_position"], record["n"]) for record in records],
                         [("learned", first, 20) for first in (0, 16, 48, 112, 240)])
        sequences, labels = load_group(data, evaluation_groups([16])[0], 20, ["swap"])["swap"]
        self.assertAlmostEqual(records[0]["loss"], summarize(classify(model, sequences), labels)["loss"], places=5)
        self.assertEqual(len({record["loss"] for record in records}), 5)

    def test_shift(self):
        records = measure_shift(SinusoidalPositionalEncoding(16), shifts=(1, 64), positions=200)
        for record in records:
            self.assertLess(record["max_error_float64"], 1e-10)
            self.assertTrue(record["max_error_float64"] < record["max_error_float32"] < 1e-5)

    def test_attention_with_nothing_to_tell_keys_apart_is_even(self):
        torch.manual_seed(0)
        model = create_model("none", d_model=16, num_heads=2, num_layers=2, d_ff=16, dropout=0.0).eval()
        records = measure_attention(model, torch.full((3, 40), 7), 16, {"encoding": "none"})
        self.assertEqual([(record["layer"], record["keys_from"], record["keys_to"]) for record in records[:3]],
                         [(0, 0, 15), (0, 16, 31), (0, 32, 39)])
        for record in records:
            self.assertAlmostEqual(record["score_mean"], 0, places=4)
            self.assertAlmostEqual(record["weight_ratio"], 1, places=4)
            self.assertAlmostEqual(record["entropy_share"], 1, places=4)

    def test_table(self):
        records = [{"set": "length", "encoding": "x", "length": n, "negatives": "swap", "accuracy": a}
                   for n, a in [(16, 0.75), (8, 1.0)]]
        self.assertEqual(accuracy_table(records, ("swap",)).split(), ["swap", "8", "16", "x", "100.0%", "75.0%"])
