"""The page's questions: answers are those of the models, and no question can upset them."""

import random
import re
import unittest
from unittest import mock

from support import server
from support.cli import UserError

import torch

from beyond import explore
from beyond.answers import AROUND, KINDS, WINDOW, Answers
from beyond.scaling import ScaledClassifier
from generate_data import is_sorted
from model import create_model
from positional_encoding import visualize_positional_encoding
from tests.helpers import TemporaryFolder, command
from tests.small import Oracle, save

LENGTHS = (1, 2, 9, 40)
CLOSE = {"atol": 1e-3, "rtol": 0}


def model_of(encoding, layers=2, make=create_model, **arguments):
    torch.manual_seed(0)
    sizes = {"d_model": 8, "num_heads": 2, "num_layers": layers, "d_ff": 8, "max_len": 40}
    model = make(encoding_type=encoding, **sizes, **arguments).eval()
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
        names = "sinusoidal", "learned", "none", "rotary", "relative_keys"
        cls.models = {name: model_of(name) for name in names}
        cls.models["recommended"] = model_of("local_bias", 1, pooling="lowest")
        cls.models["scaled"] = model_of("alibi_directed", make=ScaledClassifier)
        cls.answers = Answers(cls.models)


class Answered(Asked):
    @torch.no_grad()
    def test_probabilities_and_margins_are_the_models(self):
        seen = set()
        for values in [[7, 7, 9], [9, 7, 7], *map(values_of, LENGTHS)]:
            for name, model in self.models.items():
                said = self.answers.classify(values, name)
                expected = model(torch.tensor([values])).softmax(dim=1)[0, 1].item()
                self.assertAlmostEqual(said["probability"], expected, places=5)
                self.assertEqual("margins" in said, name == "recommended")
                seen.add(round(expected, 3))
            model = self.models["recommended"]
            logits = model.classifier(model.encode(torch.tensor([values])))[0]
            margins = torch.tensor(self.answers.classify(values, "recommended")["margins"])
            torch.testing.assert_close(margins, logits[:, 1] - logits[:, 0], **CLOSE)
        self.assertGreater(len(seen), 10)

    def test_a_model_without_so_many_positions_says_so_and_the_others_answer(self):
        words = "learned has positions for 40 values; this sequence has 41"
        self.assertEqual(self.answers.classify(values_of(41), "learned"), {"error": words})
        self.assertIn("probability", self.answers.classify(values_of(41), "sinusoidal"))
        for question in (
            lambda: self.answers.look(values_of(41), "learned", 0, 0, 0),
            lambda: self.answers.adds("learned", 41, 0),
        ):
            with self.assertRaisesRegex(UserError, words):
                question()
        self.assertIn("error", self.answers.by_length("swap", 41)["learned"])

    @torch.no_grad()
    def test_attention_is_that_of_the_head_in_the_layer(self):
        values = values_of(12)
        for name, model in self.models.items():
            kept = []
            for layer in model.layers:
                attention = layer.self_attn
                hook = attention.register_forward_hook(
                    lambda m, a, output: kept.append(output[1][0])
                )
                self.addCleanup(hook.remove)
            model(torch.tensor([values]))
            for layer, weights in enumerate(list(kept)):
                for head in range(2):
                    said = self.answers.look(values, name, layer, head, 5)
                    found = torch.tensor(said["weights"])
                    torch.testing.assert_close(found, weights[head], **CLOSE)
                    self.assertEqual((said["first"], said["turns"]), (0, name == "rotary"))

    def test_biases_are_what_the_encoding_adds_to_the_scores(self):
        values = values_of(30)
        for name, at in [
            ("recommended", 0),
            ("recommended", 14),
            ("recommended", 29),
            ("scaled", 14),
        ]:
            bias = self.models[name].pos_encoding.bias(torch.zeros(1, 2, 30, 4))[1, at]
            if name == "scaled":
                bias = bias * torch.tensor(30.0).log()
            said = self.answers.look(values, name, 0, 1, at)["biases"]
            offsets = list(range(max(-AROUND, -at), min(AROUND, 29 - at) + 1))
            self.assertEqual([each["offset"] for each in said], offsets)
            for each in said:
                expected = bias[at + each["offset"]].item()
                if expected == -torch.inf:
                    self.assertIsNone(each["bias"])
                else:
                    self.assertAlmostEqual(each["bias"], expected, places=3)
        self.assertIsNone(self.answers.look(values, "sinusoidal", 0, 0, 3)["biases"])
        looks = [self.answers.look(values, "relative_keys", 0, 0, at) for at in (9, 12)]
        self.assertNotEqual(*(look["biases"][AROUND]["bias"] for look in looks))

    def test_what_is_added_are_the_rows_of_the_encoding(self):
        for name in ("sinusoidal", "learned"):
            said = self.answers.adds(name, 30, 3)
            rows = visualize_positional_encoding(self.models[name].pos_encoding, 30, 8)
            torch.testing.assert_close(torch.tensor(said["rows"]), torch.from_numpy(rows), **CLOSE)
        for name in ("none", "rotary", "recommended"):
            self.assertEqual(self.answers.adds(name, 30, 3), {"first": 0, "rows": None})

    @torch.no_grad()
    def test_of_long_sequences_a_window_around_the_position_is_shown(self):
        values, model = values_of(300), self.models["sinusoidal"]
        h = model.layers[0].norm1(model.embed(torch.tensor([values])))
        weights = model.layers[0].self_attn(h, h, h)[1][0, 1]
        rows = model.pos_encoding.rows(300)
        for at, first in [(0, 0), (127, 0), (150, 22), (299, 44)]:
            said, shown = (
                self.answers.look(values, "sinusoidal", 0, 1, at),
                slice(first, first + WINDOW),
            )
            self.assertEqual(said["first"], first)
            found = torch.tensor(said["weights"])
            torch.testing.assert_close(found, weights[shown, shown], **CLOSE)
            added = self.answers.adds("sinusoidal", 300, at)
            self.assertEqual(added["first"], first)
            torch.testing.assert_close(torch.tensor(added["rows"]), rows[shown], **CLOSE)

    def test_sequences_of_every_kind_and_length(self):
        for kind in KINDS:
            for length in (2, 3, 16, 2048):
                values = self.answers.draw(kind, length, 7)["values"]
                self.assertEqual((len(values), is_sorted(values)), (length, kind == "sorted"))
                self.assertEqual(self.answers.draw(kind, length, 7)["values"], values)
            drawn = {tuple(self.answers.draw(kind, 8, number)["values"]) for number in range(5)}
            self.assertEqual(len(drawn), 5)
            for number in range(100):  # some of two values are drawn alike at first
                values = self.answers.draw(kind, 2, number)["values"]
                self.assertEqual(is_sorted(values), kind == "sorted")

    def test_by_length_counts_what_is_right_of_both_classes_once(self):
        names = {"knows": Oracle(), "says sorted": Oracle(1), "says unsorted": Oracle(0)}
        answers = Answers(names)
        for length, n in [(2, 32), (64, 32), (256, 8), (2048, 2)]:
            half = {"n": n, "right": n // 2}
            expected = [{"n": n, "right": n}, half, half]
            self.assertEqual(list(answers.by_length("one_inversion", length).values()), expected)
        self.assertEqual(answers.by_length("sorted", 16)["says unsorted"], {"n": 16, "right": 0})
        with mock.patch.object(Oracle, "forward", side_effect=AssertionError):
            answers.by_length("one_inversion", 2048)


class Refused(Asked):
    def test_what_is_wrong_is_said_in_one_line(self):
        classify, look, draw = self.answers.classify, self.answers.look, self.answers.draw
        adds, by_length = self.answers.adds, self.answers.by_length
        for question, arguments, words in [
            (classify, ([], "none"), "write a sequence of whole numbers from 0 to 99"),
            (classify, (None, "none"), "write a sequence"),
            (classify, ([3, 100], "none"), "a value must be a whole number from 0 to 99, not 100"),
            (classify, ([3, "x" * 10_000], "none"), "not 'xxx"),
            (classify, ([True], "none"), "not True"),
            (classify, ([[]], "none"), "not []"),
            (classify, ([0] * 2049, "none"), "at most 2,048 values, not 2,049"),
            (classify, ([1, 2], "x"), "no model is called 'x': choose from sinusoidal"),
            (look, ([1, 2], "x", 0, 0, 0), "no model is called 'x': choose from sinusoidal"),
            (look, ([1, 2], ["none"], 0, 0, 0), "no model is called ['none']"),
            (look, ([1, 2], "none", 2, 0, 0), "the layer must be a whole number from 0 to 1"),
            (look, ([1, 2], "none", 0, -1, 0), "the head must be a whole number from 0 to 1"),
            (look, ([1, 2], "none", 0, 0, 2), "the position must be a whole number from 0 to 1"),
            (adds, ("none", 2049, 0), "the length must be a whole number from 1 to 2,048"),
            (draw, ("x", 8, 0), "no kind of sequences is called 'x'"),
            (draw, ("swap", 1, 0), "the length must be a whole number from 2 to 2,048, not 1"),
            (draw, ("swap", 8, 1e3), "the number of the sequence must be"),
            (by_length, ("swap", 2049), "not 2049"),
        ]:
            with self.subTest(words), self.assertRaises(UserError) as raised:
                question(*arguments)
            self.assertIn(words, str(raised.exception))
            self.assertRegex(str(raised.exception), "^.{1,300}$")


class Command(TemporaryFolder):
    def explore(self, *arguments):
        """The command's result, and what it would have served."""
        with mock.patch.object(server, "serve", return_value=0) as serve:
            return command(explore.main, *arguments), serve

    def page(self):
        path = self.folder / "model.pth"
        save(path, model_of("learned"))
        result, serve = self.explore("--model-path", path, "--no-browser", "--port", 5000)
        self.assertEqual(result[0], 0, result)
        return serve.call_args.args

    def test_a_model_of_one_s_own(self):
        page, groups, port, browser = self.page()
        self.assertIn(b"<title>", page)
        self.assertEqual((port, browser), (5000, False))
        said = groups[0]["models"]()["models"]
        expected = {"encoding_type": "learned", "pooling": "mean", "num_layers": 2}
        expected |= {"num_heads": 2, "d_model": 8, "most": 40}
        self.assertEqual(said, {"model": expected})

    def test_mistakes_are_one_line(self):
        result = self.explore("--model-path", self.folder / "none.pth")[0]
        self.assert_one_line(result, "none.pth", "python train.py")
        with mock.patch("support.cli.RESULTS_DIR", self.folder):
            self.assert_one_line(self.explore()[0], "holds no trained model", "python train.py")
        self.assert_one_line(self.explore("--port", "x")[0], "--port")

    def test_the_page_needs_nothing_from_elsewhere_and_labels_every_control(self):
        page, groups = self.page()[0].decode(), Answers({}).groups()
        elsewhere = (
            r"""(?:src|href)=["'](?!data:,)|@import|url\(|https?://(?!www\.w3\.org/2000/svg)"""
        )
        self.assertEqual(re.findall(elsewhere, page), [])
        for question in [name for group in groups for name in group]:
            self.assertIn(f'ask("{question}"', page)
        without_labels = re.sub(r"<label>.*?</label>", "", page, flags=re.DOTALL)
        named = re.findall(r'<label for="(\w+)"', page)
        for control in re.findall(r"<(?:input|select|textarea)[^>]*>", without_labels):
            found = re.search(r'id="(\w+)"', control)
            self.assertTrue("aria-label" in control or found and found[1] in named, control)
