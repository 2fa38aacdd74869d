"""The page in a real browser: what it shows is what the model gives.

    python problem1/tests/browser.py             # needs Chromium
    python problem1/tests/browser.py --picture   # draws results/explore.png as well
"""

import json
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

from dataset import encode_problems, shift_right  # noqa: E402
from explore import PAGE, load_subject  # noqa: E402
from exploring.answers import Answers  # noqa: E402
from heads.sites import ablated, all_heads, recorded, without_heads  # noqa: E402
from learning.checkpoint import results_of  # noqa: E402
from model import ORDERS  # noqa: E402
from support.cli import DATA_DIR  # noqa: E402
from support.server import read_page  # noqa: E402
from tests.chromium import NARROW, show, take_picture  # noqa: E402
from tests.helpers import serving  # noqa: E402

PICTURE = "--picture"
OFF = ["encoder.0.self.1", "decoder.0.self.0"]  # without which both models answer 657 + 348 wrongly
SHOWN = ("a=376&b=158&off=encoder.1.self.2&by=mean&look=encoder.1.self.1&column=1&donor=116,752"
         "&sites=encoder.1.self.2@a10,encoder.1.self.1@a10,encoder.1.self.2@b10,encoder.1.self.1@b10")


class Browser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.set_num_threads(1)  # as the command does
        cls.subjects = {order: load_subject(results_of(order) / "best_model.pth", DATA_DIR) for order in ORDERS}
        cls.answers = Answers(cls.subjects)
        cls.server = cls.enterClassContext(serving(cls.answers.groups(), read_page(PAGE)))

    def check(self, page, order, a, b, off):
        """The page shows what the model of that order gives without the heads `off`."""
        model = self.subjects[order].model
        smaller = without_heads(model, off)
        source, _ = encode_problems(torch.tensor([a]), torch.tensor([b]), 3)
        written = model.written(smaller.generate(source, 4))
        with recorded(model) as kept, ablated(model, off), torch.no_grad():
            model(source, shift_right(written))
            probabilities = smaller(source, shift_right(written))[0].softmax(dim=-1)
        shown = page.all(data_probability=None)
        self.assertEqual("".join(token["data-digit"] for token in shown), "".join(map(str, written[0].tolist())))
        for token, row, digit in zip(shown, probabilities, written[0].tolist()):
            self.assertAlmostEqual(float(token["data-probability"]), row[digit].item(), places=4)
            all_ten = torch.tensor([float(p) for p in token["data-probabilities"].split()])
            torch.testing.assert_close(all_ten, row[:10], atol=1e-4, rtol=0)
        self.assertEqual([each["data-head"] for each in page.all(data_head=None)],
                         [site.name() for site in all_heads(model)])
        self.assertEqual({each["data-head"] for each in page.all(data_head=None, aria_pressed="true")}, set(off))
        weights = [kept[site.block][0][0, site.head].flatten() for site in all_heads(model)]
        squares = torch.tensor([float(square["data-weight"]) for square in page.all(data_weight=None)])
        torch.testing.assert_close(squares, torch.cat(weights), atol=1e-3, rtol=0)
        return written[0]

    def test_both_models_as_they_are_and_without_heads(self):
        for order in ORDERS:
            for a, b, off in [(347, 159, []), (657, 348, OFF)]:
                page = show(self.server, f"model={order}&a={a}&b={b}&off={','.join(off)}")
                written = self.check(page, order, a, b, off).tolist()
                total = int("".join(map(str, written if order == ORDERS[0] else written[::-1])))
                self.assertEqual(page.text("sum"), str(total))
                self.assertEqual(total == a + b, off == [])
                self.assertEqual(any("wrong" in token["class"] for token in page.all(data_digit=None)), off != [])
                self.assertIn("is right" if total == a + b else f"is wrong: it is {a + b}", page.text("verdict"))
                self.assertEqual(page.text("error"), "")
                counted = self.answers.accuracy(order, off, "zero")["without"]
                self.assertEqual({row["data-set"]: {"n": int(row["data-n"]), "right": int(row["data-right"])}
                                  for row in page.all(data_set=None)}, counted)

    def test_a_click_takes_a_head_out_and_everything_follows(self):
        name = OFF[0]
        page = show(self.server, "a=347&b=159", f"() => byId('{name}').click(), () => {{}}, "
                                                "() => { document.title = location.search; }")
        self.check(page, ORDERS[0], 347, 159, [name])
        title = next(element["text"] for element in page.elements if element["tag"] == "title")
        self.assertEqual(title, f"?off={name}")
        page = show(self.server, f"a=347&b=159&off={name}", f"() => byId('{name}').click(), () => {{}}")
        self.check(page, ORDERS[0], 347, 159, [])

    def test_lines_are_the_attention_of_the_head_pointed_at(self):
        for head, chosen in [("encoder.0.self.0", ""), ("decoder.1.cross.2", "s10")]:
            page = show(self.server, f"a=347&b=159&look={head}&token={chosen}")
            shown = {(line["data-query"], line["data-key"]) for line in page.all(data_query=None)}
            drawn = next(each for each in self.answers.solve(ORDERS[0], 347, 159, [], "zero")["maps"]
                         if each["head"] == head)
            self.assertEqual(shown, {(query, key) for query, row in zip(drawn["queries"], drawn["weights"])
                                     for key, weight in zip(drawn["keys"], row)
                                     if weight >= 0.05 and chosen in ("", query, key)})
            self.assertIn(f"{head} looks:", page.text("readout"))

    def test_a_carry_moves_with_the_sites_that_the_study_found_and_the_control_stays(self):
        for order in ORDERS:
            found = next(record for record in self.subjects[order].found
                         if record["column"] == 2 and record["searched_on"][0] == "carry" and record["heads_only"])
            for condition, a, b in [("carry", 347, 159), ("same carry", 347, 159)]:
                donor = self.answers.donor(order, a, b, 2, condition, 0)
                page = show(self.server, f"model={order}&a={a}&b={b}&column=2&donor={donor['a']},{donor['b']}"
                                         f"&sites={','.join(found['sites'])}")
                digits = {row["data-row"]: row["data-digits"] for row in page.all(data_row=None)}
                self.assertEqual(digits["moved"], digits["implied"])
                self.assertEqual(digits["moved"] == digits["before"], condition == "same carry")
                self.assertIn("✓", page.text("moved-verdict"))

    def test_bad_input_is_one_line_on_the_page(self):
        for query, words in [("a=12", "must be a whole number from 100 to 999, not 12"),
                             ("off=encoder.0.self.9", "no head is called 'encoder.0.self.9'"),
                             ("model=<b>", "no model is called '<b>'"),
                             ("donor=347,159&sites=x", "no site is called 'x'")]:
            self.assertIn(words, show(self.server, query).text("error"))

    def test_it_fits_a_narrow_window(self):
        page = show(self.server, SHOWN, NARROW)
        self.assertEqual(next(element["text"] for element in page.elements if element["tag"] == "title"), "out: ")

    def test_an_answer_takes_less_than_a_tenth_of_a_second(self):
        times = []
        for a in range(347, 352):
            start = time.perf_counter()
            json.dumps(self.answers.solve(ORDERS[0], a, 159, OFF, "mean"))
            times.append(time.perf_counter() - start)
        self.assertLess(min(times), 0.1)

    @unittest.skipUnless(PICTURE in sys.argv, "only if asked for")
    def test_picture(self):
        take_picture(self.server, SHOWN, 1710)


if __name__ == "__main__":
    unittest.main(argv=[argument for argument in sys.argv if argument != PICTURE])
