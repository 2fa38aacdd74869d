"""The page in a real browser: what it shows is what the models give.

    python problem2/tests/browser.py             # needs Chromium
    python problem2/tests/browser.py --picture   # draws results/explore.png as well
"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

from explore import PAGE  # noqa: E402
from exploring.answers import Answers  # noqa: E402
from inference import choose_models  # noqa: E402
from learning.checkpoint import load_model  # noqa: E402
from support.cli import RESULTS_DIR  # noqa: E402
from support.server import read_page  # noqa: E402
from tests.chromium import NARROW, show, take_picture  # noqa: E402
from tests.helpers import serving  # noqa: E402

PICTURE = "--picture"
VALUES = [3, 15, 27, 41, 58, 52, 72, 83, 94, 97]
SHOWN = "kind=swap&model=sinusoidal&layer=0&head=1&at=6&tried=8,12,24,32,48,64,96,128,256,16"


class Browser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.models = {name: load_model(path)[0] for name, path in choose_models(RESULTS_DIR, None).items()}
        cls.answers = Answers(cls.models)
        cls.server = cls.enterClassContext(serving(cls.answers.groups(), read_page(PAGE)))

    def probabilities(self, page):
        return {box["data-model"]: float(box["data-probability"]) for box in page.all(data_probability=None)}

    def check(self, page, values):
        """The page shows what all models that can say of the values."""
        shown = self.probabilities(page)
        for name, model in self.models.items():
            if name in shown:
                with torch.no_grad():
                    expected = model(torch.tensor([values])).softmax(dim=1)[0, 1].item()
                self.assertAlmostEqual(shown[name], expected, places=4)
        self.assertEqual(page.text("error"), "")
        self.assertIn("are sorted" if values == sorted(values) else "are not sorted", page.text("truth"))
        return shown

    def test_verdicts_margins_and_attention(self):
        for at, name in [(6, "recommended"), (2, "sinusoidal")]:
            page = show(self.server, f"values={'+'.join(map(str, VALUES))}&at={at}&model={name}&layer=0&head=2")
            self.assertEqual(set(self.check(page, VALUES)), set(self.models))
            x = torch.tensor([VALUES])
            with torch.no_grad():
                logits = [model.classifier(model.encode(x))[0] for model in self.models.values()
                          if model.config.pooling == "lowest"]
                margins = torch.stack([each[:, 1] - each[:, 0] for each in logits])
                layer = self.models[name].layers[0]
                h = layer.norm1(self.models[name].embed(x))
                weights = layer.self_attn(h, h, h, None, self.models[name].pos_encoding)[1][0, 2]
            shown = torch.tensor([float(bar["data-margin"]) for bar in page.all(data_margin=None)])
            torch.testing.assert_close(shown, margins.flatten(), atol=2e-3, rtol=0)
            self.assertEqual([mark["data-lowest"] for mark in page.all(data_lowest=None)],
                             [str(place + 1) for place in margins.argmin(dim=1).tolist()])
            shown = torch.tensor([float(bar["data-weight"]) for bar in page.all(data_weight=None)])
            torch.testing.assert_close(shown, weights[at - 1], atol=1e-3, rtol=0)
            self.assertEqual(bool(page.all(data_offset=None)), name == "recommended")

    def test_a_sequence_too_long_for_the_learned_positions(self):
        values = sorted(range(100)) * 4
        page = show(self.server, f"values={'+'.join(map(str, values))}&at=350")
        self.assertEqual(set(self.check(page, values)), set(self.models) - {"learned"})
        box = next(each for each in page.all(data_model="learned") if each["tag"] == "div")
        self.assertIn("learned has positions for 300 values", box["text"])
        self.assertIn("positions 145 to 400 of 400", page.text("map-text"))

    def test_where_models_break(self):
        page = show(self.server, "kind=swap&tried=64,16")
        for length in (16, 64):
            counted = self.answers.by_length("swap", length)
            self.assertEqual({cell["data-model"]: cell["data-right"] for cell in page.all(data_length=str(length))},
                             {name: str(result["right"]) for name, result in counted.items()})
        self.assertEqual(page.text("ladder-text"), "16 values")

    def test_dots_are_moved_with_keys_and_dragged(self):
        key = "byId('dots').dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
        page = show(self.server, f"values={'+'.join(map(str, VALUES))}&at=5", f"() => {{ {key % 'ArrowRight'}; "
                    f"{key % 'PageUp'}; {key % 'ArrowDown'}; }}, () => {{}}, "
                    "() => { document.title = location.search; }")
        moved = VALUES[:5] + [61] + VALUES[6:]
        self.check(page, moved)
        title = next(element["text"] for element in page.elements if element["tag"] == "title")
        self.assertEqual(title, f"?values={'+'.join(map(str, moved))}")
        point = ("byId('dots').dispatchEvent(new PointerEvent('pointer%s', {pointerId: 1, buttons: 1, bubbles: true, "
                 "clientX: byId('dots').getBoundingClientRect().x + x(5), "
                 "clientY: byId('dots').getBoundingClientRect().y + 225 - 2.1 * 66}))")
        page = show(self.server, f"values={'+'.join(map(str, VALUES))}",
                    f"() => {{ {point % 'down'}; {point % 'move'}; }}")
        self.check(page, VALUES[:5] + [66] + VALUES[6:])

    def test_bad_input_is_one_line_on_the_page(self):
        for query, words in [("values=3+abc", "a value must be a whole number from 0 to 99, not 'abc'"),
                             ("values=3+100", "not 100"), ("model=<b>", "no model is called '<b>'"),
                             ("kind=x", "no kind of sequences is called 'x'")]:
            self.assertIn(words, show(self.server, query).text("error"))

    def test_it_fits_a_narrow_window(self):
        page = show(self.server, SHOWN, NARROW)
        self.assertEqual(next(element["text"] for element in page.elements if element["tag"] == "title"), "out: ")

    @unittest.skipUnless(PICTURE in sys.argv, "only if asked for")
    def test_picture(self):
        take_picture(self.server, SHOWN, 2150)


if __name__ == "__main__":
    unittest.main(argv=[argument for argument in sys.argv if argument != PICTURE])
