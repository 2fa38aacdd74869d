"""Problem 1 from a copy elsewhere, by the commands that a newcomer types; and the main command."""

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
from tests.helpers import HOME, RESULTS, TemporaryFolder, command, copy_of_the_code

SMALL = "--epochs=1 --d-model=16 --num-heads=2 --num-layers=1 --d-ff=16"
SIZES = "--num-digits=1 --train-size=41 --val-size=20 --test-size=20"


class Pipeline(TemporaryFolder):
    def run_script(self, *arguments):
        """Run a script where a notebook, a matplotlibrc and an old terminal have their say."""
        (self.folder / "matplotlibrc").write_text("text.usetex: True")
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "MPLCONFIGDIR": str(self.folder),
                "MATPLOTLIBRC": str(self.folder),
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                "PYTHONIOENCODING": "cp1252",
            },
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_the_assignment_runs_from_another_folder_and_without_beyond(self):
        problem = copy_of_the_code(self.folder / "else → where" / "problem1")
        shutil.rmtree(problem / "beyond")
        results = problem / "results"
        self.run_script(problem / "generate_data.py", *SIZES.split())
        self.assertIn("epoch   1 of 1", self.run_script(problem / "train.py", *SMALL.split()))
        self.run_script(problem / "analyze.py", "--problem", "3+4")
        self.assertEqual(
            self.contents(results).keys(),
            {"best_model.pth", "training_curves.png", "training_log.json"}
            | {"attention_patterns/case_3_4.png"},
        )
        for path in results.rglob("*.png"):
            self.assertTrue(path.read_bytes().startswith(b"\x89PNG"))
        self.assertEqual(json.loads((results / "training_log.json").read_text())["num_digits"], 1)
        self.assertIn("20 test problems", self.run_script(problem / "inference.py"))
        self.assertRegex(self.run_script(problem / "inference.py", "3+4"), r"^3 \+ 4 = ")

    def test_the_main_command_runs_as_a_folder_and_as_a_module(self):
        copy_of_the_code(self.folder / "problem1")
        for arguments in (["problem1"], ["-m", "problem1"]):
            self.assertIn("usage: python problem1", self.run_script(*arguments, "--help"))


class Whole(TemporaryFolder):
    def calls(self, *arguments):
        """What `python problem1` calls: the arguments of train, analyze, inference; its output."""
        main = runpy.run_path(str(HOME / "__main__.py"))["main"]
        with (
            mock.patch.object(train, "main") as first,
            mock.patch.object(analyze, "main") as second,
            mock.patch.object(inference, "main") as third,
        ):
            status, output, errors = command(main, *arguments)
        self.assertEqual((status, errors), (0, ""))
        return [" ".join(each.call_args.args[0]) for each in (first, second, third)], output

    def test_a_quick_look_leaves_the_committed_results_alone(self):
        quick = HOME / "runs" / "quick_look"
        calls, output = self.calls("--epochs", 1)
        self.assertEqual(
            calls,
            [
                f"--epochs 1 --output-dir {quick}",
                f"--results-dir {quick} --num-samples 200",
                f"--model-path {quick / 'best_model.pth'}",
            ],
        )
        self.assertIn(f"a quick look, 1 of 18 epochs: weights and results go to {quick}", output)
        calls, _ = self.calls("--epochs", 1, "--num-samples", 9, "--output-dir", "x")
        self.assertEqual(calls[1], "--results-dir x --num-samples 9")

    def test_by_default_the_results_are_made_anew(self):
        calls, _ = self.calls()
        self.assertEqual(calls[0], f"--epochs 18 --output-dir {RESULTS}")
        self.assertEqual(calls[1], f"--results-dir {RESULTS}")
