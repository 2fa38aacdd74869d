"""The page in a real browser: what it shows is what the models give. Needs Chromium.

python problem2/tests/tools/browser.py             # the tests
python problem2/tests/tools/browser.py --picture   # draws results/beyond/explore.png as well
"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cli import RESULTS_DIR  # noqa: E402
from support.server import read_page  # noqa: E402

import torch  # noqa: E402

from beyond import explore  # noqa: E402
from beyond.answers import Answers  # noqa: E402
from extrapolation.analysis import find_models  # noqa: E402
from model import load_model  # noqa: E402
from tests.helpers import serving  # noqa: E402
from tests.tools.chromium import NARROW, show, take_picture  # noqa: E402

PICTURE = "--picture"
VALUES = [3, 15, 27, 41, 58, 52, 72, 83, 94, 97]
LENGTHS = "8,12,24,32,48,64,96,128,256,16"
KEYS = """() => %s.forEach(key =>
  byId('dots').dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true})))"""
SHOWN = f"kind=swap&model=sinusoidal&layer=0&head=1&at=6&tried={LENGTHS}"


def text_of(values):
    return "+".join(map(str, values))


class Browser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.models = {name: load_model(path) for name, path in find_models(RESULTS_DIR).items()}
        cls.answers = Answers(cls.models)
        page = read_page(Path(explore.__file__).with_name("page.html"))
        cls.server = cls.enterClassContext(serving(cls.answers.groups(), page))

    def check(self, page, values):
        """The page shows what the models say of the values; returns which of them it shows."""
        boxes = page.all(data_probability=None)
        shown = {box["data-model"]: float(box["data-probability"]) for box in boxes}
        for name, probability in shown.items():
            with torch.no_grad():
                logits = self.models[name](torch.tensor([values]))
            self.assertAlmostEqual(probability, logits.softmax(dim=1)[0, 1].item(), places=4)
        self.assertEqual(page.text("error"), "")
        truth = "are sorted" if values == sorted(values) else "are not sorted"
        self.assertIn(truth, page.text("truth"))
        return set(shown)

    def shown(self, page, name):
        return torch.tensor(
            [float(bar[f"data-{name}"]) for bar in page.all(**{f"data_{name}": None})]
        )

    @torch.no_grad()
    def test_verdicts_margins_and_attention(self):
        x = torch.tensor([VALUES])
        for at, name in [(6, "recommended"), (2, "sinusoidal")]:
            query = f"values={text_of(VALUES)}&at={at}&model={name}&layer=0&head=2"
            page, margins = show(self.server, query), []
            self.assertEqual(self.check(page, VALUES), set(self.models))
            for model in self.models.values():
                if model.config.pooling == "lowest":
                    logits = model.classifier(model.encode(x))[0]
                    margins.append(logits[:, 1] - logits[:, 0])
            found = self.shown(page, "margin")
            torch.testing.assert_close(found, torch.cat(margins), atol=2e-3, rtol=0)
            lowest = [mark["data-lowest"] for mark in page.all(data_lowest=None)]
            self.assertEqual(lowest, [str(int(each.argmin()) + 1) for each in margins])
            model = self.models[name]
            h = model.layers[0].norm1(model.embed(x))
            weights = model.layers[0].self_attn(h, h, h, None, model.pos_encoding)[1][0, 2]
            found = self.shown(page, "weight")
            torch.testing.assert_close(found, weights[at - 1], atol=1e-3, rtol=0)
            self.assertEqual(bool(page.all(data_offset=None)), name == "recommended")

    def test_a_sequence_too_long_for_the_learned_positions(self):
        values = sorted(range(100)) * 4
        page = show(self.server, f"values={text_of(values)}&at=350")
        self.assertEqual(self.check(page, values), set(self.models) - {"learned"})
        boxes = [each for each in page.all(data_model="learned") if each["tag"] == "div"]
        self.assertIn("learned has positions for 300 values", boxes[0]["text"])
        self.assertIn("Positions 145 to 400 of 400", page.text("map-text"))

    def test_where_models_break(self):
        page = show(self.server, "kind=swap&tried=64,16")
        for length in (16, 64):
            counted = self.answers.by_length("swap", length)
            cells = page.all(data_length=str(length))
            found = {cell["data-model"]: cell["data-right"] for cell in cells}
            self.assertEqual(found, {name: str(each["right"]) for name, each in counted.items()})
        self.assertEqual(page.text("ladder-text"), "16 values")

    def test_dots_are_moved_with_keys_and_dragged(self):
        keys = KEYS % "['ArrowRight', 'PageUp', 'ArrowDown']"
        script = f"{keys}, () => {{}}, () => {{ document.title = location.search; }}"
        page = show(self.server, f"values={text_of(VALUES)}&at=5", script)
        moved = VALUES[:5] + [61] + VALUES[6:]
        self.check(page, moved)
        (title,) = (element["text"] for element in page.elements if element["tag"] == "title")
        self.assertEqual(title, f"?values={text_of(moved)}")
        box = "byId('dots').getBoundingClientRect()"
        place = f"clientX: {box}.x + x(5), clientY: {box}.y + 225 - 2.1 * 66"
        event = "{pointerId: 1, buttons: 1, bubbles: true, " + place + "}"
        point = f"byId('dots').dispatchEvent(new PointerEvent('pointer%s', {event}))"
        script = f"() => {{ {point % 'down'}; {point % 'move'}; }}"
        page = show(self.server, f"values={text_of(VALUES)}", script)
        self.check(page, VALUES[:5] + [66] + VALUES[6:])

    def test_the_page_speaks_of_the_sequence_that_there_is(self):
        # Its length, words for one value, and an arrow key on what is no value.
        script = "() => { document.title = byId('length').value; }"
        page = show(self.server, "values=7", script)
        self.assertEqual((page.title(), page.text("truth")), ("1", "One value alone is sorted."))
        page = show(self.server, "values=7+abc&at=2", KEYS % "['ArrowUp']")
        self.check(page, [7, 1])

    def test_only_the_newest_sequence_is_answered_and_the_chosen_model_first(self):
        said, groups = [], self.answers.groups()

        def classify(values, model):
            said.append((values[0], model))
            return self.answers.classify(values, model)

        groups[0]["classify"] = classify
        with serving(groups, self.server.page) as server:
            keys = KEYS % "['ArrowUp', 'ArrowUp', 'ArrowUp']"
            show(server, f"values={text_of(VALUES)}&at=1&model=none", keys)
        self.assertEqual([model for _, model in said[:2]], ["none", "sinusoidal"])
        self.assertEqual({value for value, _ in said}, {3, 6})
        self.assertEqual(len(said), 2 * len(self.models))

    def test_bad_input_is_one_line_on_the_page(self):
        for query, words in [
            ("values=3+abc", "a value must be a whole number from 0 to 99, not 'abc'"),
            ("values=3+100", "not 100"),
            ("model=<b>", "no model is called '<b>'"),
            ("kind=x", "no kind of sequences is called 'x'"),
        ]:
            self.assertIn(words, show(self.server, query).text("error"))

    def test_it_fits_a_narrow_window(self):
        page = show(self.server, SHOWN, NARROW)
        (title,) = (element["text"] for element in page.elements if element["tag"] == "title")
        self.assertEqual(title, "out: ")

    @unittest.skipUnless(PICTURE in sys.argv, "only if asked for")
    def test_picture(self):
        take_picture(self.server, SHOWN, 2230)


if __name__ == "__main__":
    unittest.main(argv=[argument for argument in sys.argv if argument != PICTURE])
