"""The whole of problem 2 from a copy elsewhere, at a small size, by the commands that a newcomer types."""

import json
import os
import shutil
import subprocess
import sys

from tests.helpers import RESULTS, TemporaryFolder


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
        self.run_script(problem / "analyze.py")
        self.assertIn("accuracy by length", self.run_script(problem / "inference.py"))
        made = {str(path.relative_to(problem / "results")) for path in (problem / "results").rglob("*")
                if path.is_file()}
        for encoding in ("sinusoidal", "learned", "none", "recommended"):
            self.assertLessEqual({f"{encoding}/{name}"
                                  for name in ("best_model.pth", "training_log.json", "training_curves.png")}, made)
        self.assertLessEqual({"extrapolation/extrapolation_results.json", "extrapolation/extrapolation_curves.png",
                              "extrapolation_curves.png", "extrapolation/learned_position_embeddings.png",
                              "position_viz/learned_position_embeddings.png"}, made)
        self.assertFalse([name for name in made if "resume" in name or "tmp" in name])
        accuracy = json.loads((problem / "results" / "extrapolation" / "extrapolation_results.json").read_text())[
            "accuracy"]
        self.assertEqual(len(accuracy), 4 * 11 * 5)
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

    def test_a_quick_look_leaves_the_results_alone_and_goes_on_after_an_interruption(self):
        problem = self.folder / "problem2"
        shutil.copytree(RESULTS.parent, problem, ignore=shutil.ignore_patterns("data", "results", "runs", "tests",
                                                                               "__pycache__"))
        self.run_script(problem / "generate_data.py", "--train-size", 60, "--val-size", 20, "--test-size", 20)
        output = self.run_script(problem, "--epochs", 1, "--num-samples", 4)
        self.assertIn(f"a quick look: everything goes to {problem / 'runs' / 'quick_look'}", output)
        self.assertFalse((problem / "results").exists())
        self.assertTrue((problem / "runs" / "quick_look" / "extrapolation" / "extrapolation_results.json").exists())
        self.assertEqual(self.run_script(problem, "--epochs", 1, "--resume", "--num-samples",
                                         4).count("finished already"), 4)
        self.run_script(problem, "--epochs", 1, "--output-dir", self.folder / "elsewhere", "--num-samples", 4)
        accuracy = json.loads((self.folder / "elsewhere" / "extrapolation" / "extrapolation_results.json").read_text())[
            "accuracy"]
        self.assertEqual({entry["n"] for entry in accuracy}, {4})
