"""Heads: their names, hooks that watch and change them, examinations, attention patterns."""

import unittest

import torch

from dataset import ORDERS, encode_problems
from heads.examination import Bootstrap, Examination, stratify, unseen_pairs
from heads.patterns import attention_weights, measure_patterns
from heads.sites import (
    Site,
    ablated,
    all_heads,
    attention_blocks,
    axis_labels,
    recorded,
    recorded_outputs,
    site_record,
    source_labels,
    target_labels,
)
from model import Seq2SeqTransformer
from tests.small import CARRY, OWN, Planted, digits, small_model, some_problems

DECODER_SELF = [f"decoder.0.self.{head}" for head in range(4)]


class Names(unittest.TestCase):
    def test_the_default_model_has_24_heads(self):
        heads = all_heads(Seq2SeqTransformer(13))
        self.assertEqual(len({site.name() for site in heads}), 24)
        self.assertEqual(heads[0].name(), "encoder.0.self.0")
        self.assertEqual(heads[-1].name(), "decoder.1.cross.3")
        self.assertEqual(Site("decoder.1.ffn").name(), "decoder.1.ffn")

    def test_positions_are_named_by_columns_in_the_order_of_writing(self):
        columns = {"a100": 2, "a10": 1, "a1": 0, "+": None, "b100": 2, "b10": 1, "b1": 0}
        self.assertEqual(list(source_labels(3).items()), list(columns.items()))
        ordinary, backward = (list(target_labels(2, order).items()) for order in ORDERS)
        self.assertEqual(ordinary, [("s100", 2), ("s10", 1), ("s1", 0)])
        self.assertEqual(backward, ordinary[::-1])
        queries, keys = axis_labels("decoder.0.self", 2, ORDERS[0])
        self.assertEqual(
            (list(queries), list(keys)), (["s100", "s10", "s1"], ["start", "s100", "s10"])
        )
        for site, name, position in [
            (Site("encoder.0.self", 2, 1), "encoder.0.self.2@a10", "a10"),
            (Site("decoder.1.ffn", 0, 2), "decoder.1.ffn@s1", "s1"),
        ]:
            fields = {"block": site.block, "head_number": site.head, "position": position}
            self.assertEqual(
                site_record(site, 3 if position == "a10" else 2, ORDERS[0]), {"site": name} | fields
            )


class Interventions(unittest.TestCase):
    def setUp(self):
        self.model, (self.source, self.target) = small_model(), some_problems()

    def logits(self):
        return self.model(self.source, self.target)

    def test_an_ablated_head_is_one_without_its_columns_of_the_output_matrix(self):
        before = self.logits()
        for name, attention in [
            ("encoder.1.self.2", self.model.encoder_layers[1].self_attn),
            ("decoder.0.cross.0", self.model.decoder_layers[0].cross_attn),
        ]:
            with ablated(self.model, [name]):
                gated = self.logits(), self.model.generate(self.source, 3)
            columns = slice(4 * int(name[-1]), 4 * int(name[-1]) + 4)
            kept = attention.W_o.weight.data.clone()
            attention.W_o.weight.data[:, columns] = 0
            torch.testing.assert_close(gated[0], self.logits())
            self.assertTrue(torch.equal(gated[1], self.model.generate(self.source, 3)))
            attention.W_o.weight.data = kept
            self.assertGreater((gated[0] - before).abs().max(), 1e-3)

    def test_ablations_nest_and_take_names_and_sites(self):
        with ablated(self.model, ["encoder.0.self.0"]):
            with ablated(self.model, ["encoder.0.self.3", "decoder.1.ffn"]):
                nested = self.logits()
        sites = [Site("encoder.0.self", 0), "encoder.0.self.3", Site("decoder.1.ffn")]
        with ablated(self.model, sites):
            torch.testing.assert_close(self.logits(), nested)

    def test_an_error_within_leaves_the_model_and_the_hooks_of_the_caller(self):
        before, kept = self.logits(), {}
        for block, attention in attention_blocks(self.model).items():
            attention.register_forward_hook(
                lambda _, __, output, block=block: kept.setdefault(block, []).append(output[1])
            )
        with recorded(self.model) as weights:
            self.logits()
        self.assertEqual(len(kept), 6)
        for block in kept:
            self.assertTrue(torch.equal(kept[block][0], weights[block][0]))
        heads = ["encoder.1.self.0", Site("decoder.0.ffn")]
        with self.assertRaises(ZeroDivisionError), ablated(self.model, heads), recorded(self.model):
            raise ZeroDivisionError
        kept.clear()
        self.assertTrue(torch.equal(self.logits(), before))
        self.assertEqual(
            {block: len(calls) for block, calls in kept.items()}, dict.fromkeys(kept, 1)
        )
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules()]
        self.assertEqual(sum(hooks), 6, "those of the caller alone are left")

    def test_recorded_are_the_weights_and_outputs_of_the_pass(self):
        with recorded(self.model) as weights, recorded_outputs(self.model) as outputs:
            self.logits()
        h = self.model.encoder_layers[0].norm1(self.model.embed(self.source))
        attention = self.model.encoder_layers[0].self_attn
        expected, expected_weights = attention(h, h, h)
        torch.testing.assert_close(weights["encoder.0.self"][0], expected_weights)
        heads = attention.combine_heads(outputs["encoder.0.self"][0])
        torch.testing.assert_close(attention.W_o(heads), expected)
        self.assertEqual([len(weights), len(outputs)], [6, 10])
        self.assertEqual(outputs["decoder.1.ffn"][0].shape, (40, 1, 3, 16))

    def test_heads_and_positions_that_do_not_exist_are_named(self):
        for head in (
            "encoder.5.self.0",
            "encoder.0.self.4",
            "encoder.0.self",
            "encoder.0.self.x",
            "encoder.0.self.-1",
            "encoder.0.ffn.3",
            Site("encoder.0.self", -1),
            Site("encoder.0.self", 4),
            Site("encoder.0.ffn", 3),
            Site("encoder.9.ffn"),
        ):
            with self.subTest(head), self.assertRaisesRegex(ValueError, "no head .*choose from"):
                with ablated(self.model, [head]):
                    pass
        for position in (-1, 5):
            with ablated(self.model, [Site("encoder.0.self", 0, position)]):
                with self.assertRaisesRegex(ValueError, f"5 positions here: none is {position}"):
                    self.logits()

    def test_a_position_means_one_of_the_sequence_in_decoding_too(self):
        """Each step decodes from the start, so that a position is there from its step on."""
        site = Site("decoder.0.self", 0, 0)
        with ablated(self.model, [site]):
            answers = self.model.generate(self.source, 3)
        examination = Examination(self.model, self.source, self.target)
        self.assertTrue(torch.equal(examination.answer([site]).tokens, answers))


class Examine(unittest.TestCase):
    def test_decoding_all_positions_at_once_is_decoding_one_by_one(self):
        for seed, order in enumerate((*ORDERS, ORDERS[0])):
            model, problems = small_model(seed=seed, order=order), some_problems(200, order=order)
            answers = Examination(model, *problems, batch_size=64).answer(
                [Site("encoder.0.self", 1)]
            )
            with ablated(model, ["encoder.0.self.1"]):
                self.assertTrue(torch.equal(answers.tokens, model.generate(problems[0], 3)))
            # An untrained model: nearly every guess had to be mended.
            self.assertLess(answers.right.float().mean(), 0.5)

    def test_a_guess_does_not_change_an_answer(self):
        examination = Examination(small_model(), *some_problems(100))
        sites = [Site("decoder.0.cross", 1)]
        answers = examination.answer(sites).tokens
        for guess in (answers, 9 - answers.clamp(max=9), examination.target):
            self.assertTrue(examination.answer(sites, guess=guess).tokens.equal(answers))

    def test_several_threads_give_what_one_gives(self):
        model, problems = small_model(), some_problems(200)
        sites, one = [Site("encoder.1.self", 2)], Examination(model, *problems)
        outputs = {"encoder.1.self": one.outputs["encoder.0.self"]}
        torch.set_num_threads(3)
        try:
            three = Examination(model, *problems)
            self.assertEqual(len(three.models), 3)
            given = three.answer(
                sites, one.outputs | {"encoder.1.self": one.outputs["encoder.0.self"]}
            )
        finally:
            torch.set_num_threads(1)
        self.assertTrue(given.tokens.equal(one.answer(sites, outputs).tokens))

    def test_one_pass_decides_whether_an_answer_is_right(self):
        examination = Examination(Planted(), *some_problems(200))
        for sites in ([], [CARRY], [OWN]):
            matches = examination.answer(sites).matches
            self.assertTrue(torch.equal(examination.matches(sites), matches))

    def test_putting_a_model_s_own_outputs_back_changes_nothing(self):
        examination = Examination(small_model(), *some_problems())
        outputs = examination.outputs
        sites = [Site(block, head) for block in outputs for head in range(outputs[block].size(1))]
        same = examination.answer(sites, outputs).logits
        torch.testing.assert_close(same, examination.clean.logits)

    def test_unseen_pairs_are_all_others(self):
        excluded, _ = encode_problems(torch.arange(1, 10).unsqueeze(1), torch.full((9, 1), 4))
        a, b = unseen_pairs(excluded)
        self.assertEqual(len(torch.cat([a, b], dim=1).unique(dim=0)), 64)
        self.assertNotIn(4, torch.cat([a, b]).flatten().tolist())  # nor with digits exchanged

    def test_strata_are_equally_large_and_cascades_not_rare(self):
        a, b = unseen_pairs(encode_problems(digits(100), digits(100))[0])
        self.assertEqual([len(stratify(a, b, total)) for total in (60, 7)], [12 * 5, 7])

    def test_bootstrap_intervals_hold_the_chance_of_problems_and_of_draws(self):
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(400, generator=generator)
        problems_differ = torch.rand(400, 1, generator=generator).expand(400, 16)
        draws_differ = torch.rand(1, 16, generator=generator).expand(400, 16)

        def width(values):
            low, high = Bootstrap(len(values)).summary(values)["interval"]
            return high - low

        self.assertLess(width(values), width(values[:50]))
        self.assertAlmostEqual(width(values), 2 * 1.96 * values.std().item() / 20, delta=0.03)
        self.assertAlmostEqual(width(problems_differ), 2 * 1.96 * 12**-0.5 / 20, delta=0.01)
        spread = draws_differ[0].std(correction=0).item()
        self.assertAlmostEqual(width(draws_differ), 2 * 1.96 * spread / 4, delta=0.04)
        self.assertAlmostEqual(width(problems_differ[:, 0]), width(problems_differ), places=6)
        constant = Bootstrap(50).summary(torch.ones(50))
        self.assertEqual(constant, {"mean": 1.0, "interval": [1.0, 1.0]})


class Patterns(unittest.TestCase):
    def measure(self, block, weights, order=ORDERS[0]):
        (record,) = measure_patterns({block: weights.expand(3, 1, *weights.shape)}, 2, order)
        return record

    def means(self, record, *keys):
        return [round(record[key]["mean"], 5) for key in keys]

    def test_uniform_attention(self):
        record = self.measure("decoder.0.cross", torch.full((3, 5), 0.2))
        keys = "entropy_share", "own_column", "larger_of_two", "right_column", "plus", "first"
        self.assertEqual(self.means(record, *keys), [1, 0.4, 0.5, 0.4, 0.2, 0.2])
        self.assertEqual(self.means(record, "last", "largest", "sparsity"), [0.2, 0.2, 0])
        self.assertIsNone(record["diagonal"])

    def test_a_head_that_reads_the_column_to_the_right(self):
        weights = torch.zeros(3, 5)
        weights[0, 3] = weights[1, 4] = weights[2, 2] = 1  # s100 reads b10, s10 b1, and s1 +
        record = self.measure("decoder.0.cross", weights)
        keys = "own_column", "right_column", "largest", "sparsity", "plus"
        self.assertEqual(self.means(record, *keys), [0, 1, 1, 0.8, 0.33333])

    def test_causal_attention_to_itself(self):
        record = self.measure("decoder.0.self", torch.eye(3))
        keys = "diagonal", "last", "entropy", "entropy_share"
        self.assertEqual(self.means(record, *keys), [1, 1, 0, 0])
        self.assertIsNone(record["own_column"])
        self.assertEqual(record["queries"], ["s100", "s10", "s1"])
        self.assertEqual(record["keys"], ["start", "s100", "s10"])

    def test_labels_follow_the_order_of_writing(self):
        weights = torch.zeros(3, 5)
        weights[0, 4] = weights[1, 1] = weights[2, 0] = 1  # units read b1, tens a1, hundreds a10
        record = self.measure("decoder.0.cross", weights, ORDERS[1])
        self.assertEqual(record["queries"], ["s1", "s10", "s100"])
        keys = "own_column", "larger_of_two", "right_column"
        self.assertEqual(self.means(record, *keys), [0.5, 0.5, 1])

    def test_weights_are_those_of_all_problems_and_sum_to_one(self):
        weights = attention_weights(small_model(), *some_problems(50), batch_size=16)
        self.assertEqual(weights["decoder.1.cross"].shape, (50, 4, 3, 5))
        for value in weights.values():
            torch.testing.assert_close(value.sum(dim=-1), torch.ones(value.shape[:-1]))
