"""The benchmark compares like with like: the reference computes the same, the floor does the same products."""

import json
import math
import unittest

import torch

import benchmark
from model import SortingClassifier
from speed.measuring import compare, fitted_exponent, peak_memory, products_alone, time_to_quality, times_in_turn
from speed.references import PyTorchClassifier
from tests.helpers import RESULTS

SIZES = dict(vocab_size=101, d_model=24, num_heads=3, num_layers=2, d_ff=40, dropout=0.0)


class References(unittest.TestCase):
    def test_the_model_of_pytorch_s_parts_computes_the_same(self):
        torch.manual_seed(0)
        ours, theirs = SortingClassifier(**SIZES).double(), PyTorchClassifier(**SIZES).double()
        theirs.embedding.load_state_dict(ours.embedding.state_dict())
        theirs.classifier.load_state_dict(ours.classifier.state_dict())
        theirs.encoder.norm.load_state_dict(ours.norm.state_dict())
        for mine, other in zip(ours.layers, theirs.encoder.layers):
            attention = mine.self_attn
            other.self_attn.in_proj_weight.data = torch.cat([attention.W_q.weight, attention.W_k.weight,
                                                             attention.W_v.weight]).data
            other.self_attn.in_proj_bias.data = torch.cat([attention.W_q.bias, attention.W_k.bias,
                                                           attention.W_v.bias]).data
            other.self_attn.out_proj.load_state_dict(attention.W_o.state_dict())
            for name in ("linear1", "linear2", "norm1", "norm2"):
                getattr(other, name).load_state_dict(getattr(mine, name).state_dict())
        x = torch.randint(100, (3, 7))
        mask = torch.arange(7) < torch.tensor([7, 5, 1]).unsqueeze(1)
        for given in (None, mask):
            torch.testing.assert_close(theirs(x, given), ours(x, given), rtol=0, atol=1e-12)
        self.assertEqual(*(sum(p.numel() for p in model.parameters()) for model in (ours, theirs)))


class Measuring(unittest.TestCase):
    def test_the_floor_has_the_products_of_forward_and_backward(self):
        layer, x = torch.nn.Linear(5, 7), torch.randn(3, 4, 5)
        _, forward = products_alone(lambda: layer(x))
        _, both = products_alone(lambda: layer(x).sum().backward())
        self.assertEqual((forward, both), (12 * 5 * 7, 2 * 12 * 5 * 7))  # the input needs no gradient
        q = torch.randn(2, 3, 8, 4, requires_grad=True)
        floor, multiplications = products_alone(lambda: (q @ q.transpose(-2, -1)).square().sum().backward())
        self.assertEqual(multiplications, 3 * 6 * 8 * 8 * 4)
        floor()

    def test_peak_memory_counts_what_is_held_at_once(self):
        self.assertEqual(peak_memory(lambda: [torch.zeros(1000) for _ in range(3)]), 12_000)
        self.assertEqual(peak_memory(lambda: [torch.zeros(1000).sum().item() for _ in range(3)]), 4_004)

    def test_comparison_is_within_rounds(self):
        record = compare({"a": [2.0, 40.0, 6.0], "b": [1.0, 10.0, 2.0]}, "a", "b")
        self.assertEqual((record["ratio"], record["ratio_quartiles"], record["seconds"]),
                         (3, [2.5, 3.5], {"a": 6, "b": 2}))
        order = []
        times = times_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 0)
        self.assertEqual(("".join(order), len(times["a"])), ("aabb" + "abab", 2))

    def test_exponent_and_time_to_quality(self):
        self.assertAlmostEqual(fitted_exponent([1, 2, 4], [3, 12, 48]), 2)
        curves = [[[1.0, 10, 0.5], [2.0, 20, 1.0]], [[1.5, 10, 0.9], [3.0, 20, 0.95]]]
        half, full = time_to_quality(curves, [0.5, 1.0])
        self.assertEqual((half["reached"], half["seconds"], half["samples"]), (2, [1.0, 1.25, 1.5], [10, 10, 10]))
        self.assertEqual((full["runs"], full["reached"], full["seconds"]), (2, 1, [2.0, 2.0, 2.0]))
        self.assertNotIn("seconds", time_to_quality(curves, [2.0])[0])

    def test_a_section_and_its_figure(self):
        records = benchmark.measure_attention(1, 4) + [benchmark.measure_growth(1, "batch", (1, 2))]
        self.assertTrue(all(math.isfinite(record["ratio"]) and min(record["peak_bytes"].values()) > 0
                            for record in records[:-1]))
        self.assertEqual(len(benchmark.plot_benchmark({"records": records}).axes), 3)


@unittest.skipUnless((RESULTS / "benchmark.json").exists(), "no benchmark is committed yet")
class Record(unittest.TestCase):
    def test_every_section_is_in_the_record(self):
        records = json.loads((RESULTS / "benchmark.json").read_text())["records"]
        self.assertEqual({record["section"] for record in records},
                         {"training step", "attention", "input pipeline", "classification at 16",
                          "classification at 256", "growth", "time to quality"})
        self.assertEqual({record["length"] for record in records if record["section"] == "attention"},
                         set(benchmark.LENGTHS))
