"""analyze.py on the models that are there, whichever they are."""

import json
from unittest import mock

from support import files

import torch

import analyze
import inference
import train
from model import create_model, load_model
from positional_encoding import ENCODINGS, PositionalEncoding
from tests.helpers import command, without_pictures
from tests.small import SIZES, SMALL, SmallData


class Window(PositionalEncoding):
    """An encoding of one's own: no key further away than two values, by a table in a buffer."""

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        places = torch.arange(max_len)
        far = (places - places.unsqueeze(1)).abs() > 2
        self.register_buffer("table", torch.zeros(far.shape).masked_fill(far, -torch.inf))

    def bias(self, Q):
        return self.table[: Q.size(2), : Q.size(2)]


class Analyze(SmallData):
    def setUp(self):
        super().setUp()
        self.enterContext(without_pictures())
        self.data, self.results = self.small_data(), self.folder / "results"

    def train(self, *encodings, seed=0):
        folders = "--data-dir", self.data, "--output-dir", self.results
        for encoding in encodings:
            with mock.patch.object(train, "REQUIRED", (encoding,)):
                status, _, errors = command(
                    train.main, *folders, *SMALL, "--epochs", 1, "--seed", seed
                )
            self.assertEqual((status, errors), (0, ""))

    def analyze(self, *options):
        folders = "--data-dir", self.data, "--results-dir", self.results
        sizes = "--num-samples", 6, "--test-lengths", 8, 20
        return command(analyze.main, *folders, *sizes, *options)

    def record(self):
        path = self.results / "extrapolation" / "extrapolation_results.json"
        return json.loads(path.read_text())

    def test_one_model_is_enough_and_missing_test_sets_are_made(self):
        self.train("none")
        status, output, errors = self.analyze()
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("no test set of 20 values in", output)
        record = self.record()
        found = {(each["set"], each["length"], each["n"]) for each in record["accuracy"]}
        self.assertEqual(found, {("length", 8, 6), ("length", 20, 6), ("gap control", 16, 6)})
        model = load_model(self.results / "none" / "best_model.pth")
        self.assertEqual(record["weights_sha256"], {"none": files.weights_digest(model)})
        self.assertEqual(record["models"]["none"]["encoding_type"], "none")
        self.assertNotIn("no test set", self.analyze("--batch-size", 2)[1])
        for one, other in zip(record["accuracy"], self.record()["accuracy"]):
            self.assertEqual(one["accuracy"], other["accuracy"])

    def test_the_record_holds_why_and_the_pictures_are_copied(self):
        self.train("sinusoidal", "learned")
        self.assertEqual(self.analyze()[::2], (0, ""))
        record = self.record()
        both = {"sinusoidal", "learned"}
        for cause in ("position_control", "dissection", "attention"):
            self.assertEqual({each["encoding"] for each in record[cause]}, both, cause)
        self.assertEqual({each["n"] for each in record["dissection"]}, {6})
        self.assertLess(max(each["max_error_float64"] for each in record["sinusoidal_shift"]), 1e-9)
        for copy in (
            "extrapolation_curves.png",
            "position_viz/learned_position_embeddings.png",
            "position_viz/encodings.png",
        ):
            self.assertTrue((self.results / copy).exists(), copy)
        before = self.contents(self.results)
        self.assertEqual(self.analyze("--output-dir", self.folder / "other")[::2], (0, ""))
        self.assertEqual(self.contents(self.results), before)
        self.assertIn("extrapolation_results.json", self.contents(self.folder / "other"))

        # By default a smaller run leaves the folder of the committed results alone.
        smaller = self.folder / "smaller"
        with mock.patch.multiple(analyze, SMALLER_DIR=smaller):
            with mock.patch.object(analyze.cli, "RESULTS_DIR", self.results.resolve()):
                self.assertIn(f"its results go to {smaller}", self.analyze()[1])
        self.assertEqual(self.contents(self.results), before)
        self.assertEqual(self.contents(smaller).keys(), self.contents(self.folder / "other").keys())

    def test_an_encoding_of_one_s_own_is_found_by_its_name(self):
        with mock.patch.dict(ENCODINGS, window=Window):
            self.train("window", "learned")
            self.assertEqual(self.analyze()[::2], (0, ""))
            record = self.record()
            found = {each["encoding"] for each in record["accuracy"]}
            self.assertEqual(found, {"window", "learned"})
            self.assertEqual({each["encoding"] for each in record["dissection"]}, {"learned"})
            results = "--results-dir", self.results
            output = command(inference.main, *results)[1]
            self.assertRegex(output, r"  learned +(un)?sorted [0-9.]+\n  window +(un)?sorted")
        path = self.results / "window" / "best_model.pth"
        result = command(inference.main, "3", "--model-path", path)
        self.assert_one_line(result, "no encoding is called 'window'")

    def test_a_length_that_learned_positions_do_not_reach_is_left_out(self):
        self.train("learned", "none")
        output = self.analyze("--test-lengths", 301)[1]
        self.assertIn("learned: no answer at 301 values; it has 300 positions", output)
        found = {each["encoding"] for each in self.record()["accuracy"] if each["length"] == 301}
        self.assertEqual(found, {"none"})

    def test_what_cannot_be_analyzed_is_one_line_and_changes_nothing(self):
        self.assert_one_line(self.analyze(), "holds no trained model", "python train.py")
        self.assertFalse(self.results.exists())
        self.train("none")
        before = self.contents(self.results)
        self.assert_one_line(self.analyze("--num-samples", 1), "--num-samples")
        self.assert_one_line(self.analyze("--test-lengths", 1), "--test-lengths")
        with mock.patch.object(analyze, "draw_figures", side_effect=KeyboardInterrupt):
            self.assert_one_line(self.analyze(), "unchanged", status=130)
        with files.locked(self.results / "extrapolation"):
            self.assert_one_line(self.analyze(), "another run")
        train_file = self.data / "train.json"
        train_file.write_text(train_file.read_text() + " ")
        self.assert_one_line(self.analyze(), "does not hold the sequences that", "--data-dir")
        self.assertEqual(self.contents(self.results), before)
        for content in ("[]", "{}", '{"training": {}}'):
            (self.results / "none" / "training_log.json").write_text(content)
            self.assert_one_line(self.analyze(), "is no log of a training", "python train.py")

    def test_the_initial_rows_are_those_that_training_started_from(self):
        self.train("learned", seed=1)
        models, logs = analyze.load_models(self.results, self.data, torch.device("cpu"))
        torch.manual_seed(1_000_000)
        table = create_model("learned", **SIZES).pos_encoding.position_embeddings.weight
        record = {"training_lengths": [8, 16], "accuracy": [], "attention": [], "dissection": []}
        with mock.patch.object(analyze, "figures") as figures:
            analyze.draw_figures(record, models, logs)
        learned, initial, trained_rows = figures.plot_position_embeddings.call_args.args
        self.assertEqual(trained_rows, 16)
        self.assertTrue((initial == table.detach().numpy()[: len(initial)]).all())
        self.assertTrue(
            (learned[16:] == initial[16:]).all() and (learned[:16] != initial[:16]).any()
        )
