"""The whole of problem 2 from a copy elsewhere, at a small size, by the commands that a newcomer types."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from unittest import mock

import analyze
import inference
import train
from tests.helpers import RESULTS, TemporaryFolder, command


class Pipeline(TemporaryFolder):
    def run_script(self, *arguments, **options):
        done = subprocess.run([sys.executable, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              env=os.environ | {"MPLCONFIGDIR": str(self.folder)}, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotRegex(done.stderr.lower(), "error|warn|traceback")
        return done.stdout

    def test_generate_train_analyze_and_infer_from_another_folder(self):
        problem = self.folder / "elsewhere" / "problem2"
        shutil.copytree(RESULTS.parent, problem, ignore=shutil.ignore_patterns("data", "results", "runs", "tests",
                                                                               "__pycache__"))
        self.run_script(problem / "generate_data.py", "--train-size", 200, "--val-size", 20, "--test-size", 20)
        output = self.run_script(problem / "train.py", "--epochs", 1, "--d-model", 16, "--num-heads", 2, "--num-layers",
                                 1, "--d-ff", 16)
        self.assertIn("epoch   1 of 1", output)
        self.run_script(problem / "analyze.py", "--num-samples", 40)
        self.assertIn("accuracy by length", self.run_script(problem / "inference.py"))
        made = {str(path.relative_to(problem / "results")) for path in (problem / "results").rglob("*")
                if path.is_file()}
        for encoding in ("sinusoidal", "learned", "none", "recommended", "unrestricted"):
            self.assertLessEqual({f"{encoding}/{name}"
                                  for name in ("best_model.pth", "training_log.json", "training_curves.png")}, made)
        self.assertLessEqual({"extrapolation/extrapolation_results.json", "extrapolation/extrapolation_curves.png",
                              "extrapolation_curves.png", "extrapolation/learned_position_embeddings.png",
                              "position_viz/learned_position_embeddings.png"}, made)
        self.assertFalse([name for name in made if "resume" in name or "tmp" in name])
        accuracy = json.loads((problem / "results" / "extrapolation" / "extrapolation_results.json").read_text())[
            "accuracy"]
        self.assertEqual(len(accuracy), 5 * 11 * 5)
        self.assertRegex(self.run_script(problem / "inference.py", "--stdin", input="3 15\n9,8\n"),
                         r"^(un)?sorted [0-9.]{5}\n(un)?sorted [0-9.]{5}\n$")

    def test_a_script_as_the_starter_kit_has_them_runs_unchanged(self):
        problem = self.folder / "problem2"
        shutil.copytree(RESULTS.parent, problem, ignore=shutil.ignore_patterns("data", "results", "runs", "tests",
                                                                               "__pycache__"))
        shutil.copy(RESULTS.parent / "tests" / "starter_kit.py", problem)
        self.small_data((60, 20, 20), extrapolation=True)
        self.assertEqual(self.run_script(problem / "starter_kit.py", self.folder).splitlines(),
                         ["accuracy True", "weights [(2, 32, 32), (2, 32, 32)]", "encoding (20, 16)", "silenced True"])


class Whole(TemporaryFolder):
    def calls(self, *arguments):
        """What `python problem2` with these arguments calls: the arguments of train, analyze and inference, and its
        output."""
        main = runpy.run_path(str(RESULTS.parent / "__main__.py"))["main"]
        with mock.patch.object(train, "main") as first, mock.patch.object(analyze, "main") as second, \
                mock.patch.object(inference, "main") as third:
            status, output, errors = command(main, *arguments)
        self.assertEqual((status, errors), (0, ""))
        return [" ".join(each.call_args.args[0]) for each in (first, second, third)], output

    def test_a_quick_look_leaves_the_committed_results_alone(self):
        quick = RESULTS.parent / "runs" / "quick_look"
        calls, output = self.calls("--epochs", 1, "--resume")
        self.assertEqual(calls,
                         [f"--output-dir {quick} --epochs 1 --resume", f"--results-dir {quick} --num-samples 200",
                                 f"--results-dir {quick}"])
        self.assertIn(f"a quick look: everything goes to {quick}", output)
        self.assertEqual(self.calls("--epochs", 1, "--num-samples", 4, "--output-dir", "x")[0],
                         ["--output-dir x --epochs 1", "--results-dir x --num-samples 4", "--results-dir x"])

    def test_by_default_the_results_are_made_anew(self):
        self.assertEqual(self.calls()[0], [f"--output-dir {RESULTS}", f"--results-dir {RESULTS}",
                                           f"--results-dir {RESULTS}"])
