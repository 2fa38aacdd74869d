"""The page's questions: answers are those of the models themselves, and nothing that is asked can upset them."""

import contextlib
import io
import json
import random
import re
import unittest
from unittest import mock

import torch

import explore
from exploring.answers import AROUND, KINDS, WINDOW, Answers
from generate_data import is_sorted
from learning.checkpoint import save_model
from model import create_model
from positional_encoding import visualize_positional_encoding
from support.cli import UserError
from tests.helpers import Oracle, TemporaryFolder, command, fuzzed_body, serving

LENGTHS = (1, 2, 9, 40)


def small_model(encoding, layers=2, **arguments):
    torch.manual_seed(0)
    model = create_model(encoding, d_model=8, num_heads=2, num_layers=layers, d_ff=8, max_len=40, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def values_of(length, seed=0):
    generator = random.Random(seed)
    return [generator.randint(0, 99) for _ in range(length)]


class Asked(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.models = {name: small_model(name) for name in ("sinusoidal", "learned", "none", "rotary", "relative_keys")}
        cls.models |= {"recommended": small_model("local_bias", 1, pooling="lowest"),
                       "scaled": small_model("alibi_directed", log_scaling=True)}
        cls.answers = Answers(cls.models)


class Classify(Asked):
    def test_probabilities_are_the_models(self):
        seen = set()
        for values in [[7, 7, 9], [9, 7, 7], *map(values_of, LENGTHS)]:
            said = self.answers.classify(values)
            self.assertEqual(said["sorted"], is_sorted(values))
            self.assertEqual(said["descents"], [i for i in range(len(values) - 1) if values[i] > values[i + 1]])
            self.assertEqual(list(said["models"]), list(self.models))
            for name, model in self.models.items():
                with torch.no_grad():
                    expected = model(torch.tensor([values])).softmax(dim=1)[0, 1].item()
                self.assertAlmostEqual(said["models"][name]["probability"], expected, places=5)
                seen.add(round(expected, 3))
        self.assertGreater(len(seen), 10)

    def test_the_lowest_margin_decides(self):
        for length in LENGTHS:
            values = values_of(length)
            said = self.answers.classify(values)["models"]
            self.assertEqual([name for name in said if "margins" in said[name]], ["recommended"])
            margins, model = said["recommended"]["margins"], self.models["recommended"]
            self.assertEqual(len(margins), length)
            self.assertAlmostEqual(torch.tensor(min(margins)).sigmoid().item(), said["recommended"]["probability"],
                                   places=3)
            with torch.no_grad():
                logits = model.classifier(model.encode(torch.tensor([values])))[0]
            torch.testing.assert_close(torch.tensor(margins), logits[:, 1] - logits[:, 0], atol=1e-3, rtol=0)

    def test_a_model_says_that_it_has_no_positions_so_far_out_and_the_others_answer(self):
        said = self.answers.classify(values_of(41))["models"]
        self.assertEqual(said["learned"],
                         {"error": "learned has positions for 40 values, and none beyond them; these are 41"})
        self.assertIn("probability", said["sinusoidal"])
        for question in (lambda: self.answers.look(values_of(41), "learned", 0, 0, 0),
                         lambda: self.answers.adds("learned", 41, 0)):
            with self.assertRaisesRegex(UserError, "none beyond them; these are 41"):
                question()
        self.assertIn("error", self.answers.by_length("swap", 41)["learned"])


class Look(Asked):
    def test_attention_is_that_of_the_head_in_the_layer(self):
        values = values_of(12)
        for name, model in self.models.items():
            kept = []
            hooks = [layer.self_attn.register_forward_hook(lambda module, arguments, output: kept.append(output[1][0]))
                     for layer in model.layers]
            with torch.no_grad():
                model(torch.tensor([values]))
            for hook in hooks:
                hook.remove()
            for layer, head in [(layer, head) for layer in range(len(model.layers)) for head in range(2)]:
                with self.subTest(model=name, layer=layer, head=head):
                    said = self.answers.look(values, name, layer, head, 5)
                    self.assertEqual(said["first"], 0)
                    torch.testing.assert_close(torch.tensor(said["weights"]), kept[layer][head], atol=1e-4, rtol=0)
                    self.assertEqual(said["turns"], name == "rotary")

    def test_biases_are_what_the_encoding_adds_to_the_scores(self):
        values = values_of(30)
        for name, at in [("recommended", 0), ("recommended", 14), ("recommended", 29), ("scaled", 14)]:
            model = self.models[name]
            bias = model.pos_encoding.bias(torch.zeros(1, 2, 30, 4))[1, at]
            if name == "scaled":
                bias = bias * torch.tensor(30.0).log()
            said = self.answers.look(values, name, 0, 1, at)["biases"]
            self.assertEqual([each["offset"] for each in said],
                             list(range(max(-AROUND, -at), min(AROUND, 29 - at) + 1)))
            for each in said:
                expected = bias[at + each["offset"]]
                if expected == -torch.inf:
                    self.assertIsNone(each["bias"])
                else:
                    self.assertAlmostEqual(each["bias"], expected.item(), places=3)
        self.assertIsNone(self.answers.look(values, "sinusoidal", 0, 0, 3)["biases"])
        of_queries = [self.answers.look(values, "relative_keys", 0, 0, at)["biases"][AROUND]["bias"] for at in (9, 12)]
        self.assertNotEqual(*of_queries)

    def test_what_is_added_are_the_rows_of_the_encoding(self):
        for name in ("sinusoidal", "learned"):
            said = self.answers.adds(name, 30, 3)
            expected = visualize_positional_encoding(self.models[name].pos_encoding, 30, 8)
            torch.testing.assert_close(torch.tensor(said["rows"]), torch.from_numpy(expected), atol=1e-3, rtol=0)
        for name in ("none", "rotary", "recommended"):
            self.assertEqual(self.answers.adds(name, 30, 3), {"first": 0, "rows": None})

    def test_of_long_sequences_a_window_around_the_position_is_shown(self):
        values = values_of(300)
        with torch.no_grad():
            x = torch.tensor([values])
            layer = self.models["sinusoidal"].layers[0]
            h = layer.norm1(self.models["sinusoidal"].embed(x))
            weights = layer.self_attn(h, h, h)[1][0, 1]
        for at, first in [(0, 0), (127, 0), (150, 22), (299, 44)]:
            said = self.answers.look(values, "sinusoidal", 0, 1, at)
            self.assertEqual(said["first"], first)
            torch.testing.assert_close(torch.tensor(said["weights"]),
                                       weights[first:first + WINDOW, first:first + WINDOW], atol=1e-4, rtol=0)
            added = self.answers.adds("sinusoidal", 300, at)
            self.assertEqual((added["first"], len(added["rows"])), (first, WINDOW))
            torch.testing.assert_close(torch.tensor(added["rows"][0]), self.models["sinusoidal"].pos_encoding.rows(45)[
                first], atol=1e-3, rtol=0)


class Draw(Asked):
    def test_kinds_and_lengths(self):
        for kind in KINDS:
            for length in (2, 3, 16, 2048):
                values = self.answers.draw(kind, length, 7)["values"]
                self.assertEqual((len(values), is_sorted(values)), (length, kind == "sorted"))
                self.assertEqual(self.answers.draw(kind, length, 7)["values"], values)
                if kind == "one_inversion":
                    self.assertEqual(sum(a > b for a, b in zip(values, values[1:])), 1)
            drawn = {tuple(self.answers.draw(kind, 8, number)["values"]) for number in range(5)}
            self.assertEqual(len(drawn), 5)

    def test_sequences_of_two_values_end(self):
        for kind in KINDS:
            for number in range(300):  # some of them are drawn alike at first
                self.assertEqual(is_sorted(self.answers.draw(kind, 2, number)["values"]), kind == "sorted")

    def test_by_length_counts_what_is_right_of_both_classes(self):
        answers = Answers({"knows": Oracle(), "says sorted": Oracle(1), "says unsorted": Oracle(0)})
        for length, n in [(2, 32), (64, 32), (256, 8), (2048, 2)]:
            self.assertEqual(answers.by_length("one_inversion", length),
                             {"knows": {"n": n, "right": n}, "says sorted": {"n": n, "right": n // 2},
                              "says unsorted": {"n": n, "right": n // 2}})
        self.assertEqual(answers.by_length("sorted", 16)["says unsorted"], {"n": 16, "right": 0})

    def test_a_length_is_measured_once(self):
        oracle = Oracle()
        answers = Answers({"knows": oracle})
        with mock.patch.object(oracle, "forward", wraps=oracle.forward) as forward:
            answers.by_length("swap", 2048)
            calls = forward.call_count
            answers.by_length("swap", 2048)
        self.assertEqual((forward.call_count, calls > 0), (calls, True))


class Refused(Asked):
    def test_what_is_wrong_is_said_in_one_line(self):
        classify, look, draw = self.answers.classify, self.answers.look, self.answers.draw
        for question, arguments, words in [
                (classify, ([],), "a sequence is a list of whole numbers from 0 to 99"),
                (classify, ("3 15",), "a sequence is a list"), (classify, (None,), "a sequence is a list"),
                (classify, ([3, 100],), "a value must be a whole number from 0 to 99, not 100"),
                (classify, ([3, -1],), "not -1"), (classify, ([3, "x" * 10_000],), "not 'xxx"),
                (classify, ([True],), "not True"), (classify, ([1.0],), "not 1.0"), (classify, ([[]],), "not []"),
                (classify, ([0] * 2049,), "2,049 values are too many: a sequence has at most 2,048"),
                (look, ([1, 2], "x", 0, 0, 0), "no model is called 'x': choose from sinusoidal, learned"),
                (look, ([1, 2], ["none"], 0, 0, 0), "no model is called ['none']"),
                (look, ([1, 2], "none", 2, 0, 0), "the layer must be a whole number from 0 to 1, not 2"),
                (look, ([1, 2], "none", 0, -1, 0), "the head must be a whole number from 0 to 1, not -1"),
                (look, ([1, 2], "none", 0, 0, 2), "the position must be a whole number from 0 to 1, not 2"),
                (look, ([1, 2], "none", "0", 0, 2), "not '0'"),
                (self.answers.adds, ("none", 2049, 0), "the length must be a whole number from 1 to 2,048, not 2049"),
                (self.answers.adds, ("none", 5, 5), "the position must be"),
                (draw, ("x", 8, 0), "no kind of sequences is called 'x': choose from sorted, swap"),
                (draw, ([], 8, 0), "no kind of sequences is called []"),
                (draw, ("swap", 1, 0), "the length must be a whole number from 2 to 2,048, not 1"),
                (draw, ("swap", 2049, 0), "not 2049"), (draw, ("swap", 8, 1e3), "the number of the sequence must be"),
                (self.answers.by_length, ("swap", 2049), "not 2049"), (self.answers.by_length, (0, 8), "is called 0")]:
            with self.subTest(words), self.assertRaises(UserError) as raised:
                question(*arguments)
            self.assertIn(words, str(raised.exception))
            self.assertLess(len(str(raised.exception)), 300)
            self.assertNotIn("\n", str(raised.exception))

    def test_a_thousand_fuzzed_requests(self):
        generator, values = random.Random(0), [
            *self.models, *KINDS, 0, 1, 2, 7, -1, 10 ** 30, 0.5, None, True, "", "x", [], [0], [3, 1], list(range(100)),
            [7] * 2049, [100], [[]], {}, "\ud800\x00", "x" * 2000]
        names = {"models": [], "classify": ["values"], "look": ["values", "model", "layer", "head", "at"],
                 "adds": ["model", "length", "at"], "draw": ["kind", "length", "number"],
                 "by_length": ["kind", "length"], "x": ["model"]}
        likely = {"values": [[3, 1], [5] * 40], "model": list(self.models), "layer": [0], "head": [0, 1], "at": [0, 1],
                  "length": [2, 8], "kind": list(KINDS), "number": [0, 1]}
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

    def test_the_longest_sequence_fits_a_request(self):
        body = json.dumps({"values": [99] * 2048, "model": "none", "layer": 0, "head": 0, "at": 2047}).encode()
        with serving(self.answers.groups()) as server:
            status, _, answer = server.request("POST", "/ask/look", body)
        self.assertEqual((status, answer["first"], len(answer["weights"])), (200, 2048 - WINDOW, WINDOW))


class Command(TemporaryFolder):
    def explore(self, *arguments):
        """The command's result, and what it would have served."""
        with mock.patch.object(explore, "serve") as serve:
            return command(explore.main, *arguments), serve

    def test_a_model_of_one_s_own(self):
        model = small_model("learned")
        model.about = {"train_sha256": ""}
        save_model(self.folder / "model.pth", model.state_dict())
        result, serve = self.explore("--model-path", self.folder / "model.pth", "--no-browser", "--port", 5000)
        self.assertEqual(result[0], 0, result)
        page, groups, port, browser = serve.call_args.args
        self.assertIn(b"<title>Sorted or not</title>", page)
        self.assertEqual((port, browser), (5000, False))
        about = groups[0]["models"]()
        self.assertEqual(about["models"], {"model": {"encoding_type": "learned", "pooling": "mean", "num_layers": 2,
                                                     "num_heads": 2, "d_model": 8, "most": 40}})
        self.assertEqual([set(group) for group in groups[1:]], [{"adds"}, {"by_length"}])

    def test_mistakes_are_one_line(self):
        self.assert_one_line(self.explore("--model-path", self.folder / "none.pth")[0], "none.pth", "python train.py")
        with mock.patch.object(explore, "RESULTS_DIR", self.folder):
            self.assert_one_line(self.explore()[0], "holds no trained model", "python train.py")
        self.assert_one_line(self.explore("--port", "x")[0], "--port")

    def test_the_page_needs_nothing_from_elsewhere(self):
        page = explore.read_page(explore.PAGE).decode()
        elsewhere = r"""(?:src|href)=["'](?!data:,)|@import|url\(|https?://(?!www\.w3\.org/2000/svg)"""
        self.assertEqual(re.findall(elsewhere, page), [])
        for question in [name for group in Answers({}).groups() for name in group]:
            self.assertIn(f'ask("{question}"', page)

    def test_every_control_has_a_label(self):
        page = explore.read_page(explore.PAGE).decode()
        without_labels = re.sub(r"<label>.*?</label>", "", page, flags=re.DOTALL)
        named = set(re.findall(r'<label for="(\w+)"', page))
        for control in re.findall(r"<(?:input|select|textarea)[^>]*>", without_labels):
            self.assertTrue("aria-label" in control or re.search(r'id="(\w+)"', control)[1] in named, control)
        self.assertEqual(named, {"values"})


if __name__ == "__main__":
    unittest.main()
