"""The page in a real browser: what it shows is what the model gives.

python problem1/tests/tools/browser.py             # needs Chromium
python problem1/tests/tools/browser.py --picture   # draws results/beyond/explore.png as well
"""

import json
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from support.cli import DATA_DIR  # noqa: E402
from support.server import read_page  # noqa: E402

import torch  # noqa: E402

from beyond.answers import Answers, Subject  # noqa: E402
from beyond.explore import PAGE, load_subject  # noqa: E402
from dataset import ORDERS, encode_problems, in_order, shift_right, to_numbers  # noqa: E402
from heads.sites import ablated, all_heads, recorded  # noqa: E402
from tests.helpers import RESULTS, serving  # noqa: E402
from tests.small import digits, small_model  # noqa: E402
from tests.tools.chromium import NARROW, show, take_picture  # noqa: E402

PICTURE = "--picture"
FOLDERS = RESULTS, RESULTS / "beyond" / "right_to_left"
OFF = [f"encoder.{n // 4}.self.{n % 4}" for n in range(8)]  # without them no model knows the sum
FOUND = json.loads((RESULTS / "head_analysis" / "carry.json").read_text(encoding="utf-8"))["sets"]
SHOWN = (
    "a=376&b=158&off=encoder.1.self.2&by=mean&look=encoder.1.self.1&column=1&donor=271,352"
    f"&sites={','.join(FOUND[0]['sites'])}"
)


class Browser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.set_num_threads(1)  # as the command does
        cls.subjects = {
            order: load_subject(folder / "best_model.pth", DATA_DIR)
            for order, folder in zip(ORDERS, FOLDERS)
        }
        cls.answers = Answers(cls.subjects)
        cls.server = cls.enterClassContext(serving(cls.answers.groups(), read_page(PAGE)))

    def check(self, page, order, a, b, off):
        """The page shows what the model of that order gives without the heads `off`.

        Returns:
            The sum that the model gives.
        """
        model = self.subjects[order].model
        source, _ = encode_problems(digits(a), digits(b))
        with ablated(model, off), torch.no_grad():
            written = model.generate(source, 4)
            with recorded(model) as kept:
                probabilities = model(source, shift_right(written))[0].softmax(dim=-1)
        shown = page.all(data_probability=None)
        self.assertEqual([int(token["data-digit"]) for token in shown], written[0].tolist())
        for token, row, digit in zip(shown, probabilities, written[0].tolist()):
            self.assertAlmostEqual(float(token["data-probability"]), row[digit].item(), places=4)
            all_ten = torch.tensor([float(p) for p in token["data-probabilities"].split()])
            torch.testing.assert_close(all_ten, row[:10], atol=1e-4, rtol=0)
        names = [site.name() for site in all_heads(model)]
        self.assertEqual([each["data-head"] for each in page.all(data_head=None)], names)
        pressed = page.all(data_head=None, aria_pressed="true")
        self.assertEqual({each["data-head"] for each in pressed}, set(off))
        weights = [kept[site.block][0][0, site.head].flatten() for site in all_heads(model)]
        squares = torch.tensor(
            [float(square["data-weight"]) for square in page.all(data_weight=None)]
        )
        torch.testing.assert_close(squares, torch.cat(weights), atol=1e-3, rtol=0)
        return to_numbers(in_order(written, order)).item()

    def test_both_models_as_they_are_and_without_heads(self):
        for order in ORDERS:
            for a, b, off in [(347, 159, []), (657, 348, OFF)]:
                page = show(self.server, f"model={order}&a={a}&b={b}&off={','.join(off)}")
                total = self.check(page, order, a, b, off)
                self.assertEqual(page.text("sum"), str(total))
                self.assertEqual(total == a + b, off == [])
                marked = any("wrong" in token["class"] for token in page.all(data_digit=None))
                self.assertEqual(marked, off != [])
                verdict = "is right" if total == a + b else f"is wrong: it is {a + b}"
                self.assertIn(verdict, page.text("verdict"))
                self.assertEqual(page.text("error"), "")
                counted = {
                    row["data-set"]: {"n": int(row["data-n"]), "right": int(row["data-right"])}
                    for row in page.all(data_set=None)
                }
                expected = self.answers.accuracy(order, off, "zero")["without"]
                self.assertEqual(counted, expected)

    def test_a_click_takes_a_head_out_and_everything_follows(self):
        name = OFF[0]
        click = f"() => byId('{name}').click(), () => {{}}"
        page = show(
            self.server, "a=347&b=159", f"{click}, () => {{ document.title = location.search; }}"
        )
        self.check(page, ORDERS[0], 347, 159, [name])
        self.assertEqual(page.title(), f"?a=347&b=159&off={name}")
        page = show(self.server, f"a=347&b=159&off={name}", click)
        self.check(page, ORDERS[0], 347, 159, [])

    def test_lines_are_the_attention_of_the_head_pointed_at(self):
        for head, chosen in [("encoder.0.self.0", ""), ("decoder.1.cross.2", "s10")]:
            page = show(self.server, f"a=347&b=159&look={head}&token={chosen}")
            maps = self.answers.solve(ORDERS[0], 347, 159, [], "zero")["maps"]
            drawn = next(each for each in maps if each["head"] == head)
            expected = {
                (query, key)
                for query, row in zip(drawn["queries"], drawn["weights"])
                for key, weight in zip(drawn["keys"], row)
                if weight >= 0.05 and chosen in ("", query, key)
            }
            shown = {(line["data-query"], line["data-key"]) for line in page.all(data_query=None)}
            self.assertEqual(shown, expected)
            self.assertIn(f"{head} looks:", page.text("readout"))

    def test_a_carry_moves_with_the_sites_found_and_the_control_stays(self):
        for order in ORDERS:
            found = next(
                record
                for record in self.subjects[order].found
                if (record["column"], record["searched_on"][0]) == (2, "carry")
            )
            for condition in ("carry", "same carry"):
                # The sites carry most donors' carries, not all: take the first one that moves.
                def moves(pair):
                    problem = order, 347, 159, pair["a"], pair["b"]
                    return self.answers.move(*problem, 2, found["sites"])["as_implied"]

                drawn = (self.answers.donors(order, 347, 159, 2, k)[condition] for k in range(9))
                donor = next(filter(moves, drawn))
                query = f"model={order}&a=347&b=159&column=2&donor={donor['a']},{donor['b']}"
                page = show(self.server, f"{query}&sites={','.join(found['sites'])}")
                rows = {row["data-row"]: row["data-digits"] for row in page.all(data_row=None)}
                self.assertEqual(rows["moved"], rows["implied"])
                self.assertEqual(rows["moved"] == rows["before"], condition == "same carry")
                self.assertIn("✓", page.text("moved-verdict"))

    def test_it_opens_on_a_carry_that_is_one_click_from_moving(self):
        for order in ORDERS:
            page = show(self.server, f"model={order}")
            self.assertEqual(page.text("moved-verdict"), "Nothing is moved yet.")
            click = "() => document.querySelector('#found button').click()"
            page = show(self.server, f"model={order}", click)
            rows = {row["data-row"]: row["data-digits"] for row in page.all(data_row=None)}
            before, moved = "0564", "0554"
            if order == ORDERS[1]:
                before, moved = before[::-1], moved[::-1]
            self.assertEqual(rows, {"before": before, "moved": moved, "implied": moved})
            self.assertIn("✓", page.text("moved-verdict"))

    def test_donors_and_sites_that_do_not_fit_are_not_offered(self):
        page = show(self.server, "a=347&b=159&column=1")  # its tens sum to 9
        self.assertEqual(page.text("donors"), "the other carry")
        page = show(self.server, "a=900&b=150&column=3")  # 0050 is no sum of such numbers
        self.assertEqual(page.text("donors"), "the same carry (control)")
        self.assertIn("There is no donor with the other carry", page.text("condition"))
        self.assertEqual(page.text("error"), "")
        buttons = [
            each for each in page.all(aria_pressed=None, tag="button") if "Move" in each["text"]
        ]
        self.assertTrue(buttons and all("disabled" in each for each in buttons))

    def test_while_a_number_is_typed_no_old_verdict_stands(self):
        typing = "() => { byId('a').value = '33'; byId('a').dispatchEvent(new Event('input')); }"
        page = show(self.server, "", typing)
        for name in ("verdict", "carries", "moved-verdict", "condition"):
            self.assertEqual(page.text(name), "", name)
        self.assertIn("not 33", page.text("error"))
        typing += (
            ", () => { byId('a').value = '339'; byId('a').dispatchEvent(new Event('input')); }"
        )
        self.assertIn("339 + 226 = 565 is right", show(self.server, "", typing).text("verdict"))

    def test_on_a_touch_screen_the_second_tap_takes_a_head_out(self):
        tap = f"""() => {{
          const head = byId('{OFF[0]}'), kind = {{pointerType: 'touch'}};
          for (const name of ['enter', 'down', 'up'])
            head.dispatchEvent(new PointerEvent('pointer' + name, kind));
          head.focus();
          head.click();
        }}"""
        for taps in (1, 2):
            page = show(self.server, "", ", ".join([tap] * taps))
            self.assertIn(f"{OFF[0]} looks:", page.text("readout"))
            self.assertEqual(len(page.all(data_head=OFF[0], aria_pressed="true")), taps - 1)

    def test_numbers_of_one_and_of_ten_digits(self):
        for n, numbers in [(1, "8 + 6 = "), (10, "3333333338 + 2222222226 = ")]:
            model = small_model(d_model=8, d_ff=8)
            model.training_info["num_digits"] = n
            seen, _ = encode_problems(digits("1" * n), digits("1" * n))
            answers = Answers({"": Subject(model, seen, [])})
            with serving(answers.groups(), read_page(PAGE)) as server:
                for then in ("", NARROW):
                    page = show(server, "", then)
                    self.assertTrue(page.text("verdict").startswith(numbers))
                    self.assertIn("the other carry", page.text("donors"))
                    self.assertIn("Nothing is moved yet", page.text("moved-verdict"))
                    self.assertEqual(page.text("error"), "")
                self.assertEqual(page.title(), "out: ")

    def test_bad_input_is_one_line_on_the_page(self):
        for query, words in [
            ("a=12", "must be a whole number from 100 to 999, not 12"),
            ("off=encoder.0.self.9", "no head is called 'encoder.0.self.9'"),
            ("model=<b>", "no model is called '<b>'"),
            ("donor=347,159&sites=x", "no site is called 'x'"),
        ]:
            self.assertIn(words, show(self.server, query).text("error"))

    def test_it_fits_a_narrow_window(self):
        self.assertEqual(show(self.server, SHOWN, NARROW).title(), "out: ")

    def test_an_answer_takes_less_than_a_tenth_of_a_second(self):
        times = []
        for a in range(347, 352):
            start = time.process_time()
            json.dumps(self.answers.solve(ORDERS[0], a, 159, OFF, "mean"))
            times.append(time.process_time() - start)
        self.assertLess(min(times), 0.1)

    @unittest.skipUnless(PICTURE in sys.argv, "only if asked for")
    def test_picture(self):
        take_picture(self.server, SHOWN, 1740)


if __name__ == "__main__":
    unittest.main(argv=[argument for argument in sys.argv if argument != PICTURE])
