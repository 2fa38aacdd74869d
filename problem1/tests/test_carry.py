"""Carries: their classes, all pairs of numbers checked, and the sites that hold a carry."""

import unittest
from functools import partial
from types import SimpleNamespace
from unittest import mock

import torch

from dataset import ORDERS, decode_problems, encode_problems, in_order, to_digits, to_numbers
from heads.carries import carries_out, carry_pattern, cascade_length, longest_chain
from heads.examination import Examination, encode, unseen_pairs
from heads.exhaustive import all_pairs, check_all_pairs, pair_index, parse_problem
from heads.interchange import (
    PARTS,
    RANDOM_SETS,
    Interchange,
    draw_pairs,
    examine_set,
    find_smallest_set,
    measure_probes,
    measure_sites,
)
from heads.sites import Site, ablated, all_heads
from model import load_model
from tests.helpers import RESULTS
from tests.small import Oracle, Planted, digits, info, small_model


class Carries(unittest.TestCase):
    def test_known_sums(self):
        for a, b, pattern, chain in [
            (123, 456, 0b000, 0),
            (347, 159, 0b011, 2),
            (657, 348, 0b111, 3),
            (999, 999, 0b111, 1),
            (199, 801, 0b111, 3),
            (663, 497, 0b111, 1),
            (555, 444, 0b000, 0),
            (145, 155, 0b011, 2),
            (482, 157, 0b010, 1),
            (500, 500, 0b100, 1),
            (900900, 100100, 0b100100, 1),
            (190990, 809110, 0b111110, 4),
        ]:
            problem = digits(a), digits(b)
            found = [measure(*problem).item() for measure in (carry_pattern, longest_chain)]
            self.assertEqual(found, [pattern, chain], (a, b))
            self.assertEqual(cascade_length(*problem).item(), max(0, chain - 1))

    def test_carries_are_those_of_the_sums_of_the_lower_digits(self):
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randint(10, (2, 500, 4), generator=generator)
        for column, carries in zip(range(4, 0, -1), carries_out(a, b).unbind(1)):
            lower = to_numbers(a[:, -column:]) + to_numbers(b[:, -column:])
            self.assertTrue(torch.equal(carries, lower >= 10**column))


class Exhaustive(unittest.TestCase):
    def test_pairs_are_all_there_and_indexed(self):
        a, b = all_pairs(2)
        self.assertEqual(len(torch.cat([a, b], dim=1).unique(dim=0)), 8100)
        self.assertTrue(torch.equal(pair_index(a, b), torch.arange(8100)))

    def test_errors_are_counted_classed_and_listed_in_either_order(self):
        def no_highest_digit(target, order):  # wrong where the hundreds of the sum are 1
            position = 0 if order == ORDERS[0] else 2
            return torch.where(torch.arange(3) == position, 0, target)

        training, _ = encode_problems(digits(99, 10), digits(99, 10))
        a, b = (to_numbers(numbers) for numbers in all_pairs(2))
        for order in ORDERS:
            model = Oracle(
                2, lambda target, order=order: no_highest_digit(target, order), order=order
            )
            record = check_all_pairs(model, training, batch_size=1000)
            errors = int((a + b >= 100).sum())
            self.assertEqual((record["pairs"], record["errors"]), (8100, errors))
            self.assertEqual(record["unseen"], {"pairs": 8098, "errors": errors - 1})
            shares = {
                key: value["errors"] / value["pairs"]
                for key, value in record["by_carry_pattern"].items()
            }
            self.assertEqual(shares, {"00": 0, "01": 0, "10": 1, "11": 1})
            by_length = record["by_cascade_length"].values()
            self.assertEqual(sum(value["pairs"] for value in by_length), 8100)
            self.assertEqual(len(record["error_list"]), 1000)
            self.assertEqual(record["error_list"][0], {"a": 10, "b": 90})
        self.assertEqual(check_all_pairs(Oracle(2), training)["errors"], 0)

    def test_one_pass_finds_the_errors_of_decoding_digit_by_digit(self):
        model = load_model(RESULTS / "best_model.pth")
        generator = torch.Generator().manual_seed(0)
        a, b = (to_digits(n, 3) for n in torch.randint(100, 1000, (2, 500), generator=generator))
        source, target = encode(a, b, model.training_info["order"])
        partly = 0
        for site in all_heads(model)[4:12]:
            with ablated(model, [site]):
                wrong = (model.generate(source, 4) != target).any(dim=1)
                partly += 0 < wrong.sum() < 500
                examination = Examination(model, source, target)
                self.assertTrue(torch.equal(~examination.matches(), wrong))
        self.assertGreater(partly, 0)

    def test_problems_are_read(self):
        for text in ["507+159", " 507 + 159 ", "507+159=", "507 + 159 =\n", "\t507\t+159\r\n"]:
            self.assertEqual(parse_problem(text, 3), (507, 159))
        self.assertEqual(parse_problem("7+9", 1), (7, 9))
        for text, words in [
            ("", "the line is empty: write a problem such as 507.159"),
            (" ", "the line is empty"),
            *((text, "is no problem such as 507") for text in ("507", "507+", "+159", "507-159")),
            *((text, "is no problem") for text in ("507+159+1", "5 07+159", "507 159", "٥٠٧+159")),
            *((text, "is no problem") for text in ("507+159 = 666", "-507+159", "1e2+100", "\0")),
            *((text, "is not from 100 to 999") for text in ("99+100", "1000+100", "050+123")),
            ("9" * 10_000 + "+100", "is not from 100 to 999"),
        ]:
            with self.subTest(text[:20]), self.assertRaisesRegex(ValueError, words) as raised:
                parse_problem(text, 3)
            self.assertNotIn("\n", str(raised.exception))
            self.assertLess(len(str(raised.exception)), 200)


class Interchanges(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.seen, _ = encode_problems(digits(11), digits(11))
        cls.pool = unseen_pairs(cls.seen)
        cls.interchange = Interchange(Planted(), cls.pool, cls.seen, column=1, count=40)

    def test_pairs_are_what_their_condition_says(self):
        for condition in self.interchange.conditions:
            pairs = draw_pairs(self.pool, self.seen, 1, condition, 40)
            (a, b), (c, d) = pairs.base, pairs.donor  # [N, 2] each: tens, units
            same = (a[:, 0] == c[:, 0]) & (b[:, 0] == d[:, 0])
            carry, other = a[:, 1] + b[:, 1] >= 10, c[:, 1] + d[:, 1] >= 10
            self.assertEqual((len(a), int(other.sum())), (40, 20))
            self.assertTrue(torch.equal(pairs.gain, other))
            self.assertTrue(((carry == other) == (condition == "same carry")).all())
            self.assertTrue(same.all() if condition != "other digits" else not same.any())
            nine = a[:, 0] + b[:, 0] == 9
            self.assertTrue((nine == (condition == "goes on through a 9")).all())

    def test_answers_that_no_sum_has_are_never_implied(self):
        """57 + 58 = 115 without its carry is 15, and two numbers from 10 up sum to 20 or more."""
        interchange = Interchange(Planted(), self.pool, self.seen, column=2, count=40)
        implied = to_numbers(interchange.expected)
        self.assertTrue((implied >= 20).all() and (implied <= 198).all())
        self.assertGreater(interchange.impossible["carry"], 0)

    def test_implied_answers_are_in_the_order_of_writing(self):
        model = small_model(order=ORDERS[1])
        backward = Interchange(model, self.pool, self.seen, column=1, count=40)
        expected = in_order(self.interchange.expected, ORDERS[1])
        self.assertTrue(torch.equal(backward.expected, expected))

    def test_a_step_that_takes_the_carry_from_the_last_digit_follows_it(self):
        """Where the tens sum to 9 a 0 written there tells of a carry: 47 + 58 = 105."""
        model = small_model(order=ORDERS[1])
        interchange = Interchange(model, self.pool, self.seen, column=2, count=40)
        rows = interchange.rows("arrives through a 9", searching=False)
        base, column = interchange.base, interchange.column

        def run(reads, model, part, sites, outputs, given):
            given = given if reads else base.target[part]
            logits = torch.zeros(*given.shape, 13)
            carry = (given[:, column - 1] == 0).long()  # the overflow of two digits
            return logits.index_put(
                (torch.arange(len(part)), torch.tensor(column), carry), torch.tensor(1.0)
            ), None

        for reads in (True, False):
            with mock.patch.object(base, "run", partial(run, reads)):
                self.assertEqual(interchange.follow_last_digit(rows).tolist(), [reads] * len(rows))
        self.assertGreater(len(rows), 5)

    def test_pairs_to_search_on_and_pairs_to_score_on_are_apart(self):
        for count, share in [(40, 2), (440, PARTS)]:
            interchange = Interchange(Planted(), self.pool, self.seen, column=1, count=count)
            search, score = (
                interchange.rows(*interchange.conditions, searching=searching)
                for searching in (True, False)
            )
            total = len(interchange.condition)
            self.assertEqual(sorted(torch.cat([search, score]).tolist()), list(range(total)))
            self.assertAlmostEqual(len(search), total / share, delta=1)

    def test_the_planted_head_holds_the_carry_and_no_other_site_does(self):
        records = measure_sites(self.interchange)
        for record in records:
            scores = record["conditions"]
            exact = {condition: score["exact"] for condition, score in scores.items()}
            if record["site"] == "decoder.0.cross.1@s10":
                expected = {
                    "carry": 1,
                    "same carry": 0,
                    "other digits": 1,
                    "goes on through a 9": 0,
                }
                self.assertEqual(exact, expected)
                changed = scores["goes on through a 9"]["changed"]
                self.assertEqual(changed, {"s100": 0, "s10": 1, "s1": 0})
            else:
                self.assertEqual(exact["carry"], 0, record["site"])
        found = find_smallest_set(self.interchange, records, ("carry", "other digits"))
        self.assertEqual(found["sites"], ["decoder.0.cross.1@s10"])
        fields = {"block": "decoder.0.cross", "head_number": 1, "position": "s10"}
        self.assertEqual(found["site_fields"], [fields])
        self.assertEqual(found["conditions"]["same carry"]["exact"], 0)

        # The control and the example are of pairs that took no part in the search.
        examined = examine_set(self.interchange, found)
        self.assertEqual(examined["random_sets"], [0.0] * RANDOM_SETS)
        self.assertEqual(examined["failures"], [])
        example = examined["example"]
        a, b = map(int, example["base"].split(" + "))
        self.assertEqual(int(example["before"]), a + b)
        self.assertEqual(abs(int(example["after"]) - a - b), 10)
        self.assertEqual(example["after"], example["implied"])
        wrong = examine_set(self.interchange, found | {"sites": ["decoder.0.cross.0@s1"]})
        self.assertIsNone(wrong["example"])
        self.assertGreater(len(wrong["failures"]), 10)

        # A carry that goes on needs both places.
        found = find_smallest_set(self.interchange, records, ("goes on through a 9",))
        both = {"decoder.0.cross.1@s10", "decoder.0.cross.1@s100"}
        self.assertEqual({*found["sites"]}, both)
        self.assertEqual(found["conditions"]["goes on through a 9"]["exact"], 1)

    def test_a_site_that_the_others_make_needless_is_taken_out_again(self):
        helper, one, other = (Site("encoder.0.self", head, 0) for head in range(3))

        class Stub:
            conditions, column, impossible = ["carry"], 1, {}
            base = SimpleNamespace(
                outputs={"encoder.0.self": torch.zeros(10, 3, 1, 1)},
                model=SimpleNamespace(training_info=info()),
                source=torch.zeros(10, 5),
            )

            def rows(self, *names, searching):
                return torch.arange(10 if "carry" in names else 0)

            def inject(self, sites, rows):
                hits = 6 + len(sites) if helper in sites else len(sites)
                hits = 10 if {one, other} <= {*sites} else hits
                return torch.arange(10) < hits, None, torch.ones(10)

            def scores(self, sites, searching):
                return {}

        records = [{"conditions": {"carry": {"shift": 1.0}}}] * 3
        found = find_smallest_set(Stub(), records, ("carry",))
        self.assertEqual(len(found["search"]), 3)
        self.assertEqual({*found["sites"]}, {"encoder.0.self.1@a10", "encoder.0.self.2@a10"})

    def test_the_probe_reads_the_carry_where_it_is(self):
        problems = encode_problems(*(numbers[:2000] for numbers in self.pool))
        records = measure_probes(Examination(Planted(), *problems))
        accuracy = {(record["site"], record["column"]): record["accuracy"] for record in records}
        self.assertEqual(accuracy["decoder.0.cross.1@s10", 1], 1)
        self.assertLess(accuracy["decoder.0.cross.0@s10", 1], 0.65)
        a, b = decode_problems(problems[0])
        (majority,) = {r["majority"] for r in records if r["column"] == 1}
        share = (a[1::2, 1] + b[1::2, 1] >= 10).float().mean().item()
        self.assertAlmostEqual(majority, max(share, 1 - share), places=5)
