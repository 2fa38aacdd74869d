"""Gaps between the scores of near and far keys, and the lengths that are predicted from them."""

import copy
import json
import math
from unittest import mock

import torch

import gaps as gaps_command
import train
from extrapolation import certificate, gap_figures, gaps
from tests.helpers import TemporaryFolder, command, without_pictures
from tests.test_counting import tiny
from tests.test_training import SMALL

SEQUENCES = torch.randint(100, (6, 14), generator=torch.Generator().manual_seed(0))


class Gaps(TemporaryFolder):
    @torch.no_grad()
    def test_gaps_and_shares_are_those_of_slow_loops(self):
        for scaling in (False, True, "learned"):
            model = tiny(log_scaling=scaling).double()
            attention = model.layers[0].self_attn
            h = model.layers[0].norm1(model.embed(SEQUENCES))
            scaled = attention.scores(h, h, model.pos_encoding)
            weights = attention(h, h, h, positions=model.pos_encoding)[1]
            for head, found in enumerate(gaps.measure_gaps(model, SEQUENCES)):
                scale = {False: 1, True: math.log(14)}.get(scaling) or (
                    attention.scale_slope[head] * math.log(14) + attention.scale_offset[head]).item()
                expected, shares = [], []
                for n in range(6):
                    for t in range(14):
                        near, far = ([s for s in range(14) if (abs(s - t) > 4) == is_far] for is_far in (False, True))
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
            model = tiny(log_scaling=scaling).double()
            twin, attention = gaps.frozen(model, 14), model.layers[0].self_attn
            torch.testing.assert_close(twin(SEQUENCES), model(SEQUENCES))
            short = SEQUENCES[:, :6]
            self.assertGreater((twin(short) - model(short)).abs().max(), 1e-3)
            scale = attention.scale(torch.tensor(14.0).double())
            with mock.patch.object(attention, "scale", return_value=scale):
                torch.testing.assert_close(twin(short), model(short))
            self.assertEqual((twin.config.log_scaling, model.config.log_scaling), (False, scaling))

    @torch.no_grad()
    def test_without_a_head_its_output_is_everywhere_its_mean(self):
        model = tiny().double()
        layer, heads = model.layers[0], []
        hook = layer.self_attn.W_o.register_forward_pre_hook(lambda module, outputs: heads.append(outputs[0]))
        model(SEQUENCES)
        hook.remove()
        undisturbed = model(SEQUENCES) @ torch.tensor([-1.0, 1.0]).double()
        for some in ([0], [1], [2], [3], [0, 2]):
            twin = copy.deepcopy(model)
            own = torch.cat([torch.arange(4 * head, 4 * head + 4) for head in some])
            values = twin.layers[0].self_attn.W_v  # a head that finds the same value everywhere
            values.weight[own], values.bias[own] = 0.0, heads[0][..., own].mean(dim=(0, 1))
            margins = twin(SEQUENCES) @ torch.tensor([-1.0, 1.0]).double()
            for border in margins.sort().values.unfold(0, 2, 1).mean(dim=1):
                model.classifier.bias[0] += border
                self.assertEqual(gaps.right_without(model, SEQUENCES, (margins > border).long(), some), 6)
                model.classifier.bias[0] -= border
            self.assertGreater((margins - undisturbed).abs().max(), 1e-3)

    @torch.no_grad()
    def test_as_if_longer_far_keys_count_several_times_and_scores_are_scaled_for_the_length(self):
        model = tiny(log_scaling=True).double()
        torch.testing.assert_close(gaps.answers_as_if(model, SEQUENCES, 14), model.predict(SEQUENCES))
        layer = model.layers[0]
        x = model.embed(SEQUENCES)
        h = layer.norm1(x)
        scores = layer.self_attn.scores(h, h, model.pos_encoding) * math.log(34) / math.log(14)
        far = (torch.arange(14) - torch.arange(14)[:, None]).abs() > 4
        weights = scores.exp() * torch.where(far, 5.0, 1.0)  # 34 - 9 far keys in the place of 14 - 9
        with mock.patch("model.scaled_dot_product_attention",
                        lambda Q, K, V, mask, bias: ((weights / weights.sum(-1, keepdim=True)) @ V, weights)):
            margins = model(SEQUENCES) @ torch.tensor([-1.0, 1.0]).double()
        for border in margins.sort().values.unfold(0, 2, 1).mean(dim=1):  # whichever margin decides
            model.classifier.bias[0] += border
            self.assertTrue(torch.equal(gaps.answers_as_if(model, SEQUENCES, 34), (margins > border).long()))
            model.classifier.bias[0] -= border

    def test_lengths_at_which_a_model_fails(self):
        self.assertEqual(gaps.ladder(16, 64), [16, 23, 32, 45, 64])
        labels = torch.ones(200, dtype=torch.long)
        for length, expected in [(45, 45), (46, 64), (100, None)]:
            for wrong, failed in [(2, None), (3, expected)]:
                def answers_as_if(model, sequences, given):
                    return (torch.arange(200) >= (wrong if given >= length else 0)).long()
                with mock.patch.object(gaps, "answers_as_if", answers_as_if):
                    self.assertEqual(gaps.predict_length(None, torch.zeros(200, 16), labels, 64), failed)
        with mock.patch.object(gaps, "answers", lambda model, sequences: torch.tensor([1] * 10 + [0] * 10)
                               if sequences.size(1) < 32 else torch.tensor([1] * 20)):
            records = gaps.measure_lengths(None, 16, 64, 20, set(), 0)
        self.assertEqual(records, [{"length": 16, "n": 20, "right": 20}, {"length": 23, "n": 20, "right": 20},
                                   {"length": 32, "n": 20, "right": 10}])
        self.assertEqual([gaps.measured_length(records), gaps.measured_length(records[:2])], [32, None])

    def test_the_figure_sets_each_model_s_prediction_against_its_measurement(self):
        def record(scores, predicted, lengths, gap):
            return {"encoding": "e", "seed": 0, "scores": scores, "longest": 64, "predicted": predicted,
                    "heads": [{"gap_percentile": gap, "n": 10, "right_without": 9 if gap > 1 else 10}],
                    "lengths": [{"length": length, "n": 10, "right": right} for length, right in lengths]}
        figure = gap_figures.plot_gaps([record("plain", 32, [(16, 10), (23, 5)], 0.5),
                                        record("scaled", None, [(16, 10), (64, 10)], 2.0),
                                        record("frozen at 16", 45, [(16, 10), (64, 5)], 5.5)])
        lengths = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines}
        self.assertEqual([lengths[f"e, scores {words}"]
                          for words in ("as they are", "times log n", "scaled as at 16 values")],
                         [(32, 23), (2 * gaps.LONGEST_PREDICTED, 128), (45, 64)])
        self.assertEqual([label.get_text() for label in figure.axes[1].get_yticklabels()],
                         ["e,\nscores as they are", "e,\nscores times log n"])
        self.assertEqual([(line.get_xdata()[0], line.get_fillstyle()) for line in figure.axes[1].lines[:2]],
                         [(0.5, "none"), (2.0, "full")])


class Command(TemporaryFolder):
    def gaps(self, *options):
        with without_pictures(gaps_command):
            return command(gaps_command.main, "--data-dir", self.folder / "data", "--results-dir", self.folder,
                           "--output", self.folder / "gaps.jsonl", "--num-samples", 4, "--longest", 23, *options)

    def test_two_lines_for_scaled_scores_one_for_plain_ones_and_none_again(self):
        data = self.small_data()
        self.enterContext(without_pictures(train))
        for name in ("relative_bias-lowest-augmented", "relative_bias-lowest-augmented-scaled", "none"):
            command(train.main, "--variant", name, "--data-dir", data, "--output-dir", self.folder, "--epochs", 1,
                    *SMALL)
        with mock.patch.object(gaps_command, "SEQUENCES", 20), \
                mock.patch.object(certificate, "LENGTHS", (64,)):
            status, output, errors = self.gaps()
        self.assertEqual((status, errors), (0, ""))
        lines = [json.loads(line) for line in (self.folder / "gaps.jsonl").read_bytes().splitlines()]
        self.assertEqual([(line["encoding"], line["scores"]) for line in lines],
                         [("relative_bias-lowest-augmented", "plain"),
                          ("relative_bias-lowest-augmented-scaled", "scaled"),
                          ("relative_bias-lowest-augmented-scaled", "frozen at 16")])
        self.assertEqual(len(output.splitlines()), 3)
        self.assertEqual([line["certificate"]["length"] if "certificate" in line else None for line in lines],
                         [None, 64, None])
        self.assertIn("proved right", output)
        self.assertTrue((self.folder / "gaps.png").exists())
        with mock.patch.object(gaps_command, "measure", side_effect=AssertionError("measured again")):
            self.assertEqual(self.gaps()[0], 0)
        path, whole = self.folder / "gaps.jsonl", (self.folder / "gaps.jsonl").read_text()
        path.write_text("".join(json.dumps({key: value for key, value in line.items() if key != "certificate"}) + "\n"
                                for line in lines))
        with mock.patch.object(gaps_command, "measure", side_effect=AssertionError("measured again")), \
                mock.patch.object(certificate, "LENGTHS", (64,)):
            self.gaps()
        self.assertEqual(path.read_text(), whole, "a line without a certificate gets one, and is else left alone")
        self.assert_one_line(self.gaps("--only", "none"), "no model there has one layer", "python train.py")
