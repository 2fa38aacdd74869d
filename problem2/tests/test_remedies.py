"""Records that are smaller, older or half-formed, and the folders that remedies name."""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

from support import files
from support.cli import UserError

import analyze
import generate_data
import inference
import train
from beyond import draws, gaps, records, seeds, study
from dataset import read_sequences
from extrapolation.analysis import find_models, read_log
from model import create_model, load_model
from tests.helpers import HOME, RESULTS, command, without_pictures
from tests.small import SIZES, SMALL, SmallData, save


class Remedies(SmallData):
    def test_a_remedy_names_its_folder(self):
        folder = self.folder / "results"
        trained = f"python train.py --output-dir {folder}$"
        beyond = f"python problem2/beyond train --output-dir {folder / 'beyond'}$"
        data = f"python generate_data.py --output-dir {self.folder}$"
        for function, path, words in [
            (load_model, folder / "none" / "best_model.pth", trained),
            (load_model, folder / "beyond" / "none" / "best_model.pth", beyond),
            (read_log, folder / "none" / "best_model.pth", trained),
            (find_models, folder, trained),
            (read_sequences, self.folder / "test.json", data),
            (read_sequences, self.folder / "extrapolation" / "test_len_8.json", data),
        ]:
            with self.subTest(path), self.assertRaisesRegex(UserError, words):
                function(path)
        save(folder / "none" / "best_model.pth", create_model("none", **SIZES))
        result = command(inference.main, "--results-dir", folder)
        self.assert_one_line(result, f"python analyze.py --results-dir {folder}\n")

    def test_a_log_without_a_seed_is_one_line(self):
        path = self.folder / "none" / "training_log.json"
        lengths = {"training_lengths": [8, 16]}
        for log in ([], {}, lengths, lengths | {"training": {}}, {"training": {"seed": 0}}):
            files.write_json(path, log)
            with self.assertRaisesRegex(UserError, f"{path} is no log of a training"):
                read_log(path.with_name("best_model.pth"))

    def test_lines_without_an_entry_are_one_line(self):
        path = self.folder / "runs.jsonl"
        path.write_text(json.dumps({"seed": 0, "variant": "none", "num_samples": 2}))
        words = 'the line of variant none, seed 0, num_samples 2 has no "settings"'
        self.assert_one_line(command(study.main, "--list", "--runs", path), str(path), words)
        for module in (draws, gaps):
            path.write_text(json.dumps(dict.fromkeys(module.LINE, 0)))
            with self.assertRaisesRegex(UserError, "has no .num_samples|has no .longest"):
                records.read_whole(path, module.LINE, module.NEEDED)

    def test_a_smaller_analysis_leaves_the_record_alone(self):
        data, results = self.small_data(extrapolation=True), self.folder / "results"
        smaller = self.folder / "runs" / "extrapolation"
        for target, value in [
            ("support.cli.RESULTS_DIR", results),
            ("analyze.SMALLER_DIR", smaller),
        ]:
            self.enterContext(mock.patch(target, value))
        self.enterContext(without_pictures())
        folders = "--data-dir", data
        command(train.main, "--encoding=none", "--epochs=1", *SMALL, *folders)
        self.assertEqual(command(analyze.main, *folders)[0], 0)
        before = self.contents(results)
        for options in (("--num-samples", 4), ("--test-lengths", 8)):
            status, output, _ = command(analyze.main, *folders, *options)
            self.assertEqual((status, self.contents(results)), (0, before))
            self.assertIn(f"go to {smaller}", output)
            self.assertIn("extrapolation_results.json", self.contents(smaller))
        command(
            analyze.main, *folders, "--test-lengths", 8, "--output-dir", results / "extrapolation"
        )
        self.assertNotEqual(self.contents(results), before)


class Draws(SmallData):
    """The commands on the committed models and records, in which they must find nothing to do."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.data = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        generate_data.generate(cls.data, generate_extrapolation=False)

    def setUp(self):
        super().setUp()
        for name in ("draws.jsonl", "gaps.jsonl"):
            shutil.copy(RESULTS / "beyond" / name, self.folder)

    def run_on_committed(self, module, *options):
        path = self.folder / f"{module.__name__.split('.')[-1]}.jsonl"
        return command(module.main, "--data-dir", self.data, "--output", path, *options)

    def test_the_committed_records_are_what_the_defaults_make(self):
        before = self.contents()
        self.enterContext(mock.patch.object(draws, "measure_draws", side_effect=AssertionError))
        self.enterContext(mock.patch.object(gaps, "measure", side_effect=AssertionError))
        self.enterContext(mock.patch.object(gaps, "prove", side_effect=AssertionError))
        self.enterContext(without_pictures())
        for module in (draws, gaps):
            status, output, errors = self.run_on_committed(module)
            self.assertEqual((status, errors), (0, ""))
        after = self.contents()
        self.assertEqual({name: after[name] for name in before}, before)
        committed = (RESULTS / "beyond" / "draws_intervals.json").read_bytes()
        self.assertEqual(after["draws_intervals.json"], committed)

    def test_the_committed_seeds_are_those_of_the_command(self):
        path = shutil.copy(RESULTS / "beyond" / "seeds.jsonl", self.folder)
        for target, value in [("cli.DATA_DIR", self.data), ("studies.HERE", self.folder)]:
            self.enterContext(mock.patch(f"support.{target}", value))
        with mock.patch.object(seeds, "ensure_test_set"):
            status, output, errors = command(seeds.main, "--output", path)
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("0 runs to do", output)

    def test_unequal_draws_are_refused_before_they_are_measured(self):
        with mock.patch.object(draws, "measure_draws", side_effect=AssertionError):
            options = "--lengths", 16, "--num-samples", 5000, "--only", "learned"
            result = self.run_on_committed(draws, *options)
        words = "5 draws of 5,000 sequences for seed 0 and 5 of 2,000 for seed 1 give no interval"
        self.assert_one_line(result, words, "--results-dir", "--output")

    def test_lines_of_other_weights_are_named(self):
        path = self.folder / "draws.jsonl"
        changed = [json.loads(line) for line in path.read_bytes().splitlines()]
        for line in changed:
            if (line["encoding"], line["seed"]) == ("learned", 0):
                line[files.WEIGHTS_DIGEST] = "other"
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        fixed = [{"kind": "swap", "draw": draw, "n": 2000, "right": 1000} for draw in range(5)]
        with mock.patch.object(draws, "measure_draws", return_value=2 * fixed):
            status, _, errors = self.run_on_committed(draws, "--lengths", 16, "--only", "learned")
        self.assertEqual((status, errors.count("\n")), (0, 4))
        self.assertIn("the line of learned, seed 0, at 256 values is of other weights", errors)

        # A training names the files that it makes old.
        shutil.copytree(self.folder, self.folder / "x" / "beyond")
        log = {files.WEIGHTS_DIGEST: "new", "training": {"seed": 0}}
        for name, files_named in [("unrestricted", 2), ("learned", 1), ("none", 0)]:
            output = command(lambda _: train.name_stale_records(name, log, self.folder / "x"))[1]
            self.assertEqual(output.count("jsonl"), 2 * files_named, output)
            self.assertEqual(output.count("python problem2/beyond"), files_named)


class Data(SmallData):
    def test_of_two_first_commands_the_second_waits(self):
        data, source = self.folder / "empty", self.small_data()
        second = threading.Thread(target=generate_data.ensure_data, args=[data])
        with mock.patch.object(generate_data, "generate", side_effect=AssertionError):
            with files.locked(data):
                second.start()
                time.sleep(0.2)
                self.assertTrue(second.is_alive())
                shutil.copytree(source, data, dirs_exist_ok=True)
            second.join(20)
        self.assertFalse(second.is_alive())

    def test_nothing_is_written_where_all_data_are(self):
        data = self.small_data(extrapolation=True)
        with mock.patch.object(generate_data, "locked", side_effect=PermissionError):
            generate_data.ensure_data(data)
            generate_data.ensure_test_set(data, 8)
            generate_data.ensure_test_set(data, 16, 32)


class Module(unittest.TestCase):
    def test_it_runs_as_a_module_of_the_folder_above(self):
        run = [sys.executable, "-m", HOME.name, "--help"]
        done = subprocess.run(run, cwd=HOME.parent, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
