"""Head names, interventions, examination, and the whole analysis on models whose answer is known."""

import json
import unittest
from types import SimpleNamespace
from unittest import mock

import torch

import analyze
from attention import MultiHeadAttention
from dataset import encode_problems, number_range, numbers_of
from heads import pruning
from heads.ablation import (DRAWS, METHODS, gradient_importance, holm, measure_ablation, measure_pairs,
                            rank_correlation, rankings, replacements, sign_test)
from heads.examination import Bootstrap, Examination, stratify, summary, unseen_pairs
from heads.interchange import PARTS, Interchange, draw_pairs, find_smallest_set, measure_probes, measure_sites
from heads.patterns import attention_weights, measure_patterns, source_labels, target_labels
from heads.pruning import greedy_order, measure_orders, measure_subsets, prunable
from heads.sites import (Site, ablated, all_heads, attention_blocks, parse_head, recorded, recorded_outputs,
                         without_heads)
from learning.carries import carries_out
from learning.checkpoint import load_model
from model import ORDERS, Seq2SeqTransformer
from support.digests import weights_digest
from tests.helpers import TemporaryFolder, command


def small_model(seed=0, order=ORDERS[0]):
    torch.manual_seed(seed)
    return Seq2SeqTransformer(13, d_model=16, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, d_ff=32,
                              dropout=0.0, order=order).eval()


def problems(count=40, num_digits=2, seed=0):
    low, high = number_range(num_digits)
    a, b = torch.randint(low, high + 1, (2, count), generator=torch.Generator().manual_seed(seed))
    return encode_problems(a, b, num_digits)


class PlantedHeads(MultiHeadAttention):
    """Heads of width 1 whose outputs `[B, H, T, 1]` and weights are given; they leave side by side, `[B, T, H]`."""

    def __init__(self, num_heads):
        super().__init__(num_heads, num_heads)
        self.W_o = torch.nn.Identity()

    def forward(self, heads, weights):
        return self.W_o(self.combine_heads(heads)), weights


class Planted(torch.nn.Module):
    """A stand-in that adds by known means: one head copies the column's sum, others carry, the rest does nothing.

    The heads of decoder.0.cross: 0 the sum of the column's digits, 1 the carry into it, 2 the same carry if `backup`
    (else nothing), 3 something that is never used. A carry arrives if either carry head has it.
    """

    def __init__(self, num_digits=2, backup=False):
        super().__init__()
        self.num_digits, self.backup = num_digits, backup
        self.config, self.written = SimpleNamespace(vocab_size=13, order=ORDERS[0]), lambda target: target
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.layer = torch.nn.Module()
        self.layer.self_attn, self.layer.cross_attn, self.layer.feed_forward = PlantedHeads(1), PlantedHeads(
            4), torch.nn.Identity()
        self.encoder_layers, self.decoder_layers = [], [self.layer]
        self.output_projection = torch.nn.Identity()

    def encode(self, source):
        return source

    def decode(self, tgt, memory):
        n, T = self.num_digits, tgt.size(1)
        a, b = numbers_of(memory, n)
        zero = torch.zeros(len(a), 1, dtype=torch.long)
        sums = torch.cat([zero, memory[:, :n] + memory[:, n + 1:]], dim=1)[:, :T]
        carry = torch.cat([carries_out(a, b, n).long(), zero], dim=1)[:, :T]
        heads = torch.stack([sums, carry, carry if self.backup else 0 * carry, sums + 1], dim=1).unsqueeze(-1).float()
        idle, _ = self.layer.self_attn(torch.zeros(len(a), 1, T, 1), torch.ones(len(a), 1, T, T).tril())
        heads, _ = self.layer.cross_attn(heads, torch.full((len(a), 4, T, 2 * n + 1), 1 / (2 * n + 1)))
        self.layer.feed_forward(torch.zeros(len(a), T, 1))
        own, carried, second, _ = heads.unbind(-1)
        digit = (own + torch.maximum(carried, second)).remainder(10) + 0 * idle[:, :, 0]
        return -10 * (torch.arange(13) - digit.unsqueeze(-1)) ** 2

    def forward(self, source, tgt):
        return self.decode(tgt, self.encode(source))


OWN, CARRY, SECOND, UNUSED = (Site("decoder.0.cross", head) for head in range(4))


class Heads(unittest.TestCase):
    def test_the_default_model_has_24_heads_whose_names_can_be_read_back(self):
        heads = all_heads(Seq2SeqTransformer(13))
        self.assertEqual(len(heads), 24)
        self.assertEqual([parse_head(site.name()) for site in heads], heads)
        self.assertEqual(heads[0].name(), "encoder.0.self.0")
        self.assertEqual(heads[-1].name(), "decoder.1.cross.3")

    def test_zero_ablation_is_a_head_without_its_columns_of_the_output_matrix(self):
        model, (source, target) = small_model(), problems()
        for name, attention in [("encoder.1.self.2", model.encoder_layers[1].self_attn),
                                ("decoder.0.cross.0", model.decoder_layers[0].cross_attn)]:
            with ablated(model, [name]):
                gated = model(source, target)
            whole = attention.W_o.weight.data.clone()
            head = int(name[-1])
            attention.W_o.weight.data[:, 4 * head:4 * head + 4] = 0
            torch.testing.assert_close(gated, model(source, target))
            attention.W_o.weight.data = whole
            self.assertGreater((gated - model(source, target)).abs().max(), 1e-3)

    def test_a_model_without_heads_is_smaller_and_answers_as_if_they_were_zero(self):
        model, (source, target) = small_model(), problems()
        removed = ["encoder.1.self.2", *(f"decoder.0.self.{head}" for head in range(4)), "decoder.1.cross.0",
                   "decoder.1.cross.3"]
        before = {name: value.clone() for name, value in model.named_parameters()}
        with ablated(model, removed):
            expected = model(source, target), model.generate(source, 3)
        smaller = without_heads(model, removed)
        torch.testing.assert_close(smaller(source, target), expected[0])
        self.assertTrue(torch.equal(smaller.generate(source, 3), expected[1]))
        self.assertGreater((smaller(source, target) - model(source, target)).abs().max(), 1e-3)
        counts = [sum(parameter.numel() for parameter in each.parameters()) for each in (model, smaller)]
        self.assertEqual(counts[0] - counts[1], 7 * (4 * 16 * 4 + 3 * 4))
        self.assertEqual([site.name() for site in all_heads(smaller) if site.block == "decoder.1.cross"],
                         ["decoder.1.cross.0", "decoder.1.cross.1"])
        self.assertTrue(all(torch.equal(value, before[name]) for name, value in model.named_parameters()),
                        "the model is left as it was")

    def test_an_error_within_leaves_the_model_as_it_was(self):
        model, (source, target) = small_model(), problems()
        before = model(source, target)
        with self.assertRaises(ZeroDivisionError), ablated(model, ["encoder.0.self.0"]), recorded(model):
            1 / 0
        self.assertTrue(torch.equal(model(source, target), before))

    def test_hooks_of_the_caller_see_what_is_recorded_and_survive(self):
        model, (source, target) = small_model(), problems()
        kept = {}
        for block, attention in attention_blocks(model).items():
            attention.register_forward_hook(lambda module, arguments, output,
                                            block=block: kept.setdefault(block, []).append(output[1]))
        with recorded(model) as weights:
            model(source, target)
        self.assertEqual(len(kept), 6)
        for block in kept:
            self.assertTrue(torch.equal(kept[block][0], weights[block][0]))
        with self.assertRaises(ZeroDivisionError), ablated(model, ["encoder.1.self.0", Site("decoder.0.ffn")]):
            1 / 0
        kept.clear()
        model(source, target)
        self.assertEqual({block: len(calls) for block, calls in kept.items()},
                         dict.fromkeys(attention_blocks(model), 1))
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
        self.assertEqual(sum(hooks), 6, "those of the caller alone are left")

    def test_ablations_nest(self):
        model, (source, target) = small_model(), problems()
        with ablated(model, ["encoder.0.self.0"]), ablated(model, ["encoder.0.self.3", "decoder.1.ffn.0"]):
            nested = model(source, target)
        with ablated(model, ["encoder.0.self.0", "encoder.0.self.3", Site("decoder.1.ffn")]):
            torch.testing.assert_close(model(source, target), nested)

    def test_recorded_are_the_weights_and_outputs_of_the_pass(self):
        model, (source, target) = small_model(), problems()
        with recorded(model) as weights, recorded_outputs(model) as outputs:
            model(source, target)
        h = model.encoder_layers[0].norm1(model.embed(source))
        attention = model.encoder_layers[0].self_attn
        torch.testing.assert_close(weights["encoder.0.self"][0], attention(h, h, h)[1])
        torch.testing.assert_close(attention.W_o(attention.combine_heads(outputs["encoder.0.self"][0])),
                                   attention(h, h, h)[0])
        self.assertEqual([len(weights), len(outputs)], [6, 10])
        self.assertEqual(outputs["decoder.1.ffn"][0].shape, (40, 1, 3, 16))

    def test_putting_a_models_own_outputs_back_changes_nothing(self):
        examination = Examination(small_model(), *problems())
        sites = [Site(block, head) for block, value in examination.outputs.items() for head in range(value.size(1))]
        torch.testing.assert_close(examination.answer(sites, examination.outputs).logits, examination.clean.logits)

    def test_heads_that_do_not_exist_are_named(self):
        for name in ("encoder.5.self.0", "encoder.0.self.4", "encoder.0.self", "encoder.0.self.x"):
            with self.subTest(name), self.assertRaisesRegex(ValueError, "encoder"), ablated(small_model(), [name]):
                pass


class Examine(unittest.TestCase):
    def test_decoding_all_positions_at_once_is_decoding_one_by_one(self):
        for seed, order in enumerate((*ORDERS, ORDERS[0])):
            model, (source, target) = small_model(seed, order), problems(200)
            answers = Examination(model, source, target, batch_size=64).answer([Site("encoder.0.self", 1)])
            with ablated(model, ["encoder.0.self.1"]):
                self.assertTrue(torch.equal(model.written(answers.tokens), model.generate(source, 3)))
            self.assertLess(answers.right.float().mean(),
                            0.5)  # an untrained model: nearly every guess had to be mended

    def test_one_pass_decides_whether_an_answer_is_right(self):
        examination = Examination(Planted(), *problems(200))
        for sites in ([], [CARRY], [OWN]):
            self.assertTrue(torch.equal(examination.matches(sites), examination.answer(sites).matches))

    def test_unseen_pairs_are_all_others(self):
        a, b = unseen_pairs(1, encode_problems(torch.arange(1, 10), torch.full((9,), 4), 1)[0], seed=0)
        self.assertEqual(len({*zip(a.tolist(), b.tolist())}), 72)
        self.assertNotIn(4, b.tolist())

    def test_strata_are_equally_large_and_cascades_not_rare(self):
        a, b = unseen_pairs(3, encode_problems(torch.tensor([100]), torch.tensor([100]), 3)[0], seed=0)
        self.assertEqual(len(stratify(a, b, 3, 60)), 12 * 5)
        self.assertEqual(len(stratify(a, b, 3, 7)), 7)

    def test_bootstrap_intervals_hold_the_mean_and_shrink(self):
        values = torch.randn(400, generator=torch.Generator().manual_seed(0))
        wide, narrow = (summary(Bootstrap(n), values[:n])["interval"] for n in (50, 400))
        self.assertLess(narrow[1] - narrow[0], wide[1] - wide[0])
        self.assertAlmostEqual(narrow[1] - narrow[0], 2 * 1.96 * values.std().item() / 20, delta=0.03)
        self.assertEqual(summary(Bootstrap(50), torch.ones(50)), {"mean": 1.0, "interval": [1.0, 1.0]})


class Plants(unittest.TestCase):
    """The measurements find what was planted, and nothing else."""

    @classmethod
    def setUpClass(cls):
        cls.model = Planted()
        cls.examination = Examination(cls.model, *problems(300))
        a, b = numbers_of(cls.examination.source, 2)
        cls.carrying = carries_out(a, b, 2).any(dim=1).float().mean().item()

    def test_ablation(self):
        records = {(record["head"], record["method"]): record
                   for record in measure_ablation(self.examination, 2, {"set": "test"})}
        zero = {head: record["exact_match_change"]["mean"] for (head, method), record in records.items()
                if method == "zero"}
        self.assertAlmostEqual(zero[CARRY.name()], -self.carrying, places=5)
        self.assertLess(zero[OWN.name()], -0.9)
        self.assertEqual([zero[SECOND.name()], zero[UNUSED.name()], zero["decoder.0.self.0"]], [0, 0, 0])
        by_pattern = records[CARRY.name(), "zero"]["by_carry_pattern"]
        self.assertEqual({key: value["mean"] for key, value in by_pattern.items()},
                         {"00": 0, "01": -1, "10": -1, "11": -1})
        self.assertEqual(records[CARRY.name(), "zero"]["by_output_digit"]["s1"]["mean"], 0)  # no carry enters the units
        self.assertEqual(records[UNUSED.name(), "resample"]["exact_match_change"], {"mean": 0, "interval": [0, 0]})

    def test_resampling_never_keeps_a_problems_own_output(self):
        outputs = self.examination.outputs["decoder.0.cross"].clone()
        outputs[:, 0, 0, 0] = torch.arange(300.0)
        drawn = [value[:, 0, 0, 0] for value in replacements(SimpleNamespace(outputs={"x": outputs}), "resample", "x")]
        self.assertEqual(len(drawn), DRAWS)
        for shuffled in drawn:
            self.assertFalse((shuffled == torch.arange(300)).any())
            self.assertEqual(sorted(shuffled.tolist()), list(range(300)))
        self.assertFalse(torch.equal(*drawn[:2]))

    def test_the_interval_of_resampling_holds_the_spread_of_the_draws(self):
        generator = torch.Generator().manual_seed(0)
        problems_differ = torch.rand(400, 1, generator=generator).expand(400, 16)
        draws_differ = torch.rand(1, 16, generator=generator).expand(400, 16)
        bootstrap = Bootstrap(400)
        width = lambda values: torch.diff(torch.tensor(summary(bootstrap, values)["interval"])).item()  # noqa: E731
        self.assertAlmostEqual(width(problems_differ), 2 * 1.96 * 12 ** -0.5 / 20, delta=0.01)
        self.assertAlmostEqual(width(draws_differ), 2 * 1.96 * draws_differ[0].std(correction=0).item() / 4, delta=0.04)
        once, often = (summary(bootstrap, values)["interval"] for values in (problems_differ[:, 0], problems_differ))
        torch.testing.assert_close(torch.tensor(once), torch.tensor(often))

    def test_gradient(self):
        importance = gradient_importance(self.examination)
        self.assertGreater(min(importance[OWN.name()], importance[CARRY.name()]), 0)
        self.assertEqual(importance[UNUSED.name()], 0)

    def test_gradient_importance_is_the_mean_of_each_problems_own(self):
        model, (source, target) = small_model(), problems(6)
        alone = [gradient_importance(Examination(model, source[i:i + 1], target[i:i + 1])) for i in range(6)]
        for head, value in gradient_importance(Examination(model, source, target, batch_size=4)).items():
            self.assertGreater(value, 0)
            self.assertAlmostEqual(value, sum(one[head] for one in alone) / 6, places=4, msg=head)

    def test_pruning_takes_the_idle_heads_first_and_the_needed_ones_last(self):
        order = greedy_order(self.examination)
        self.assertEqual({*order[:3]}, {SECOND, UNUSED, Site("decoder.0.self")})
        record, = measure_orders(self.examination, self.examination, {"greedy": order})
        self.assertEqual(record["prunable_1_point"], 3)

    def test_subsets_are_exact(self):
        records = [record for record in measure_subsets(self.examination, self.examination) if record["kind"]
                   == "decoder.cross"]
        self.assertEqual([record["subsets"] for record in records], [1, 4, 6, 4, 1])
        self.assertEqual((records[2]["best"], {*records[2]["best_heads"]}), (1.0, {SECOND.name(), UNUSED.name()}))
        self.assertAlmostEqual(records[1]["mean"],
                               (2 + (1 - self.carrying) + self.examination.matches([OWN]).float().mean().item()) / 4,
                               places=5)

    def test_of_many_heads_subsets_are_sampled_and_the_greedy_one_is_among_them(self):
        with mock.patch.object(pruning, "MOST_EXACT", 3), mock.patch.object(pruning, "SAMPLED", 1):
            seen = []
            records = measure_subsets(self.examination, self.examination,
                                      save=lambda records: seen.append(len(records)))
        records = [record for record in records if record["kind"] == "decoder.cross"]
        self.assertEqual([record["exact"] for record in records], [True, False, False, False, True])
        self.assertEqual([record["best"] for record in records[:3]], [1, 1, 1])
        self.assertEqual({*records[2]["best_heads"]}, {SECOND.name(), UNUSED.name()})
        self.assertLessEqual(max(record["subsets"] for record in records), 1 + 4)
        self.assertEqual(seen, list(range(1, seen[-1] + 1)))

    def test_prunable_stops_at_the_first_loss(self):
        self.assertEqual(prunable([1.0, 1.0, 0.995, 0.98, 1.0], 0.01), 2)
        self.assertEqual(prunable([1.0], 0.01), 0)

    def test_pairs_show_a_backup(self):
        examination = Examination(Planted(backup=True), *problems(300))
        first, *rest = measure_pairs(examination)
        self.assertEqual(first["heads"], [CARRY.name(), SECOND.name()])
        self.assertAlmostEqual(first["excess"]["mean"], self.carrying, places=5)
        self.assertTrue(all(record["excess"]["mean"] <= 0 for record in rest))
        self.assertEqual([record["backup"] for record in (first, *rest)], [True] + [False] * len(rest))

    def test_chances_of_many_tests_are_corrected_together(self):
        self.assertAlmostEqual(sign_test(9, 1), 11 / 1024)
        self.assertEqual(sign_test(0, 0), 1)
        self.assertEqual(holm([0.01, 0.04, 0.02], 0.05), [True, True, True])
        self.assertEqual(holm([0.04, 0.01, 0.03], 0.05), [False, True, False])

    def test_heads_that_tie_in_a_ranking_are_counted(self):
        ablations = [{"head": head, "method": method, "exact_match_change": {"mean": -loss},
                      "margin_change": {"mean": -rank}}
                     for method in METHODS
                     for rank, (head, loss) in enumerate([("a", 0), ("b", 0), ("c", 0.5), ("d", 0)])]
        record = rankings(ablations, {"a": 0.1, "b": 0.2, "c": 0.2, "d": 0.3})
        self.assertEqual((record["tied"]["exact match, zero"], record["tied"]["margin, zero"],
                          record["tied"]["gradient"]),
                         (3, 0, 2))
        self.assertEqual(record["ranking"]["exact match, mean"][0], "c")

    def test_rank_correlation(self):
        self.assertAlmostEqual(rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]), 1)
        self.assertAlmostEqual(rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]), -1)
        self.assertAlmostEqual(rank_correlation([1, 1, 2, 3], [5, 5, 6, 7]), 1)
        self.assertIsNone(rank_correlation([1, 1, 1], [1, 2, 3]))


class Interchanges(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.seen = encode_problems(torch.tensor([11]), torch.tensor([11]), 2)[0]
        cls.pool = unseen_pairs(2, cls.seen, seed=1)
        cls.interchange = Interchange(Planted(), cls.pool, cls.seen, 2, column=1, count=40)

    def test_pairs_are_what_their_condition_says(self):
        for condition in self.interchange.conditions:
            pairs = draw_pairs(self.pool, self.seen, 2, 1, condition, 40)
            (a, b), (c, d) = pairs.base, pairs.donor
            tens = (a // 10 == c // 10) & (b // 10 == d // 10)
            carry, other = (a % 10 + b % 10 >= 10), (c % 10 + d % 10 >= 10)
            self.assertEqual(len(a), 40)
            self.assertTrue(torch.equal(pairs.gain, other))
            self.assertEqual(int(other.sum()), 20)
            self.assertTrue(((carry == other) if condition == "same carry" else (carry != other)).all())
            self.assertTrue(tens.all() if condition != "other digits" else not tens.any())
            self.assertTrue((((a // 10 + b // 10) == 9) == (condition == "goes on through a 9")).all())

    def test_answers_that_no_sum_has_are_never_implied(self):
        """Taking the carry out of 57 + 58 = 115 would imply 15, and no two numbers from 10 up sum to less than 20."""
        interchange = Interchange(Planted(), self.pool, self.seen, 2, column=2, count=40)
        powers = torch.tensor([100, 10, 1])
        implied = (interchange.expected * powers).sum(dim=1)
        self.assertTrue((implied >= 20).all() and (implied <= 198).all())
        self.assertGreater(interchange.impossible["carry"], 0)

    def test_pairs_to_search_on_and_pairs_to_score_on_are_apart(self):
        for count, share in [(40, 2), (440, PARTS)]:
            interchange = Interchange(Planted(), self.pool, self.seen, 2, column=1, count=count)
            search, score = (interchange.of(*interchange.conditions, searching=value) for value in (True, False))
            self.assertEqual(sorted(torch.cat([search, score]).tolist()), list(range(len(interchange.condition))))
            self.assertAlmostEqual(len(search), len(interchange.condition) / share, delta=1)

    def test_the_planted_head_holds_the_carry_and_no_other_site_does(self):
        records = measure_sites(self.interchange)
        for record in records:
            exact = {condition: score["exact"] for condition, score in record["conditions"].items()}
            if record["site"] == "decoder.0.cross.1@s10":
                self.assertEqual(exact, {"carry": 1, "same carry": 0, "other digits": 1, "goes on through a 9": 0})
                self.assertEqual(record["conditions"]["goes on through a 9"]["changed"], {"s100": 0, "s10": 1, "s1": 0})
            else:
                self.assertEqual(exact["carry"], 0, record["site"])
        found = find_smallest_set(self.interchange, records, ("carry", "other digits"), heads_only=True)
        self.assertEqual(found["sites"], ["decoder.0.cross.1@s10"])
        self.assertEqual(found["conditions"]["same carry"]["exact"], 0)

    def test_a_carry_that_goes_on_needs_both_places(self):
        found = find_smallest_set(self.interchange, measure_sites(self.interchange), ("goes on through a 9",),
                                  heads_only=True)
        self.assertEqual({*found["sites"]}, {"decoder.0.cross.1@s10", "decoder.0.cross.1@s100"})
        self.assertEqual(found["conditions"]["goes on through a 9"]["exact"], 1)

    def test_a_site_that_the_others_make_needless_is_taken_out_again(self):
        helper, one, other = (Site("encoder.0.self", head, 0) for head in range(3))
        records = [{"conditions": {"carry": {"shift": 1.0}}}] * 3

        class Stub:
            conditions, column, num_digits = ["carry"], 1, 2
            base = SimpleNamespace(outputs={"encoder.0.self": torch.zeros(10, 3, 1, 1)}, model=Planted())

            def of(self, *names, searching):
                return torch.arange(10 if "carry" in names else 0)

            def inject(self, sites, rows):
                hits = 10 if {one, other} <= {*sites} else 6 + len(sites) if helper in sites else len(sites)
                return torch.arange(10) < hits, None, torch.ones(10)

            impossible = {}

            def scores(self, sites, searching):
                return {}

        found = find_smallest_set(Stub(), records, ("carry",), heads_only=True)
        self.assertEqual(len(found["search"]), 3)
        self.assertEqual({*found["sites"]}, {site.name(source_labels(2)) for site in (one, other)})

    def test_the_probe_reads_the_carry_where_it_is(self):
        examination = Examination(Planted(), *encode_problems(*(part[:2000] for part in self.pool), 2))
        accuracy = {(record["site"], record["column"]): record["accuracy"] for record in measure_probes(examination, 2)}
        self.assertEqual(accuracy["decoder.0.cross.1@s10", 1], 1)
        self.assertLess(accuracy["decoder.0.cross.0@s10", 1], 0.65)


class Patterns(unittest.TestCase):
    def measure(self, block, weights, order=ORDERS[0]):
        return measure_patterns({block: weights.expand(3, 1, *weights.shape)}, 2, order)[0]

    def test_uniform_attention(self):
        record = self.measure("decoder.0.cross", torch.full((3, 5), 0.2))
        self.assertAlmostEqual(record["entropy_share"]["mean"], 1, places=5)
        for key, value in {"own_column": 0.4, "larger_of_two": 0.5, "right_column": 0.4, "plus": 0.2, "first": 0.2,
                           "last": 0.2, "largest": 0.2, "sparsity": 0}.items():
            self.assertAlmostEqual(record[key]["mean"], value, places=5, msg=key)
        self.assertIsNone(record["diagonal"])

    def test_a_head_that_reads_the_column_to_the_right(self):
        weights = torch.zeros(3, 5)
        weights[0, 0] = weights[1, 4] = weights[2, 2] = 1  # s100 reads a10, s10 reads b1, s1 reads +
        record = self.measure("decoder.0.cross", weights)
        self.assertEqual([record[key]["mean"] for key in ("own_column", "right_column", "largest")], [0, 1, 1])
        self.assertAlmostEqual(record["sparsity"]["mean"], 0.8, places=5)
        self.assertAlmostEqual(record["plus"]["mean"], 1 / 3, places=5)

    def test_causal_attention_to_itself(self):
        record = self.measure("decoder.0.self", torch.eye(3))
        self.assertEqual([record[key]["mean"] for key in ("diagonal", "last", "entropy", "entropy_share")],
                         [1, 1, 0, 0])
        self.assertIsNone(record["own_column"])
        self.assertEqual((record["queries"], record["keys"]), (["s100", "s10", "s1"], ["start", "s100", "s10"]))

    def test_labels(self):
        self.assertEqual(source_labels(3), ["a100", "a10", "a1", "+", "b100", "b10", "b1"])
        self.assertEqual(target_labels(3, "left-to-right"), ["s1000", "s100", "s10", "s1"])
        self.assertEqual(target_labels(3, "right-to-left"), ["s1", "s10", "s100", "s1000"])

    def test_labels_follow_the_order_of_writing(self):
        weights = torch.zeros(3, 5)
        weights[0, 4] = weights[1, 1] = weights[2, 0] = 1  # units read b1, tens a1, hundreds a10
        record = self.measure("decoder.0.cross", weights, order="right-to-left")
        self.assertEqual(record["queries"], ["s1", "s10", "s100"])
        self.assertEqual([record[key]["mean"] for key in ("own_column", "larger_of_two", "right_column")],
                         [0.5, 0.5, 1])

    def test_one_full_pass_gives_rows_that_sum_to_one(self):
        weights = attention_weights(small_model(), *problems(50), batch_size=16)
        self.assertEqual(weights["decoder.1.cross"].shape, (50, 4, 3, 5))
        for value in weights.values():
            torch.testing.assert_close(value.sum(dim=-1), torch.ones(value.shape[:-1]))


class Command(TemporaryFolder):
    def setUp(self):
        super().setUp()
        import train
        data = self.small_data(num_digits=2, sizes=(300, 20, 60))
        self.arguments = ("--data-dir", data, "--results-dir", self.folder / "results")
        result = command(train.main, *self.arguments[:2], "--output-dir", self.folder / "results", "--epochs", 1,
                         "--d-model", 8,
                         "--num-heads", 2, "--num-layers", 1, "--d-ff", 8)
        self.assertEqual(result[0], 0, result[2])

    def test_the_whole_analysis_of_a_small_model(self):
        (self.folder / "results" / "exhaustive.json").write_text('{"weights_sha256": "of other weights"}')
        folder, there = self.folder / "results" / "head_analysis", {}

        def watched(name):
            function = getattr(analyze, name)

            def watch(*arguments, **options):
                there[name] = {path.stem for path in folder.glob("*.json")}
                return function(*arguments, **options)
            return watch
        with mock.patch.multiple(analyze, LEAST_JUDGED=0, MOST_CASES=2, **{
                name: watched(name) for name in ("measure_subsets", "measure_pairs", "check_pruned")}):
            code, output, errors = command(analyze.main, *self.arguments, "--num-samples", 30)
        self.assertEqual(code, 0, errors)
        self.assertEqual(there, {  # every record is written before the next measurement begins
            "measure_subsets": {"patterns", "ablation", "importance"},
            "measure_pairs": {"patterns", "ablation", "importance", "pruning"},
            "check_pruned": {"patterns", "ablation", "importance", "pruning", "pairs", "carry"}})
        self.assertIn("still of other weights: exhaustive.json\n", output)
        self.assertEqual({path.name for path in folder.iterdir()},
                         {"patterns.json", "ablation.json", "importance.json", "pruning.json", "pairs.json",
                          "carry.json", "head_importance.png",
                          "ablation_breakdown.png", "rank_correlation.png", "pruning.png", "carry_sites.png",
                          "carry_route.png"})
        self.assertEqual(len(list((self.folder / "results" / "attention_patterns").glob("??coder.?.*.png"))), 6)
        digest = weights_digest(load_model(self.folder / "results" / "best_model.pth")[0].state_dict())
        records = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
        self.assertEqual({name: record["weights_sha256"] for name, record in records.items()},
                         dict.fromkeys(records, digest))
        self.assertEqual(records["ablation.json"]["baseline"]["test"]["n"], 30)
        self.assertLessEqual(records["ablation.json"]["baseline"]["stratified"]["n"], 30)

    def test_the_heads_of_a_model_that_does_not_add_are_not_judged(self):
        with mock.patch.object(analyze, "save_figure"):
            code, output, errors = command(analyze.main, *self.arguments)
        self.assertEqual(code, 0, errors)
        self.assertRegex(output, r"\n.*of the test problems right: .* train it for longer\n$")
        self.assertEqual([path.name for path in (self.folder / "results" / "head_analysis").iterdir()],
                         ["patterns.json"])

    def test_one_problem_is_drawn(self):
        code, output, errors = command(analyze.main, *self.arguments, "--problem", "37+81")
        self.assertEqual(code, 0, errors)
        self.assertTrue((self.folder / "results" / "attention_patterns"
                         / "case_37_81.png").read_bytes().startswith(b"\x89PNG"))
        self.assert_one_line(command(analyze.main, *self.arguments, "--problem", "374+814"), "374")

    def test_what_is_drawn_of_a_model_lies_beside_it(self):
        (self.folder / "other").mkdir()
        path = (self.folder / "results" / "best_model.pth").rename(self.folder / "other" / "model.pth")
        code, output, errors = command(analyze.main, "--model-path", path, "--problem", "37+81")
        self.assertEqual(code, 0, errors)
        self.assertTrue((self.folder / "other" / "attention_patterns" / "case_37_81.png").exists())

    def test_what_is_missing_is_named(self):
        self.assert_one_line(command(analyze.main, "--results-dir", self.folder / "nothing"), "train.py")
        self.assertFalse((self.folder / "nothing").exists())
        self.assert_one_line(command(analyze.main, *self.arguments, "--seeds", 987654),
                             "seeds.py --order left-to-right --seeds 987654")


if __name__ == "__main__":
    unittest.main()
