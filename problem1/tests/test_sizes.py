"""The runs over sizes of numbers: what is counted, the file of records, resumed runs, and the figure."""

import unittest
from unittest import mock

import torch

import sizes
import train
from learning import runs
from learning.chains import count_right, problem_classes
from learning.figures import plot_sizes
from learning.loop import TrainingConfig
from support.cli import UserError
from tests.helpers import InThisProcess, Oracle, TemporaryFolder, command


def record(digits, order, seed, right=10):
    names = ["random", *(f"chain {length}" for length in range(digits + 1)), "all columns sum to 9"]
    return {"digits": digits, "order": order, "seed": seed, "n": 10, "right": dict.fromkeys(names, right),
            "seconds": 1.0}


class Counting(unittest.TestCase):
    def test_wrong_answers_are_counted_in_their_class(self):
        def no_carry_to_the_top(target):
            return torch.where(torch.arange(target.size(1)) == 0, 0, target)
        classes = problem_classes(3, 40, seed=0)
        self.assertEqual(set(count_right(Oracle(3), classes).values()), {40})
        right = count_right(Oracle(3, no_carry_to_the_top), classes)
        self.assertEqual((right["chain 0"], right["chain 3"], right["all columns sum to 9"]), (40, 0, 40))


class Runs(TemporaryFolder):
    def test_a_small_study_is_resumed_and_drawn(self):
        self.addCleanup(torch.set_num_threads, torch.get_num_threads())
        scratch = mock.patch.object(sizes, "HERE", self.folder)
        small = mock.patch.object(sizes, "CLASS_SIZE", 20)
        short = mock.patch.object(train, "TrainingConfig", lambda **options: TrainingConfig(**options | {"epochs": 1}))
        arguments = ("--digits", 1, "--orders", "right-to-left", "--output-dir", self.folder / "out", "--seeds")
        with scratch, small, short, mock.patch.object(runs, "ProcessPoolExecutor", InThisProcess):
            status, output, errors = command(sizes.main, *arguments, 0)
            self.assertEqual((status, errors), (0, ""), output)
            self.assertIn("1 digits, right-to-left, 2+2 layers: worst class", output)
            self.assertIn("2 runs to do", command(sizes.main, *arguments, 2, 0, 1, 1)[1])
        records = runs.read_runs(self.folder / "out" / "runs.jsonl", sizes.KEYS)
        self.assertEqual([seed for *_, seed in records], [0, 1, 2])
        first = records[1, "right-to-left", 2, 0]
        self.assertEqual((first["pairs"], first["n"], list(first["right"])),
                         (81, 20, ["random", "chain 0", "chain 1", "all columns sum to 9"]))
        self.assertEqual(first["training"]["epochs"], 1)
        self.assertEqual(len((self.folder / "out" / "runs.jsonl").read_text().splitlines()), 3)
        self.assertTrue((self.folder / "out" / "sizes.png").read_bytes().startswith(b"\x89PNG"))

    def test_what_is_no_record_is_named(self):
        for line in ("{", "[1]", '{"digits": 1}'):
            (self.folder / "runs.jsonl").write_text(line + "\n")
            with self.assertRaisesRegex(UserError, "line 1, is no record"):
                runs.read_runs(self.folder / "runs.jsonl", sizes.KEYS)

    def test_the_figure_has_a_panel_an_order_and_a_line_a_size(self):
        records = [record(digits, order, seed, right=10 - seed) for digits in (2, 5) for order in sizes.ORDERS
                   for seed in (0, 1)]
        panels = plot_sizes(records).axes
        self.assertEqual([panel.get_title() for panel in panels],
                         ["answer written left-to-right", "answer written right-to-left"])
        lines = {line.get_label(): line.get_xydata().tolist() for line in panels[0].lines[::2]}
        self.assertEqual(lines, {"2": [[x, 0.95] for x in range(3)], "5": [[x, 0.95] for x in range(6)]})
        dots = panels[0].lines[1].get_xydata()
        self.assertEqual(dots[:, 0].round().tolist(), [0, 0, 1, 1, 2, 2])
        self.assertEqual(dots[:, 1].tolist(), [1.0, 0.9] * 3)


if __name__ == "__main__":
    unittest.main()
