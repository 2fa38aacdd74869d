"""The whole of problem 1 from a copy elsewhere, at a small size, by the commands that a newcomer types."""

import json
import os
import runpy
import subprocess
import sys
from unittest import mock

import analyze
import inference
import train

from tests.helpers import RESULTS, TemporaryFolder, command, copy_of_the_code


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
        self.assertEqual(json.loads((problem / "results" / "training_log.json").read_text())["num_digits"], 1)
        self.assertRegex(self.run_script(problem / "inference.py", "3+4"), r"^3 \+ 4 = ")


class Whole(TemporaryFolder):
    def calls(self, *arguments):
        """What `python problem1` with these arguments calls: the arguments of train, analyze and inference, and its
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
                         [f"--epochs 1 --output-dir {quick} --resume", f"--results-dir {quick} --num-samples 200",
                                 f"--model-path {quick / 'best_model.pth'}"])
        self.assertIn(f"a quick look, 1 of 22 epochs: weights and results go to {quick}", output)
        self.assertEqual(self.calls("--epochs", 1, "--num-samples", 9, "--output-dir", "x")[0],
                         ["--epochs 1 --output-dir x", "--results-dir x --num-samples 9",
                          "--model-path x/best_model.pth"])

    def test_by_default_the_results_are_made_anew(self):
        self.assertEqual(self.calls()[0], [f"--epochs 22 --output-dir {RESULTS}", f"--results-dir {RESULTS}",
                                           f"--model-path {RESULTS / 'best_model.pth'}"])
