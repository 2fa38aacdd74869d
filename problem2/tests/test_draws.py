"""Several draws of each test set: which sequences, how they are answered, and what is said of them."""

import json
import shutil
from unittest import mock

import torch

import draws as draws_command
import train
from extrapolation import draws
from extrapolation.counting import CountedModel
from learning.evaluation import wilson_interval
from support.cli import UserError
from tests.helpers import Oracle, TemporaryFolder, command, without_pictures
from tests.test_counting import tiny
from tests.test_training import SMALL


def records(table, n=100):
    """Count records of answers right, `table[seed][draw]`, of n each."""
    return [{"kind": "swap", "length": 16, "seed": seed, "draw": draw, "n": n, "right": right}
            for seed, row in enumerate(table) for draw, right in enumerate(row)]


class Draws(TemporaryFolder):
    def test_each_draw_is_another_and_holds_none_of_the_sequences_to_avoid(self):
        def sequences(draw, seen=frozenset()):
            sets = draws.draw_sets(3, draw, 60, seen)
            self.assertEqual(list(sets), ["swap", "one_inversion"])
            for found, labels in sets.values():
                self.assertTrue(torch.equal((found.diff(dim=1) >= 0).all(dim=1).long(), labels))
                self.assertEqual(labels.sum(), 30)
            return {tuple(row) for found, _ in sets.values() for row in found.tolist()}
        first = sequences(0)
        self.assertEqual(sequences(0), first)
        self.assertLess(len(sequences(1) & first), 10)
        self.assertEqual(sequences(0, first) & first, set())

    def test_right_answers_are_counted(self):
        for constant, share in [(None, 1), (1, 0.5), (0, 0.5)]:
            found = draws.measure_draws(mock.Mock(wraps=Oracle(constant), parameters=Oracle().parameters,
                                                  config=mock.Mock(num_layers=4)), 12, 20, set(), draws=2)
            self.assertEqual(found, [{"kind": kind, "length": 12, "draw": draw, "n": 20, "right": 20 * share}
                                     for draw in (0, 1) for kind in ("swap", "one_inversion")])

    def test_long_sequences_are_counted_where_that_applies_and_else_bounded(self):
        model, sequences = tiny(), torch.randint(100, (12, 40), generator=torch.Generator().manual_seed(0))
        margins = torch.stack([CountedModel(model).margins(sequence).min() for sequence in sequences])
        with torch.no_grad():  # a border in the middle of the margins, so that both answers are given
            model.classifier.bias[0] += margins.median() + 1e-4
        expected = model.predict(sequences)
        self.assertEqual(set(expected.tolist()), {0, 1})
        with mock.patch.multiple(draws, COUNTED_FROM=40, LONGEST_WHOLE=39), \
                mock.patch.object(draws, "classify", side_effect=AssertionError):
            self.assertTrue(torch.equal(draws.answers(model, sequences), expected))
            with self.assertRaisesRegex(UserError, "40 values do not go through this model"):
                draws.answers(tiny(pooling="max"), sequences)
        self.assertTrue(torch.equal(draws.answers(model, sequences), expected))

    def test_the_interval_holds_seeds_and_sets(self):
        found = draws.summarize_draws(records([[90, 92], [80, 82]]))
        self.assertEqual((found["seeds"], found["draws"], found["n"], found["right"], found["lowest"],
                          found["highest"]), (2, 2, 400, 344, 0.8, 0.92))
        # The means are 91 and 81 of the seeds, 85 and 87 of the draws.
        half = 12.706 * (0.1 ** 2 / 2 / 2 + 0.02 ** 2 / 2 / 2) ** 0.5
        self.assertAlmostEqual(found["interval"][0], 0.86 - half)
        self.assertEqual(found["interval"][1], 1.0)
        for table in ([[100, 100, 100]], [[100]]):
            found = draws.summarize_draws(records(table))
            self.assertEqual(found["interval"], wilson_interval(100 * len(table[0]), 100 * len(table[0])))
        one_seed = draws.summarize_draws(records([[90, 95, 100]]))["interval"]
        self.assertAlmostEqual(one_seed[0], 0.95 - 4.303 * (0.05 ** 2 / 3) ** 0.5)


class Command(TemporaryFolder):
    def draws(self, *options):
        return command(draws_command.main, "--data-dir", self.folder / "data", "--output", self.folder / "draws.jsonl",
                       "--num-samples", 8, "--draws", 2, "--results-dir", self.folder / "seed_0",
                       self.folder / "seed_1", *options)

    def test_a_line_for_each_model_and_length_which_is_not_measured_again(self):
        data = self.small_data()
        self.enterContext(without_pictures(train))
        for seed in (0, 1):
            command(train.main, "--encoding", "learned", "--data-dir", data, "--output-dir",
                    self.folder / f"seed_{seed}", "--seed", seed, "--epochs", 1, *SMALL)
        status, output, errors = self.draws("--lengths", 16, 301)
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("learned, seed 1: no answer at 301 values", output)
        self.assertRegex(output, r"learned, swap, 16 values: .* over 2 seeds x 2 draws .* n = 32\)")
        intervals = json.loads((self.folder / "draws_intervals.json").read_text())
        self.assertEqual([(each["encoding"], each["length"], each["kind"], each["seeds"], each["draws"], each["n"])
                          for each in intervals],
                         [("learned", 16, kind, 2, 2, 32) for kind in ("one_inversion", "swap")])
        before = (self.folder / "draws.jsonl").read_bytes().splitlines()
        self.assertEqual([(line["seed"], line["length"]) for line in map(json.loads, before)], [(0, 16), (1, 16)])
        with mock.patch.object(draws_command, "measure_draws", side_effect=AssertionError("measured again")):
            self.assertEqual(self.draws("--lengths", 16)[0], 0)
        self.draws("--lengths", 12, "--only", "learned")
        after = (self.folder / "draws.jsonl").read_bytes().splitlines()
        self.assertEqual((after[:2], len(after)), (before, 4))
        shutil.rmtree(self.folder / "seed_0")
        shutil.copytree(self.folder / "seed_1", self.folder / "seed_0")
        log = self.folder / "seed_0" / "learned" / "training_log.json"
        log.write_text(log.read_text().replace('"seed": 1', '"seed": 0'))
        self.draws("--lengths", 16)  # other weights of seed 0: their line takes the place of the old one
        lines = [json.loads(line) for line in (self.folder / "draws.jsonl").read_bytes().splitlines()]
        self.assertEqual(len(lines), 4)
        self.assertEqual(len({line["weights_sha256"] for line in lines if line["length"] == 16}), 1)
        self.assert_one_line(self.draws("--only", "none"), "no model is called none")
        (self.folder / "draws.jsonl").write_text("{}")
        self.assert_one_line(self.draws(), "line 1, is no record", "python draws.py")
