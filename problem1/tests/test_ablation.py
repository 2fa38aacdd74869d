"""Ablation and pruning of planted heads: what was planted is found, and nothing else."""

import unittest
from types import SimpleNamespace
from unittest import mock

import torch

from dataset import decode_problems, shift_right
from heads import pruning
from heads.ablation import (
    DRAWS,
    METHODS,
    gradient_importance,
    holm,
    measure_ablation,
    measure_pairs,
    rank_correlation,
    rankings,
    replacements,
    sign_test,
    undecided,
    verdicts,
)
from heads.carries import carries_out
from heads.examination import Examination
from heads.pruning import (
    greedy_order,
    mean_outputs,
    measure_orders,
    measure_pruned,
    measure_subsets,
    prunable,
    without_heads,
)
from heads.sites import Site, all_heads
from tests.small import CARRY, OWN, SECOND, UNUSED, Planted, small_model, some_problems


class Plants(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.examination = Examination(Planted(), *some_problems(300))
        carries = carries_out(*decode_problems(cls.examination.source))
        cls.carrying = carries.any(dim=1).float().mean().item()

    def test_ablation(self):
        records = measure_ablation(self.examination, "test")
        by_name = {(record["head"], record["method"]): record for record in records}
        zero = {
            head: record["exact_match_change"]["mean"]
            for (head, method), record in by_name.items()
            if method == "zero"
        }
        self.assertAlmostEqual(zero[CARRY.name()], -self.carrying, places=5)
        self.assertLess(zero[OWN.name()], -0.9)
        idle = zero[SECOND.name()], zero[UNUSED.name()], zero["decoder.0.self.0"]
        self.assertEqual(idle, (0, 0, 0))
        carry = by_name[CARRY.name(), "zero"]
        patterns = {key: value["mean"] for key, value in carry["by_carry_pattern"].items()}
        self.assertEqual(patterns, {"00": 0, "01": -1, "10": -1, "11": -1})
        self.assertEqual(carry["by_output_digit"]["s1"]["mean"], 0)  # no carry enters the units
        unchanged = by_name[UNUSED.name(), "resample"]["exact_match_change"]
        self.assertEqual(unchanged, {"mean": 0, "interval": [0, 0]})
        found = verdicts(records)
        self.assertEqual((found[OWN.name()], found[UNUSED.name()]), ("critical", "redundant"))

    def test_resampling_never_keeps_a_problem_s_own_output(self):
        outputs = self.examination.outputs["decoder.0.cross"].clone()
        outputs[:, 0, 0, 0] = torch.arange(300.0)
        examination = SimpleNamespace(outputs={"x": outputs}, source=outputs)
        drawn = [each["x"][:, 0, 0, 0] for each in replacements(examination, "resample", ["x"])]
        self.assertEqual(len(drawn), DRAWS)
        for shuffled in drawn:
            self.assertFalse((shuffled == torch.arange(300)).any())
            self.assertEqual(sorted(shuffled.tolist()), list(range(300)))
        self.assertFalse(torch.equal(*drawn[:2]))

    def test_gradient(self):
        importance = gradient_importance(self.examination)
        self.assertGreater(min(importance[OWN.name()], importance[CARRY.name()]), 0)
        self.assertEqual(importance[UNUSED.name()], 0)

    def test_gradient_importance_is_the_mean_of_each_problem_s_own(self):
        model, (source, target) = small_model(), some_problems(6)
        alone = [
            gradient_importance(Examination(model, source[i : i + 1], target[i : i + 1]))
            for i in range(6)
        ]
        together = gradient_importance(Examination(model, source, target, batch_size=4))
        for head, value in together.items():
            self.assertGreater(value, 0)
            self.assertAlmostEqual(value, sum(one[head] for one in alone) / 6, places=4, msg=head)

    def test_pruning_takes_the_idle_heads_first_and_the_needed_ones_last(self):
        order = greedy_order(self.examination)
        self.assertEqual({*order[:3]}, {SECOND, UNUSED, Site("decoder.0.self")})
        (record,) = measure_orders(self.examination, self.examination, {"greedy": order})
        self.assertEqual(record["prunable_1_point"], 3)

    def test_a_mean_replaces_what_does_not_vary(self):
        """Heads that give a constant cost nothing at their means, whatever zeros cost."""
        model, (source, target) = small_model(), some_problems(60)
        means = mean_outputs(model, source)
        examination = Examination(model, source, target)
        for block, value in examination.outputs.items():
            torch.testing.assert_close(value.mean(dim=0, keepdim=True), means[block])

    def test_a_model_without_heads_answers_as_one_with_constants_in_their_place(self):
        model, (source, target) = small_model(), some_problems(60)
        examination = Examination(model, source, target)
        heads = [f"encoder.1.self.{head}" for head in range(4)]
        heads += ["encoder.0.self.2", "decoder.1.cross.0", "decoder.0.self.3"]
        sites = [site for site in all_heads(model) if site.name() in heads]
        for means in (None, mean_outputs(model, source)):
            smaller = without_heads(model, sites, means)
            answers = examination.answer(sites, means)
            logits = smaller(source, shift_right(target))
            torch.testing.assert_close(logits, answers.logits, rtol=1e-4, atol=1e-5)
            self.assertTrue(smaller.generate(source, 3).equal(answers.tokens))
            self.assertEqual(len(all_heads(smaller)), len(all_heads(model)) - len(heads))
            counts = [sum(p.numel() for p in each.parameters()) for each in (smaller, model)]
            self.assertLess(*counts)

    def test_a_pruned_model_is_counted_on_problems_and_checked_by_resampling(self):
        order = {"heads": [UNUSED.name(), CARRY.name()], "exact_match": [1, 1, 0.5]}
        a, b = decode_problems(self.examination.source)
        with mock.patch.object(pruning, "without_heads", lambda model, *rest: model):
            record = measure_pruned(self.examination, order, 1, None, a, b)
        self.assertEqual((record["pairs"], record["errors"], record["exact_match"]), (300, 0, 1))
        self.assertEqual(record["exact_match_resampled"], 1)
        self.assertEqual((record["removed"], len(record["left"])), ([UNUSED.name()], 4))

    def subsets(self):
        records = measure_subsets(self.examination, self.examination)
        return [record for record in records if record["kind"] == "decoder.cross"]

    def test_subsets_are_exact(self):
        records = self.subsets()
        self.assertEqual([record["subsets"] for record in records], [1, 4, 6, 4, 1])
        self.assertEqual(records[2]["best"], 1)
        self.assertEqual({*records[2]["best_heads"]}, {SECOND.name(), UNUSED.name()})
        without_own = self.examination.matches([OWN]).float().mean().item()
        expected = (2 + (1 - self.carrying) + without_own) / 4
        self.assertAlmostEqual(records[1]["mean"], expected, places=5)

    def test_of_many_heads_subsets_are_sampled(self):
        with mock.patch.multiple(pruning, MOST_EXACT=3, SAMPLED=2):
            records = self.subsets()
        self.assertEqual([record["exact"] for record in records], [True, False, False, False, True])
        self.assertLessEqual(max(record["subsets"] for record in records), 2)

    def test_pairs_show_a_backup(self):
        first, *rest = measure_pairs(Examination(Planted(backup=True), *some_problems(300)))
        self.assertEqual(first["heads"], [CARRY.name(), SECOND.name()])
        self.assertAlmostEqual(first["excess"]["mean"], self.carrying, places=5)
        self.assertLessEqual(max(record["excess"]["mean"] for record in rest), 0)
        self.assertEqual(
            [record["backup"] for record in (first, *rest)], [True] + [False] * len(rest)
        )


class Statistics(unittest.TestCase):
    def test_verdicts(self):
        def records(limits):
            return [
                {"head": head, "method": method, "exact_match_change": change}
                for head, losses in limits.items()
                for method, loss in zip(METHODS, losses)
                for change in [{"mean": -loss, "interval": [-loss - 0.002, -loss + 0.002]}]
            ]

        cases = {
            "critical": (0.2, 0.06, 0.3),
            "redundant": (0, 0, 0.005),
            "constant": (0.9, 0, 0),
            "misleading": (0, 0, 0.4),
            "intermediate": (0.02, 0.03, 0.2),
        }
        self.assertEqual(verdicts(records(cases)), {name: name for name in cases})
        close = {"far": (0.2, 0.3, 0.4), "at one": (0.011, 0.3, 0.3), "at five": (0.3, 0.3, 0.049)}
        self.assertEqual(undecided(records(close)), ["at one", "at five"])

    def test_prunable_stops_at_the_first_loss(self):
        self.assertEqual(prunable([1.0, 1.0, 0.995, 0.98, 1.0], 0.01), 2)
        self.assertEqual(prunable([1.0], 0.01), 0)

    def test_chances_of_many_tests_are_corrected_together(self):
        self.assertAlmostEqual(sign_test(9, 1), 11 / 1024)
        self.assertEqual(sign_test(0, 0), 1)
        self.assertEqual(holm([0.01, 0.04, 0.02], 0.05), [True, True, True])
        self.assertEqual(holm([0.04, 0.01, 0.03], 0.05), [False, True, False])

    def test_heads_that_tie_in_a_ranking_are_counted(self):
        losses = {"a": 0, "b": 0, "c": 0.5, "d": 0}
        ablations = [
            {
                "head": head,
                "method": method,
                "exact_match_change": {"mean": -loss},
                "margin_change": {"mean": -rank},
            }
            for method in METHODS
            for rank, (head, loss) in enumerate(losses.items())
        ]
        record = rankings(ablations, {"a": 0.1, "b": 0.2, "c": 0.2, "d": 0.3})
        names = "exact match, zero", "margin, zero", "gradient"
        self.assertEqual([record["tied"][name] for name in names], [3, 0, 2])
        self.assertEqual(record["ranking"]["exact match, mean"][0], "c")

    def test_rank_correlation(self):
        self.assertAlmostEqual(rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]), 1)
        self.assertAlmostEqual(rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]), -1)
        self.assertAlmostEqual(rank_correlation([1, 1, 2, 3], [5, 5, 6, 7]), 1)
        self.assertIsNone(rank_correlation([1, 1, 1], [1, 2, 3]))
