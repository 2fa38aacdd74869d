"""The page's questions: answers are the model's own, and no question can upset them."""

import contextlib
import io
import json
import random
import re
import unittest
from unittest import mock

from support.cli import UserError
from support.files import WEIGHTS_DIGEST, file_digest, weights_digest, write_json

import torch

from beyond import explore
from beyond.answers import COUNTED, NINES, Answers, Subject
from dataset import ORDERS, encode_problems, in_order, shift_right, to_digits, to_numbers
from heads.carries import cascade_length
from heads.examination import encode
from heads.exhaustive import all_pairs, pair_index
from heads.interchange import CONDITIONS, carry_into, column_sums
from heads.sites import Site, ablated, all_heads, recorded, recorded_outputs
from tests.helpers import command, fuzzed_body, serving
from tests.small import SmallData, digits, save, small_model

N, MODEL = 2, ORDERS[0]
LONELY = "encoder.1.self.1"
FOUND = {
    "column": 1,
    "searched_on": ["carry"],
    "sites": ["encoder.0.self.0@a10"],
}


def random_model(order):
    """A model that has learned nothing, but answers differently to different problems."""
    model = small_model(num_heads=2, d_ff=16, order=order)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        model.output_projection.bias[10:] = -100.0  # it writes digits alone
    return model


def greedy(model, source, sites=(), outputs=None):
    """Tokens `[N, T]`, decoded digit by digit, and the logits at each."""
    tokens = torch.zeros(len(source), N + 1, dtype=torch.long)
    with torch.no_grad(), ablated(model, sites, outputs):
        for t in range(N + 1):
            tokens[:, t] = model(source, shift_right(tokens))[:, t].argmax(dim=-1)
        return tokens, model(source, shift_right(tokens))


def outputs_of(model, order, a, b):
    """What all blocks give out when the model reads a + b and then writes the right digits."""
    source, target = encode(digits(a), digits(b), order)
    with recorded_outputs(model) as kept, torch.no_grad():
        model(source, shift_right(target))
    return {block: value for block, (value,) in kept.items()}


def shown(records, key="digit"):
    return "".join(record[key] for record in records)


def text(tokens):
    return "".join(map(str, tokens.tolist()))


class Asked(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        a, b = all_pairs(N)
        training = torch.rand(len(a), generator=torch.Generator().manual_seed(0)) < 0.3
        cls.training, _ = encode_problems(a[training], b[training])
        cls.seen = set(pair_index(a[training], b[training]).tolist())
        cls.subjects = {o: Subject(random_model(o), cls.training, [FOUND]) for o in ORDERS}
        cls.answers = Answers(cls.subjects)

    def each_order(self):
        return [(order, subject.model) for order, subject in self.subjects.items()]

    def is_seen(self, a, b):
        return pair_index(digits(a), digits(b)).item() in self.seen


class Solve(Asked):
    def check(self, said, order, a, b, sites=(), outputs=None):
        """What is said is what the model does; returns what it writes."""
        model = self.subjects[order].model
        source, target = encode(digits(a), digits(b), order)
        tokens, logits = greedy(model, source, sites, outputs)
        self.assertEqual(shown(said["digits"]), text(tokens[0]))
        self.assertEqual(shown(said["digits"], "right"), text(target[0]))
        rows = zip(said["digits"], logits[0].softmax(dim=-1), tokens[0].tolist())
        for digit, probabilities, token in rows:
            self.assertAlmostEqual(digit["probability"], probabilities[token].item(), places=5)
            ten = torch.tensor(digit["probabilities"])
            torch.testing.assert_close(ten, probabilities[:10], atol=1e-5, rtol=0)
        with recorded(model) as kept, ablated(model, sites, outputs), torch.no_grad():
            model(source, shift_right(tokens))
        heads = all_heads(model)
        self.assertEqual([each["head"] for each in said["maps"]], [site.name() for site in heads])
        for each, site in zip(said["maps"], heads):
            weights = kept[site.block][0][0, site.head]
            torch.testing.assert_close(torch.tensor(each["weights"]), weights, atol=1e-4, rtol=0)
            self.assertEqual((len(each["queries"]), len(each["keys"])), weights.shape)
        return text(tokens[0])

    def test_the_whole_model(self):
        written = set()
        for order, _ in self.each_order():
            for a, b in [(10, 10), (47, 59), (99, 99), (12, 80), (31, 13), (95, 21), (20, 70)]:
                said = self.answers.solve(order, a, b, [], "zero")
                written.add(self.check(said, order, a, b))
                self.assertEqual("".join(said["source"]), f"{a}+{b}")
                self.assertEqual(said["source_labels"], ["a10", "a1", "+", "b10", "b1"])
                labels = [digit["label"] for digit in said["digits"]]
                expected = ["s100", "s10", "s1"]
                self.assertEqual(labels, expected if order == MODEL else expected[::-1])
                self.assertEqual("".join(said["intact"]), shown(said["digits"]))
        self.assertGreater(len(written), 3)

    def test_without_heads(self):
        off = [LONELY, "decoder.0.cross.0"]
        for order, model in self.each_order():
            self.check(self.answers.solve(order, 47, 59, off, "zero"), order, 47, 59, off)
            outputs = self.subjects[order].unseen.outputs.items()
            means = {block: value.mean(dim=0, keepdim=True) for block, value in outputs}
            self.check(self.answers.solve(order, 47, 59, off, "mean"), order, 47, 59, off, means)
            said = self.answers.solve(order, 47, 59, off, "resample")
            self.assertNotEqual(said["resampled_from"], [47, 59])
            other = outputs_of(model, order, *said["resampled_from"])
            self.check(said, order, 47, 59, off, other)

    def test_a_problem_is_never_resampled_from_itself(self):
        subject = self.subjects[MODEL]
        a, b = to_numbers(subject.a).tolist(), to_numbers(subject.b).tolist()
        own = [(x, y) for i, (x, y) in enumerate(zip(a, b)) if (x + y) % len(a) == i]
        self.assertTrue(own)
        for x, y in own:
            said = self.answers.solve(MODEL, x, y, [LONELY], "resample")
            self.assertNotEqual(said["resampled_from"], [x, y])


class Accuracy(Asked):
    def test_problems_are_unseen_and_counted_by_their_carries(self):
        for order, subject in self.subjects.items():
            model = subject.model
            self.assertEqual(len(subject.a), COUNTED)
            self.assertFalse(self.seen & set(pair_index(subject.a, subject.b).tolist()))
            source, target = encode(subject.a, subject.b, order)
            long = cascade_length(subject.a, subject.b) > 0
            with ablated(model, [LONELY, "encoder.0.self.0"]):
                right = (model.generate(source, N + 1) == target).all(dim=1)
            said = self.answers.accuracy(order, [LONELY, "encoder.0.self.0"], "zero")["without"]
            for name, group in (("all", long | True), ("long", long), ("short", ~long)):
                counts = {"n": int(group.sum()), "right": int(right[group].sum())}
                self.assertEqual(said[name], counts)


class Carry(Asked):
    def test_donors_make_their_condition_and_are_unseen(self):
        made = set()
        for a, b in [(47, 58), (12, 13), (45, 54), (46, 58), (30, 45)]:
            for column in (1, 2):
                for number in range(2):
                    donors = self.answers.donors(MODEL, a, b, column, number)
                    for condition, donor in donors.items():
                        self.assertFalse(self.is_seen(donor["a"], donor["b"]))
                        self.assertEqual(donor["words"], CONDITIONS[condition])
                        pairs = digits(a, donor["a"]), digits(b, donor["b"])
                        one, other = carry_into(*pairs)[:, column].tolist()
                        self.assertEqual(one == other, condition == "same carry")
                        made.add((column, condition))
                        if column < N:
                            one, other = column_sums(*pairs)[:, column].tolist()
                            self.assertEqual(one == other, condition != "other digits")
                            self.assertEqual(one == 9, condition == NINES)
        tens = {(1, condition) for condition in ("carry", "same carry", "other digits", NINES)}
        self.assertEqual(made, tens | {(2, "carry"), (2, "same carry")})

    def test_outputs_are_moved_from_the_donor(self):
        sites = ["encoder.0.self.0@a10", "encoder.1.ffn@b1", "decoder.0.cross.1@s10"]
        chosen = [Site("encoder.0.self", 0, 0), Site("encoder.1.ffn", 0, 4)]
        chosen.append(Site("decoder.0.cross", 1, 1))
        source, _ = encode_problems(digits(47), digits(58))
        for order, model in self.each_order():
            before = text(greedy(model, source)[0][0])
            tokens, _ = greedy(model, source, chosen, outputs_of(model, order, 43, 51))
            said = self.answers.move(order, 47, 58, 43, 51, 1, sites)
            self.assertEqual(
                (shown(said["before"]), shown(said["moved"])), (before, text(tokens[0]))
            )
            said = self.answers.move(order, 47, 58, 43, 51, 1, [])
            self.assertEqual(shown(said["moved"]), before)

    def test_what_the_donor_s_carry_implies(self):
        for order, _ in self.each_order():
            for problem, implied, carries in [
                ((47, 58, 43, 51, 1), 95, (True, False)),
                ((43, 51, 47, 58, 1), 104, (False, True)),
                ((47, 58, 49, 51, 1), 105, (True, True)),
                ((47, 58, 12, 13, 2), 5, (True, False)),
            ]:
                said = self.answers.move(order, *problem, [])
                right = in_order(to_digits(torch.tensor([implied]), N + 1), order)[0]
                self.assertEqual(shown(said["implied"]), text(right))
                self.assertEqual((said["carry"], said["donor_carry"]), carries)
                self.assertEqual(said["as_implied"], shown(said["moved"]) == text(right))


class Refused(Asked):
    def test_what_is_wrong_is_said_in_one_line(self):
        solve, donors, move = self.answers.solve, self.answers.donors, self.answers.move
        numbers = [(9, "from 10 to 99, not 9"), (100, "not 100"), (True, "not True")]
        numbers += [("10", "not '10'"), (10.0, "not 10.0"), ("x" * 100_000, "xxx...")]
        wrong = [(solve, (MODEL, 10, value, [], "zero"), words) for value, words in numbers]
        for question, arguments, words in [
            *wrong,
            (solve, ("x", 10, 10, [], "zero"), f"'x': choose from {', '.join(ORDERS)}"),
            (solve, ([], 10, 10, [], "zero"), "no model is called []"),
            (solve, (MODEL, 10, 10, LONELY, "zero"), "must be a list of names"),
            (solve, (MODEL, 10, 10, ["x"], "zero"), "no head is called 'x'"),
            (solve, (MODEL, 10, 10, [LONELY] * 2, "zero"), "a head is named twice"),
            (solve, (MODEL, 10, 10, [], "x"), "called 'x': choose from zero, mean, resample"),
            (self.answers.accuracy, (MODEL, [], []), "no method is called []"),
            (donors, (MODEL, 10, 10, 0, 0), "must be a whole number from 1 to 2"),
            (donors, (MODEL, 10, 10, 1, -1), "the number of the donor"),
            (move, (MODEL, 10, 10, 1, 10, 1, []), "not 1"),
            (move, (MODEL, 10, 10, 10, 10, 1, ["x"]), "no site is called 'x'"),
        ]:
            with self.subTest(words), self.assertRaises(UserError) as raised:
                question(*arguments)
            self.assertIn(words, str(raised.exception))
            self.assertLess(len(str(raised.exception)), 300)
            self.assertNotIn("\n", str(raised.exception))

    def test_fuzzed_requests(self):
        values = [*ORDERS, 10, 47, 1, 2, 0, -1, 10**30, 0.5, None, True, "", "x", "zero", "mean"]
        values += ["carry", [], [LONELY], ["encoder.0.self.0@a10"], [[]], {}, [0], "\ud800\x00"]
        likely = {"model": [*ORDERS], "a": [47, 10], "b": [58, 99], "off": [[], [LONELY]]}
        likely |= {"by": ["zero", "mean"], "column": [1, 2]}
        likely |= {"number": [0, 1], "sites": [[]], "donor_a": [43], "donor_b": [51]}
        names = {"models": "", "solve": "model a b off by", "accuracy": "model off by"}
        names |= {"donors": "model a b column number", "x": "model"}
        names |= {"move": "model a b donor_a donor_b column sites"}
        generator, statuses = random.Random(0), []
        with serving(self.answers.groups()) as server:
            errors = self.enterContext(contextlib.redirect_stderr(io.StringIO()))
            for _ in range(300):
                name = generator.choice(list(names))
                keys = names[name].split()
                body = fuzzed_body(generator, keys, values)
                if generator.random() < 0.25:
                    given = {key: generator.choice(likely[key]) for key in keys}
                    body = json.dumps(given).encode()
                status, _, answer = server.request("POST", f"/ask/{name}", body)
                self.assertEqual(list(answer) == ["error"], status != 200, body)
                statuses.append(status)
            self.assertEqual(server.request("POST", "/ask/models", b"{}")[0], 200)
        self.assertNotIn(" ended in ", errors.getvalue())  # said of a question that fails
        self.assertEqual(set(statuses), {200, 400, 404})
        self.assertGreater(min(map(statuses.count, statuses)), 20)


class Command(SmallData):
    def explore(self, *arguments):
        """The command's result, and a mock of the server that got the page and its questions."""
        with mock.patch.object(explore.server, "serve", return_value=130) as serve:
            return command(explore.main, *arguments), serve

    def test_a_model_of_one_s_own(self):
        data, path = self.small_data(), self.folder / "model.pth"
        model = small_model(d_model=4, num_heads=1, d_ff=4, order=ORDERS[1])
        digest = file_digest(data / "train.json")
        save(path, model, num_digits=1, train_sha256=digest)
        options = "--model-path", path, "--data-dir", data, "--no-browser", "--port", 5000
        for digest, found in [("of other weights", 0), (weights_digest(model), 1)]:
            record = {WEIGHTS_DIGEST: digest, "sets": [FOUND]}
            write_json(self.folder / "head_analysis" / "carry.json", record)
            result, serve = self.explore(*options)
            self.assertEqual(result, (130, "", ""))  # Ctrl-C
            page, groups, port, browser = serve.call_args.args
            self.assertIn(b"<title>Inside an adder</title>", page)
            self.assertEqual((port, browser), (5000, False))
            ((name, about),) = groups[0]["models"]()["models"].items()
            self.assertEqual(
                (name, about["num_digits"], len(about["found"])), (ORDERS[1], 1, found)
            )
            self.assertEqual(len(groups[0]["solve"](ORDERS[1], 3, 4, [], "mean")["digits"]), 2)

    def test_mistakes_are_one_line(self):
        result, _ = self.explore("--model-path", self.folder / "none.pth")
        self.assert_one_line(result, "none.pth", "python train.py")
        self.assert_one_line(self.explore("--port", 80)[0], "80 is not from 1,024 to 65,535")
        save(self.folder / "model.pth", small_model(), num_digits=1)
        options = "--model-path", self.folder / "model.pth", "--data-dir", self.small_data()
        self.assert_one_line(self.explore(*options)[0], "--data-dir")

    def test_the_page_needs_nothing_from_elsewhere_and_its_controls_have_labels(self):
        page = explore.server.read_page(explore.PAGE).decode()
        elsewhere = r"""(?:src|href)=["'](?!data:,)|@import|url\(|https?://(?!www\.w3\.org/2000/)"""
        self.assertEqual(re.findall(elsewhere, page), [])
        for question in [name for group in Answers({}).groups() for name in group]:
            self.assertRegex(page, f'ask(Last)?\\("{question}"')
        without_labels = re.sub(r"<label>.*?</label>", "", page, flags=re.DOTALL)
        self.assertGreater(page.count("<input") + page.count("<select"), 5)
        controls = r"<(?:input|select|textarea)(?![^>]*aria-label)[^>]*>"
        self.assertEqual(re.findall(controls, without_labels), [])
