"""The whole of problem 1 from a copy elsewhere, at a small size, by the commands that a newcomer types."""

import json
import os
import subprocess
import sys

from tests.helpers import TemporaryFolder, copy_of_the_code


class Pipeline(TemporaryFolder):
    def run_script(self, *arguments, **options):
        done = subprocess.run([sys.executable, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              env=os.environ | {"MPLCONFIGDIR": str(self.folder)}, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotRegex(done.stderr.lower(), "error|warn|traceback")
        return done.stdout

    def test_generate_train_analyze_and_infer_from_another_folder(self):
        problem = copy_of_the_code(self.folder / "elsewhere" / "problem1")
        self.run_script(problem / "generate_data.py", "--num-digits", 1, "--train-size", 41, "--val-size", 20,
                        "--test-size", 20)
        output = self.run_script(problem / "train.py", "--epochs", 1, "--d-model", 16, "--num-heads", 2, "--num-layers",
                                 1, "--d-ff", 16)
        self.assertIn("epoch   1 of 1", output)
        self.run_script(problem / "analyze.py", "--problem", "3+4")  # the whole analysis is in test_heads
        self.assertEqual(sorted(path.name for path in (problem / "results").glob("[!.]*")),
                         ["attention_patterns", "best_model.pth", "training_curves.png", "training_log.json"])
        self.assertIn("20 test problems", self.run_script(problem / "inference.py"))
        before = {path: path.read_bytes() for path in (problem / "results").rglob("*") if path.is_file()}
        output = self.run_script(problem, "--epochs", 1, "--resume")
        self.assertIn(f"a quick look, 1 of 22 epochs: weights and results go to {problem / 'runs' / 'quick_look'}",
                      output)
        self.assertIn("20 test problems", output)
        self.assertTrue((problem / "runs" / "quick_look" / "best_model.pth").exists())
        self.assertEqual({path: path.read_bytes() for path in (problem / "results").rglob("*") if path.is_file()},
                         before)
        self.assertEqual(json.loads((problem / "results" / "training_log.json").read_text())["num_digits"], 1)
        self.assertRegex(self.run_script(problem / "inference.py", "3+4"), r"^3 \+ 4 = ")
