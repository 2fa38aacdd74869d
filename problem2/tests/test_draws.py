"""Draws of test sets, score gaps, and the lengths that are predicted from them."""

import copy
import math
from unittest import mock

from support.cli import UserError
from support.plots import wilson_interval

import torch

from beyond import draw_sets, gap_measures
from beyond.counting import CountedModel
from beyond.draw_sets import summarize_draws
from beyond.records import mean_interval
from tests.helpers import TemporaryFolder
from tests.small import Oracle
from tests.test_proofs import MARGIN, is_sorted, tiny

SEQUENCES = torch.randint(100, (6, 14), generator=torch.Generator().manual_seed(0))


def records(table, n=100):
    """Records of answers right, `table[seed][draw]`, of n each."""
    names = {"kind": "swap", "length": 16, "n": n}
    return [
        {**names, "seed": seed, "draw": draw, "right": right}
        for seed, row in enumerate(table)
        for draw, right in enumerate(row)
    ]


def borders(margins):
    """Numbers between neighbouring margins."""
    return margins.sort().values.unfold(0, 2, 1).mean(dim=1)


class Draws(TemporaryFolder):
    def test_each_draw_is_another_and_holds_none_of_the_sequences_to_avoid(self):
        def sequences(draw, seen=frozenset()):
            sets = draw_sets.draw_sets(3, draw, 60, seen)
            self.assertEqual(list(sets), ["swap", "one_inversion"])
            for found, labels in sets.values():
                self.assertTrue(torch.equal(is_sorted(found), labels))
                self.assertEqual(labels.sum(), 30)
            return {tuple(row) for found, _ in sets.values() for row in found.tolist()}

        first = sequences(0)
        self.assertEqual(sequences(0), first)
        self.assertLess(len(sequences(1) & first), 10)
        self.assertEqual(sequences(0, first) & first, set())

    def test_right_answers_are_counted(self):
        for constant, share in [(None, 1), (1, 0.5), (0, 0.5)]:
            found = draw_sets.measure_draws(Oracle(constant), 12, 20, set(), draws=2)
            expected = [
                {"kind": kind, "length": 12, "draw": draw, "n": 20, "right": 20 * share}
                for draw in (0, 1)
                for kind in ("swap", "one_inversion")
            ]
            self.assertEqual(found, expected)

    def test_long_sequences_are_counted_where_counts_suffice_and_else_refused(self):
        sequences = torch.randint(100, (12, 40), generator=torch.Generator().manual_seed(0))
        model = tiny()
        counted = CountedModel(model)
        margins = torch.stack([counted.margins(sequence).min() for sequence in sequences])
        model.classifier.bias.data[0] += margins.median() + 1e-4  # both answers are given
        expected = model.predict(sequences)
        self.assertEqual(set(expected.tolist()), {0, 1})
        self.assertTrue(torch.equal(draw_sets.answers(model, sequences), expected))
        limits = mock.patch.multiple(draw_sets, COUNTED_FROM=40, LONGEST_WHOLE=39)
        with limits, mock.patch.object(draw_sets, "classify", side_effect=AssertionError):
            self.assertTrue(torch.equal(draw_sets.answers(model, sequences), expected))
            with self.assertRaisesRegex(UserError, "40 values need too much memory"):
                draw_sets.answers(tiny(pooling="max"), sequences)

    def test_the_interval_holds_seeds_and_sets(self):
        found = summarize_draws(records([[90, 92], [80, 82]]))
        keys = "seeds", "draws", "n", "right", "lowest", "highest"
        self.assertEqual([found[key] for key in keys], [2, 2, 400, 344, 0.8, 0.92])
        # The means are 91 and 81 of the seeds, 85 and 87 of the draws.
        half = 12.706 * (0.1**2 / 2 / 2 + 0.02**2 / 2 / 2) ** 0.5
        self.assertAlmostEqual(found["interval"][0], 0.86 - half)
        self.assertEqual(found["interval"][1], 1.0)
        for table in ([[100, 100, 100]], [[100]]):
            found, n = summarize_draws(records(table)), 100 * len(table[0])
            self.assertEqual(found["interval"], wilson_interval(n, n))
        one_seed = summarize_draws(records([[90, 95, 100]]))["interval"]
        self.assertAlmostEqual(one_seed[0], 0.95 - 4.303 * (0.05**2 / 3) ** 0.5)
        with self.assertRaisesRegex(UserError, "different draws"):
            summarize_draws(records([[90, 92], [80]]))

    def test_mean_and_interval_over_seeds(self):
        mean, half = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
        self.assertEqual(mean, 3)
        self.assertAlmostEqual(half, 2.776 * (2.5 / 5) ** 0.5)
        self.assertEqual(mean_interval([0.5]), (0.5, 0.0))
        self.assertGreater(mean_interval(list(map(float, range(12))))[1], 0)


class Gaps(TemporaryFolder):
    @torch.no_grad()
    def test_gaps_and_shares_are_those_of_slow_loops(self):
        for scaling in (False, True, "learned"):
            model = tiny(scaling=scaling)
            attention = model.layers[0].self_attn
            h = model.layers[0].norm1(model.embed(SEQUENCES))
            scaled = attention.scores(h, h, model.pos_encoding)
            weights = attention(h, h, h, positions=model.pos_encoding)[1]
            for head, found in enumerate(gap_measures.measure_gaps(model, SEQUENCES)):
                scale = {False: 1.0, True: math.log(14)}.get(scaling)
                if scaling == "learned":
                    slope, offset = attention.scale_slope[head], attention.scale_offset[head]
                    scale = (slope * math.log(14) + offset).item()
                expected, shares = [], []
                for n in range(6):
                    for t in range(14):
                        far = [s for s in range(14) if abs(s - t) > 4]
                        near = [s for s in range(14) if abs(s - t) <= 4]
                        row = (scaled[n, head, t] / scale).tolist()
                        expected.append(max(row[s] for s in near) - max(row[s] for s in far))
                        shares.append(sum(weights[n, head, t, s].item() for s in far))
                expected.sort()
                self.assertEqual(found["head"], head)
                self.assertAlmostEqual(found["gap_lowest"], expected[0])
                self.assertAlmostEqual(found["gap_median"], (expected[41] + expected[42]) / 2)
                self.assertTrue(expected[0] <= found["gap_percentile"] <= expected[2])
                self.assertAlmostEqual(found["far_share"], sum(shares) / len(shares))
                self.assertAlmostEqual(found["far_share_largest"], max(shares))

    def test_a_frozen_scale_is_that_of_its_length_at_every_length(self):
        for scaling in (True, "learned"):
            model = tiny(scaling=scaling)
            twin, attention = gap_measures.frozen(model.float(), 14), model.layers[0].self_attn
            torch.testing.assert_close(twin(SEQUENCES), model(SEQUENCES), rtol=1e-4, atol=1e-4)
            short = SEQUENCES[:, :6]
            self.assertGreater((twin(short) - model(short)).abs().max(), 1e-3)
            scale = attention.scale(torch.tensor(14.0))
            with mock.patch.object(attention, "scale", return_value=scale):
                torch.testing.assert_close(twin(short), model(short), rtol=1e-4, atol=1e-4)
            self.assertFalse(hasattr(twin.config, "log_scaling"))

    @torch.no_grad()
    def test_without_a_head_its_output_is_everywhere_its_mean(self):
        model, kept = tiny(), []
        output = model.layers[0].self_attn.W_o
        hook = output.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
        undisturbed = model(SEQUENCES) @ MARGIN
        hook.remove()
        for heads in ([0], [1], [2], [3], [0, 2]):
            twin = copy.deepcopy(model)
            own = torch.cat([torch.arange(4 * head, 4 * head + 4) for head in heads])
            values = twin.layers[0].self_attn.W_v  # a head that finds the same value everywhere
            values.weight[own], values.bias[own] = 0.0, kept[0][..., own].mean(dim=(0, 1))
            margins = twin(SEQUENCES) @ MARGIN
            self.assertGreater((margins - undisturbed).abs().max(), 1e-3)
            for border in borders(margins):
                model.classifier.bias[0] += border
                labels = (margins > border).long()
                right = gap_measures.right_without(model, SEQUENCES, labels, heads)
                self.assertEqual(right, 6)
                model.classifier.bias[0] -= border

    @torch.no_grad()
    def test_as_if_longer_far_keys_count_several_times_and_scores_are_scaled(self):
        model = tiny(scaling=True)
        same = gap_measures.answers_as_if(model, SEQUENCES, 14)
        self.assertTrue(torch.equal(same, model.predict(SEQUENCES)))
        h = model.layers[0].norm1(model.embed(SEQUENCES))
        scores = model.layers[0].self_attn.scores(h, h, model.pos_encoding)
        places = torch.arange(14)
        far = (places - places[:, None]).abs() > 4
        # 34 - 9 far keys in the place of 14 - 9.
        weights = (scores * math.log(34) / math.log(14)).exp() * torch.where(far, 5.0, 1.0)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        attend = mock.Mock(side_effect=lambda Q, K, V, mask, bias: (weights @ V, weights))
        with mock.patch("model.scaled_dot_product_attention", attend):
            margins = model(SEQUENCES) @ MARGIN
        self.assertEqual(attend.call_count, 1)
        for border in borders(margins):
            model.classifier.bias[0] += border
            found = gap_measures.answers_as_if(model, SEQUENCES, 34)
            self.assertTrue(torch.equal(found, (margins > border).long()))
            model.classifier.bias[0] -= border

    def test_lengths_at_which_a_model_fails(self):
        self.assertEqual(gap_measures.ladder(16, 64), [16, 23, 32, 45, 64])
        labels = torch.ones(200, dtype=torch.long)
        for length, expected in [(45, 45), (46, 64), (100, None)]:
            for wrong, failed in [(2, None), (3, expected)]:

                def answers_as_if(model, sequences, given):
                    return (torch.arange(200) >= (wrong if given >= length else 0)).long()

                with mock.patch.multiple(
                    gap_measures, answers_as_if=answers_as_if, LONGEST_PREDICTED=64
                ):
                    found = gap_measures.predict_length(None, torch.zeros(200, 16), labels)
                self.assertEqual(found, failed)

        def answers(model, sequences):
            good = sequences.size(1) < 32
            return torch.tensor([1] * 10 + [0] * 10 if good else [1] * 20)

        with mock.patch.object(gap_measures, "answers", answers):
            found = gap_measures.measure_lengths(None, 16, 64, 20, set(), 0)
        expected = [(16, 20), (23, 20), (32, 10)]
        self.assertEqual([(each["length"], each["right"]) for each in found], expected)
        measured = [gap_measures.measured_length(each) for each in (found, found[:2])]
        self.assertEqual(measured, [32, None])
