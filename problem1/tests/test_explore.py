"""The page's questions: answers are those of the model itself, and nothing that is asked can upset them."""

import contextlib
import io
import json
import random
import re
import unittest
from unittest import mock

import torch

import explore
from dataset import digits_of, encode_problems, numbers_of, shift_right
from exploring.answers import COUNTED, Answers, Subject
from heads.interchange import CONDITIONS, carry_into, column_sums
from heads.sites import Site, ablated, all_heads, parse_head, recorded, recorded_outputs, without_heads
from learning.carries import cascade_length
from learning.exhaustive import pair_index
from model import ORDERS, Seq2SeqTransformer
from support.cli import UserError
from support.digests import KEY, file_digest, weights_digest
from support.files import write_json
from tests.helpers import TemporaryFolder, command, fuzzed_body, save_with, serving

N = 2
LONELY = "encoder.1.self.1"
FOUND = [{"column": 1, "searched_on": ["carry"], "heads_only": True, "sites": ["encoder.0.self.0@a10"], "search": []}]


def random_model(order):
    """A model that has learnt nothing, but answers differently to different problems."""
    torch.manual_seed(0)
    model = Seq2SeqTransformer(13, 16, 2, 2, 2, 16, order=order).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        model.output_projection.bias[10:] = -100.0  # it writes digits alone
    return model


def greedy(model, source, sites=(), outputs=None):
    """Tokens `[N, T]` in the order of writing, and the logits at each, decoded digit by digit without any cache."""
    tokens = torch.zeros(len(source), N + 1, dtype=torch.long)
    with torch.no_grad(), ablated(model, sites, outputs):
        for t in range(N + 1):
            logits = model(source, shift_right(tokens))
            tokens[:, t] = logits[:, t].argmax(dim=-1)
        return tokens, model(source, shift_right(tokens))


def outputs_of(model, a, b):
    """What all blocks give out when the model reads a + b and then writes the right digits."""
    source, target = encode_problems(torch.tensor([a]), torch.tensor([b]), N)
    with recorded_outputs(model) as kept, torch.no_grad():
        model(source, shift_right(model.written(target)))
    return {block: value for block, (value,) in kept.items()}


class Asked(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        numbers = torch.arange(10, 100)
        a, b = torch.cartesian_prod(numbers, numbers).unbind(dim=1)
        training = torch.rand(len(a), generator=torch.Generator().manual_seed(0)) < 0.5
        cls.training, _ = encode_problems(a[training], b[training], N)
        cls.subjects = {order: Subject(random_model(order), N, cls.training, FOUND) for order in ORDERS}
        cls.answers = Answers(cls.subjects)

    def each_order(self):
        return [(order, subject.model) for order, subject in self.subjects.items()]

    def digits(self, records):
        return "".join(record["digit"] for record in records)

    def text(self, tokens):
        return "".join(str(token) if token < 10 else "?" for token in tokens.tolist())


class Solve(Asked):
    def check(self, said, model, a, b, sites, outputs):
        source, target = encode_problems(torch.tensor([a]), torch.tensor([b]), N)
        tokens, logits = greedy(model, source, sites, outputs)
        self.assertEqual(self.digits(said["digits"]), self.text(tokens[0]))
        self.assertEqual("".join(digit["right"] for digit in said["digits"]), self.text(model.written(target)[0]))
        for digit, probabilities, token in zip(said["digits"], logits[0].softmax(dim=-1), tokens[0].tolist()):
            self.assertAlmostEqual(digit["probability"], probabilities[token].item(), places=5)
            torch.testing.assert_close(torch.tensor(digit["probabilities"]), probabilities[:10], atol=1e-5, rtol=0)
        with recorded(model) as kept, ablated(model, sites, outputs), torch.no_grad():
            model(source, shift_right(tokens))
        self.assertEqual([each["head"] for each in said["maps"]], [site.name() for site in all_heads(model)])
        for each in said["maps"]:
            site = parse_head(each["head"])
            torch.testing.assert_close(torch.tensor(each["weights"]), kept[site.block][0][0, site.head], atol=1e-4,
                                       rtol=0)

    def test_the_whole_model(self):
        seen = set()
        for order, model in self.each_order():
            for a, b in [(10, 10), (47, 59), (99, 99), (12, 80), (31, 13), (95, 21), (20, 70)]:
                said = self.answers.solve(order, a, b, [], "zero")
                self.check(said, model, a, b, [], None)
                self.assertEqual("".join(said["source"]), f"{a}+{b}")
                self.assertEqual(said["source_labels"], ["a10", "a1", "+", "b10", "b1"])
                self.assertEqual([digit["label"] for digit in said["digits"]],
                                 ["s100", "s10", "s1"] if order == ORDERS[0] else ["s1", "s10", "s100"])
                source, _ = encode_problems(torch.tensor([a]), torch.tensor([b]), N)
                written = model.written(model.generate(source, N + 1))[0]
                self.assertEqual(self.digits(said["digits"]), self.text(written))
                self.assertEqual("".join(said["intact"]), self.text(written))
                seen.add(self.text(written))
        self.assertGreater(len(seen), 3)

    def test_without_heads(self):
        off = [LONELY, "decoder.0.cross.0"]
        for order, model in self.each_order():
            source, _ = encode_problems(torch.tensor([47]), torch.tensor([59]), N)
            said = self.answers.solve(order, 47, 59, off, "zero")
            self.check(said, model, 47, 59, off, None)
            smaller = without_heads(model, off)
            written = smaller.written(smaller.generate(source, N + 1))[0]
            self.assertEqual(self.digits(said["digits"]), self.text(written))
            subject = self.subjects[order]
            means = {block: value.mean(dim=0, keepdim=True) for block, value in subject.unseen.outputs.items()}
            self.check(self.answers.solve(order, 47, 59, off, "mean"), model, 47, 59, off, means)
            said = self.answers.solve(order, 47, 59, off, "resample")
            self.assertNotEqual(said["resampled_from"], [47, 59])
            self.check(said, model, 47, 59, off, outputs_of(model, *said["resampled_from"]))

    def test_a_problem_is_never_resampled_from_itself(self):
        for order, subject in self.subjects.items():
            a, b = (numbers.tolist() for numbers in subject.numbers)
            own = [(x, y) for i, (x, y) in enumerate(zip(a, b)) if (x + y) % len(a) == i]
            for x, y in [*own, (a[0], b[0])]:
                self.assertNotEqual(self.answers.solve(order, x, y, [LONELY], "resample")["resampled_from"], [x, y])

    def test_maps_have_a_label_for_every_row_and_column(self):
        for each in self.answers.solve(ORDERS[0], 47, 59, [], "zero")["maps"]:
            self.assertEqual((len(each["queries"]), len(each["keys"])),
                             (len(each["weights"]), len(each["weights"][0])))
        self.assertEqual((each["head"], each["queries"], each["keys"]),
                         ("decoder.1.cross.1", ["s100", "s10", "s1"], ["a10", "a1", "+", "b10", "b1"]))


class Accuracy(Asked):
    def test_problems_are_unseen_and_counted_by_their_carries(self):
        for order, model in self.each_order():
            a, b = self.subjects[order].numbers
            self.assertEqual(len(a), COUNTED)
            self.assertFalse(torch.isin(pair_index(a, b, N), pair_index(*numbers_of(self.training, N), N)).any())
            source, target = encode_problems(a, b, N)
            long = cascade_length(a, b, N) > 0
            for off in ([], [LONELY, "encoder.0.self.0"]):
                smaller = without_heads(model, off)
                right = (smaller.generate(source, N + 1) == target).all(dim=1)
                said = self.answers.accuracy(order, off, "zero")["without"]
                self.assertEqual(said["all"], {"n": COUNTED, "right": int(right.sum())})
                self.assertEqual(said["long"], {"n": int(long.sum()), "right": int(right[long].sum())})
                self.assertEqual(said["short"], {"n": int((~long).sum()), "right": int(right[~long].sum())})

    def test_every_method_counts_what_it_leaves_right(self):
        # The random model is right nowhere; one that is right on what it says itself shows each loss.
        subject = Subject(random_model(ORDERS[0]), N, self.training, [])
        examination = subject.unseen
        examination.target = examination.clean.tokens.clone()
        answers = Answers({"own": subject})
        site = parse_head(LONELY)
        stand_ins = {"zero": None, "mean": [subject.means[site.block]],
                     "resample": [examination.outputs[site.block].roll(1, dims=0)]}
        counts = set()
        for by, outputs in stand_ins.items():
            tokens, _ = greedy(subject.model, examination.source, [site], outputs and {site.block: outputs[0]})
            right = int((tokens == examination.target).all(dim=1).sum())
            said = answers.accuracy("own", [LONELY], by)
            self.assertEqual((said["without"]["all"]["right"], said["intact"]["all"]["right"]), (right, COUNTED))
            counts.add(right)
        self.assertEqual(len(counts), 3)

    def test_a_set_of_heads_is_counted_once(self):
        answers = Answers(self.subjects)
        with mock.patch.object(self.subjects[ORDERS[0]].unseen, "matches",
                               wraps=self.subjects[ORDERS[0]].unseen.matches) as matches:
            for off in (["encoder.0.self.0", LONELY], [LONELY, "encoder.0.self.0"], []):
                answers.accuracy(ORDERS[0], off, "zero")
        self.assertEqual(matches.call_count, 2)


class Carry(Asked):
    def test_donors_make_their_condition_and_are_unseen(self):
        seen = set(zip(*(numbers.tolist() for numbers in numbers_of(self.training, N))))
        made = set()
        for a, b in [(47, 58), (12, 13), (45, 54), (46, 58), (30, 45)]:
            for column in (1, 2):
                for condition in ("carry", "same carry", "other digits")[:4 - column]:
                    for number in range(2):
                        try:
                            donor = self.answers.donor(ORDERS[0], a, b, column, condition, number)
                        except UserError as error:
                            self.assertIn("no donor", str(error))
                            continue
                        self.assertNotIn((donor["a"], donor["b"]), seen)
                        pairs = torch.tensor([a, donor["a"]]), torch.tensor([b, donor["b"]])
                        carries = carry_into(*pairs, N)[:, column].tolist()
                        self.assertEqual(carries[0] == carries[1], condition == "same carry")
                        self.assertIn(donor["condition"], CONDITIONS.values())
                        made.add((column, donor["condition"]))
                        if column < N:
                            sums = column_sums(*pairs, N)[:, column].tolist()
                            self.assertEqual(sums[0] == sums[1], condition != "other digits")
                            self.assertEqual(donor["condition"] == CONDITIONS["goes on through a 9"],
                                             condition == "carry" and sums[0] == 9)
        self.assertEqual(len(made), 6)  # three conditions in column 1, and the 9; two in the overflow

    def test_outputs_are_moved_from_the_donor(self):
        sites = ["encoder.0.self.0@a10", "encoder.1.ffn@b1", "decoder.0.cross.1@s10"]
        for order, model in self.each_order():
            place = self.subjects[order].labels.index("s10")
            chosen = [Site("encoder.0.self", 0, 0), Site("encoder.1.ffn", 0, 4), Site("decoder.0.cross", 1, place)]
            source, _ = encode_problems(torch.tensor([47]), torch.tensor([58]), N)
            said = self.answers.move(order, 47, 58, 43, 51, 1, sites)
            tokens, _ = greedy(model, source, chosen, outputs_of(model, 43, 51))
            self.assertEqual(self.digits(said["moved"]), self.text(tokens[0]))
            before, _ = greedy(model, source)
            self.assertEqual(self.digits(said["before"]), self.text(before[0]))
            still = self.answers.move(order, 47, 58, 43, 51, 1, [])["moved"]
            self.assertEqual(self.digits(still), self.text(before[0]))

    def test_what_the_donor_s_carry_implies(self):
        for order, model in self.each_order():
            for (a, b, c, d, column), implied, carries in [
                    ((47, 58, 43, 51, 1), 95, (True, False)), ((43, 51, 47, 58, 1), 104, (False, True)),
                    ((47, 58, 49, 51, 1), 105, (True, True)), ((47, 58, 12, 13, 2), 5, (True, False))]:
                said = self.answers.move(order, a, b, c, d, column, [])
                right = model.written(digits_of(torch.tensor([implied]), N + 1))[0]
                self.assertEqual(self.digits(said["implied"]), self.text(right))
                self.assertEqual((said["carry"], said["donor_carry"]), carries)
                self.assertEqual(said["as_implied"], self.digits(said["moved"]) == self.text(right))


class Refused(Asked):
    def test_what_is_wrong_is_said_in_one_line(self):
        solve, donor, move = self.answers.solve, self.answers.donor, self.answers.move
        model, long = ORDERS[0], "x" * 100_000
        for question, arguments, words in [
                (solve, ("x", 10, 10, [], "zero"), "no model is called 'x': choose from left-to-right, right-to-left"),
                (solve, ([], 10, 10, [], "zero"), "no model is called []"),
                (solve, (model, 9, 10, [], "zero"), "a whole number from 10 to 99, not 9"),
                (solve, (model, 10, 100, [], "zero"), "not 100"), (solve, (model, True, 10, [], "zero"), "not True"),
                (solve, (model, "10", 10, [], "zero"), "not '10'"), (solve, (model, 10.0, 10, [], "zero"), "not 10.0"),
                (solve, (model, 10, None, [], "zero"), "not None"), (solve, (model, long, 10, [], "zero"), "xxx..."),
                (solve, (model, 10, 10, "encoder.0.self.0", "zero"), "must be a list of names"),
                (solve, (model, 10, 10, ["encoder.0.self.2"], "zero"), "no head is called 'encoder.0.self.2'"),
                (solve, (model, 10, 10, [[]], "zero"), "no head is called []"),
                (solve, (model, 10, 10, [LONELY] * 2, "zero"), "a head is named twice"),
                (solve, (model, 10, 10, [], "x"), "no method is called 'x': choose from zero, mean, resample"),
                (self.answers.accuracy, (model, [long], "zero"), "no head is called"),
                (self.answers.accuracy, (model, [], []), "no method is called []"),
                (donor, (model, 10, 10, 0, "carry", 0), "the carry enters must be a whole number from 1 to 2"),
                (donor, (model, 10, 10, 3, "carry", 0), "not 3"),
                (donor, (model, 10, 10, True, "carry", 0), "not True"),
                (donor, (model, 10, 1, 1, "carry", 0), "from 10 to 99"),
                (donor, (model, 10, 10, 1, "x", 0), "choose from carry, same carry, other digits"),
                (donor, (model, 10, 10, 2, "other digits", 0), "choose from carry, same carry"),
                (donor, (model, 10, 10, 1, "carry", -1), "the number of the donor"),
                (donor, (model, 45, 54, 1, "same carry", 0), "its digits in that column sum to 9"),
                (donor, (model, 10, 99, 2, "carry", 0), "is no sum of two such numbers"),
                (move, (model, 10, 10, 1, 10, 1, []), "not 1"), (move, (model, 10, 10, 10, 10, 9, []), "not 9"),
                (move, (model, 10, 10, 10, 10, 1, ["encoder.0.self.0"]), "no site is called 'encoder.0.self.0'")]:
            with self.subTest(words), self.assertRaises(UserError) as raised:
                question(*arguments)
            self.assertIn(words, str(raised.exception))
            self.assertLess(len(str(raised.exception)), 300)
            self.assertNotIn("\n", str(raised.exception))

    def test_a_thousand_fuzzed_requests(self):
        generator, values = random.Random(0), [
            *ORDERS, 10, 47, 58, 99, 1, 2, 0, -1, 10 ** 30, 0.5, None, True, "", "x", "zero", "mean", "resample",
            "carry", "same carry", [], [LONELY], ["encoder.0.self.0@a10"], [[]], {}, [0], "\ud800\x00", "x" * 2000]
        names = {"models": [], "solve": ["model", "a", "b", "off", "by"], "accuracy": ["model", "off", "by"],
                 "donor": ["model", "a", "b", "column", "condition", "number"],
                 "move": ["model", "a", "b", "donor_a", "donor_b", "column", "sites"], "x": ["model"]}
        likely = {"model": [*ORDERS], "a": [47, 10], "b": [58, 99], "off": [[], [LONELY]], "by": ["zero", "mean"],
                  "column": [1, 2], "condition": ["carry"], "number": [0, 1], "sites": [[]],
                  "donor_a": [43], "donor_b": [51]}
        statuses = {}
        with serving(self.answers.groups()) as server, contextlib.redirect_stderr(io.StringIO()) as errors:
            for _ in range(1000):
                name = generator.choice(list(names))
                body = fuzzed_body(generator, names[name], values)
                if generator.random() < 0.25:
                    body = json.dumps({key: generator.choice(likely[key] if generator.random() < 0.9 else values)
                                       for key in names[name]}).encode()
                status, _, answer = server.request("POST", f"/ask/{name}", body)
                self.assertIn(status, (200, 400, 404), body)
                self.assertEqual(list(answer) == ["error"], status != 200, body)
                statuses[status] = statuses.get(status, 0) + 1
            self.assertEqual(server.request("POST", "/ask/models", b"{}")[0], 200)
        self.assertNotIn(" ended in ", errors.getvalue())  # what the server says of a question that fails
        self.assertGreater(min(statuses.values()), 100, statuses)


class Command(TemporaryFolder):
    def explore(self, *arguments):
        """The command's result, and the questions and the page that it would have served."""
        with mock.patch.object(explore, "serve") as serve:
            return command(explore.main, *arguments), serve

    def test_a_model_of_one_s_own(self):
        data = self.small_data()
        torch.manual_seed(0)
        model = Seq2SeqTransformer(13, 4, 1, 1, 1, 4, order=ORDERS[1])
        save_with(self.folder / "model.pth", model, num_digits=1, train_sha256=file_digest(data / "train.json"))
        arguments = "--model-path", self.folder / "model.pth", "--data-dir", data, "--no-browser", "--port", 5000
        for digest, found in [("of other weights", []), (weights_digest(model.state_dict()), FOUND)]:
            write_json(self.folder / "head_analysis" / "carry.json", {KEY: digest, "sets": FOUND})
            result, serve = self.explore(*arguments)
            self.assertEqual(result[0], 0, result)
            page, groups, port, browser = serve.call_args.args
            self.assertIn(b"<title>Inside an adder</title>", page)
            self.assertEqual((port, browser), (5000, False))
            (name, about), = groups[0]["models"]()["models"].items()
            self.assertEqual((name, about["num_digits"], len(about["found"])), (ORDERS[1], 1, len(found)))
            self.assertEqual(len(groups[0]["solve"](ORDERS[1], 3, 4, [], "mean")["digits"]), 2)
            self.assertEqual(set(groups[1]), {"accuracy"})

    def test_mistakes_are_one_line(self):
        self.assert_one_line(self.explore("--model-path", self.folder / "none.pth")[0], "none.pth", "python train.py")
        self.assert_one_line(self.explore("--port", 80)[0], "80 is not from 1,024 to 65,535")
        data = self.small_data()
        save_with(self.folder / "model.pth", Seq2SeqTransformer(13, 4, 1, 1, 1, 4), num_digits=1)
        result, _ = self.explore("--model-path", self.folder / "model.pth", "--data-dir", data)
        self.assert_one_line(result, "--data-dir")

    def test_the_page_needs_nothing_from_elsewhere(self):
        page = explore.read_page(explore.PAGE).decode()
        elsewhere = r"""(?:src|href)=["'](?!data:,)|@import|url\(|https?://(?!www\.w3\.org/2000/svg)"""
        self.assertEqual(re.findall(elsewhere, page), [])
        for question in [name for group in Answers({}).groups() for name in group]:
            self.assertIn(f'ask("{question}"', page)

    def test_every_control_has_a_label(self):
        page = explore.read_page(explore.PAGE).decode()
        without_labels = re.sub(r"<label>.*?</label>", "", page, flags=re.DOTALL)
        self.assertGreater(page.count("<input") + page.count("<select"), 5)
        self.assertEqual(re.findall(r"<(?:input|select|textarea)(?![^>]*aria-label)[^>]*>", without_labels), [])


if __name__ == "__main__":
    unittest.main()
