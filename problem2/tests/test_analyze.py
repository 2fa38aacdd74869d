"""analyze.py on the models there are, whichever they are, and on the data they were trained on."""

import json
from unittest import mock

import torch

import analyze
import inference
import train
from learning.checkpoint import load_model
from positional_encoding import ENCODINGS, NoPositionalEncoding
from support.digests import KEY, weights_digest
from tests.helpers import TemporaryFolder, command, without_pictures
from tests.test_training import SMALL


class Squared(NoPositionalEncoding):
    """The README's example of an encoding of one's own."""

    def bias(self, Q):
        places = torch.arange(Q.size(2), device=Q.device)
        return -0.1 * (places - places.unsqueeze(1)) ** 2


class Window(NoPositionalEncoding):
    """No key further away than two values; the table is a buffer, and made by reading a tensor's value."""

    def __init__(self, d_model, max_len=5000, num_heads=4):
        super().__init__(d_model, max_len, num_heads)
        places, reach = torch.arange(max_len), torch.tensor(2).item()
        far = (places - places.unsqueeze(1)).abs() > reach
        self.register_buffer("table", torch.zeros(far.shape).masked_fill(far, -torch.inf))

    def bias(self, Q):
        return self.table[:Q.size(2), :Q.size(2)]


class Analyze(TemporaryFolder):
    def setUp(self):
        super().setUp()
        self.enterContext(without_pictures(analyze))
        self.enterContext(without_pictures(train))

    def train(self, *encodings):
        data = self.small_data()  # without extrapolation sets
        for encoding in encodings:
            status, _, errors = command(train.main, "--encoding", encoding, "--data-dir", data, "--output-dir",
                                        self.folder / "results", "--epochs", 1, *SMALL)
            self.assertEqual((status, errors), (0, ""))

    def analyze(self, *options):
        return command(analyze.main, "--data-dir", self.folder / "data", "--results-dir", self.folder / "results",
                       "--num-samples", 6, "--test-lengths", 8, 20, *options)

    def record(self):
        return json.loads((self.folder / "results" / "extrapolation" / "extrapolation_results.json").read_text())

    def test_one_model_is_enough_and_missing_test_sets_are_made(self):
        self.train("none")
        status, output, errors = self.analyze()
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("no test set of 20 values in", output)
        self.assertEqual({(entry["encoding"], entry["length"]) for entry in self.record()["accuracy"] if entry["set"]
                          == "length"},
                         {("none", 8), ("none", 20)})
        before = self.record()
        status, output, _ = self.analyze("--batch-size", 2)
        self.assertNotIn("no test set", output)
        for one, other in zip(before["accuracy"], self.record()["accuracy"]):
            self.assertEqual(one["accuracy"], other["accuracy"])
        with mock.patch.object(analyze, "classify_group", side_effect=analyze.classify_group) as classify:
            self.analyze("--batch-size", 2)
        self.assertEqual({call.args[2] for call in classify.call_args_list}, {2})

    def test_an_encoding_of_one_s_own_is_found_by_its_name(self):
        with mock.patch.dict(ENCODINGS, squared=Squared):
            self.train("squared", "learned")
            status, _, errors = self.analyze()
            self.assertEqual((status, errors), (0, ""))
            record = self.record()
            self.assertEqual({entry["encoding"] for entry in record["accuracy"]}, {"squared", "learned"})
            self.assertEqual({(entry["encoding"], entry["length"], entry["n"]) for entry in record["dissection"]},
                             {("learned", 8, 6), ("learned", 20, 6)})
            self.assertEqual(record[KEY], {name: weights_digest(load_model(self.folder / "results" / name
                                                              / "best_model.pth")[0].state_dict())
                                           for name in ("learned", "squared")})
            results = ("--results-dir", self.folder / "results")
            self.assertRegex(command(inference.main, *results, "--encoding", "squared", "3", "15")[1],
                             r"squared +(un)?sorted")
            self.assertRegex(command(inference.main, *results)[1],
                             r"  learned +(un)?sorted [0-9.]+\n  squared +(un)?sorted")
            self.assert_one_line(command(inference.main, *results, "3", "15"),
                                 "no model called recommended, but learned, squared")

    def test_an_encoding_with_a_table_that_cuts_off_keys_is_trained_and_loaded(self):
        with mock.patch.dict(ENCODINGS, window=Window):
            self.train("window")
            results = ("--results-dir", self.folder / "results", "--encoding", "window")
            self.assertRegex(command(inference.main, *results, "3", "15")[1], r"window +(un)?sorted")
        self.assert_one_line(command(inference.main, *results, "3", "15"), "no encoding is called 'window'",
                             "move its folder away")

    def test_a_mistake_in_an_encoding_of_one_s_own_is_shown_as_it_is(self):
        class Mistaken(NoPositionalEncoding):
            def __init__(self, *sizes):
                super().__init__(*sizes)
                torch.zeros(3).view(2, 2)
        with mock.patch.dict(ENCODINGS, mistaken=Mistaken), self.assertRaisesRegex(RuntimeError, "shape"):
            train.initial_model(0, encoding_type="mistaken")

    def test_a_length_that_learned_positions_do_not_reach_is_left_out(self):
        self.train("learned", "none")
        output = self.analyze("--test-lengths", 301)[1]
        self.assertIn("learned: no answer at 301 values, for it has 300 positions", output)
        self.assertEqual({entry["encoding"] for entry in self.record()["accuracy"] if entry["length"] == 301}, {"none"})

    def test_records_of_another_form_are_one_line(self):
        self.train("none")
        (self.folder / "results" / "extrapolation").mkdir()
        for content in ("[]", "{}", '{"accuracy": [{}]}'):
            (self.folder / "results" / "extrapolation" / "extrapolation_results.json").write_text(content)
            self.assert_one_line(command(inference.main, "--results-dir", self.folder / "results"),
                                 "holds no accuracy by length", "python analyze.py")
        for content in ("[]", "{}"):
            (self.folder / "results" / "none" / "training_log.json").write_text(content)
            self.assert_one_line(self.analyze(), "is no log of a training", "python train.py")

    def test_other_data_and_no_models_are_one_line(self):
        self.train("none")
        (self.folder / "data" / "train.json").write_text((self.folder / "data" / "train.json").read_text() + " ")
        self.assert_one_line(self.analyze(), "does not hold the training sequences of", "--data-dir")
        self.assert_one_line(command(analyze.main, "--data-dir", self.folder / "data", "--results-dir",
                                     self.folder / "missing"), "python train.py")
        self.assertFalse((self.folder / "missing").exists())
