"""The analysis as a command: what it leaves, what it refuses, and that figures show the records."""

import json
import unittest
from unittest import mock

from support.files import locked, weights_digest, write_json

import analyze
from dataset import ORDERS
from heads import figures, interchange, patterns
from heads.patterns import attention_weights, measure_patterns
from model import load_model
from tests.helpers import command, without_pictures
from tests.small import SmallData, save, small_model, some_problems

RECORDS = {"patterns", "ablation", "importance", "pruning", "pairs", "carry"}
PICTURES = {"head_importance", "ablation_breakdown", "rank_correlation", "pruning"}


class Command(SmallData):
    """A model with random weights, saved beside data that are said to be its own."""

    def setUp(self):
        super().setUp()
        self.enterContext(without_pictures())
        self.results, data = self.folder / "results", self.small_data(2, (300, 20, 60))
        sizes = {"num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
        model = small_model(d_model=8, d_ff=8, **sizes)
        digest = analyze.files.file_digest(data / "train.json")
        save(self.results / "best_model.pth", model, train_sha256=digest)
        self.arguments = ("--data-dir", data, "--results-dir", self.results)

    def names(self, *folders):
        return {path.stem for path in self.results.joinpath(*folders).iterdir()}

    def test_the_whole_analysis_of_a_small_model(self):
        write_json(self.results / "beyond" / "exhaustive.json", {"weights_sha256": "of others"})
        for samples in (30, 2):
            with (
                mock.patch.object(analyze, "LEAST_JUDGED", 0),
                mock.patch.object(interchange, "CANDIDATES", 2),
                mock.patch.object(patterns, "MOST_CASES", 2),
            ):
                result = command(analyze.main, *self.arguments, "--num-samples", samples)
            self.assertEqual((result[0], result[2]), (0, ""))
            self.assertIn("still of other weights: beyond/exhaustive.json\n", result[1])
        self.assertLessEqual(RECORDS | PICTURES, self.names("head_analysis"))
        pictures = self.names("attention_patterns")
        heads = {f"{kind}.{i}" for kind in ("encoder.0.self", "decoder.0.self") for i in (0, 1)}
        heads |= {"decoder.0.cross.0", "decoder.0.cross.1", "overview_encoder.self"}
        self.assertLessEqual(heads, pictures)
        digest = weights_digest(load_model(self.results / "best_model.pth"))
        for name in RECORDS:
            text = (self.results / "head_analysis" / f"{name}.json").read_text()
            self.assertEqual(json.loads(text)["weights_sha256"], digest, name)
            self.assertNotIn("NaN", text)
        baseline = json.loads((self.results / "head_analysis" / "ablation.json").read_text())
        self.assertEqual(baseline["baseline"]["test"]["n"], 2)

    def test_the_heads_of_a_model_that_does_not_add_are_not_judged(self):
        code, output, errors = command(analyze.main, *self.arguments)
        self.assertEqual((code, errors), (0, ""))
        self.assertRegex(output, r"\n.*of the test problems right: .* train it for longer\n$")
        self.assertEqual(self.names("head_analysis"), {"patterns"})

    def test_one_problem_is_drawn_beside_the_model(self):
        (self.folder / "other").mkdir()
        path = (self.results / "best_model.pth").rename(self.folder / "other" / "model.pth")
        result = command(analyze.main, "--model-path", path, "--problem", "37 + 81")
        picture = self.folder / "other" / "attention_patterns" / "case_37_81.png"
        self.assertEqual(result, (0, f"drawn in {picture}\n", ""))
        self.assertTrue(picture.exists())

    def test_what_is_wrong_is_one_line(self):
        for options, words in [
            (("--problem", "374+814"), "--problem: 374 is not from 10 to 99"),
            (("--problem", ""), "--problem: the line is empty"),
            (("--num-samples", 0), "--num-samples"),
            (("--results-dir", self.folder / "nothing"), "train.py"),
        ]:
            self.assert_one_line(command(analyze.main, *self.arguments, *options), words)
        self.assertFalse((self.folder / "nothing").exists())
        with locked(self.results):
            self.assert_one_line(command(analyze.main, *self.arguments), "another run is writing")
        self.small_data(2, (290, 20, 60))
        result = command(analyze.main, *self.arguments)
        self.assert_one_line(result, "not hold the training problems", "--data-dir")


class Figures(unittest.TestCase):
    """Figures show the values of the records."""

    def test_maps(self):
        weights = attention_weights(small_model(), *some_problems())
        record = measure_patterns(weights, 2, ORDERS[0])[-1]
        axes = figures.plot_head(record).axes[0]
        self.assertEqual(axes.images[0].get_array().tolist(), record["mean_weights"])
        labels = [
            [text.get_text() for text in axis.get_ticklabels()] for axis in (axes.yaxis, axes.xaxis)
        ]
        self.assertEqual(labels, [record["queries"], record["keys"]])
        with self.assertRaisesRegex(ValueError, "2 rows and 2 columns do not fit"):
            figures.draw_map(axes, [[1, 0]], ["a", "b"], ["a", "b"])
