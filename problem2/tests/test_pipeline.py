"""The whole of problem 2 in a copy elsewhere, by the commands that a newcomer types."""

import json
import os
import runpy
import subprocess
import sys
from unittest import mock

import analyze
import inference
import train
from positional_encoding import REQUIRED
from tests.helpers import HOME, RESULTS, command, copy_of_the_code
from tests.small import SIZES, SmallData

OPTIONS = [f"--{name.replace('_', '-')}={size}" for name, size in SIZES.items()]


class Pipeline(SmallData):
    def run_script(self, *arguments, **options):
        # As in a notebook, with settings of matplotlib and an encoding that a command can trip on.
        (self.folder / "matplotlibrc").write_text("text.usetex: True")
        settings = {
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "MATPLOTLIBRC": str(self.folder),
            "PYTHONIOENCODING": "cp1252",
        }
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=os.environ | settings,
            cwd=self.folder,
            capture_output=True,
            text=True,
            **options,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotRegex(done.stderr.lower(), "error|warn|traceback")
        return done.stdout

    def test_generate_train_analyze_and_infer_from_another_folder(self):
        home = copy_of_the_code(self.folder / "λ" / "problem2")
        sizes = "--train-size=200", "--val-size=20", "--test-size=20"
        self.run_script(home / "generate_data.py", *sizes)
        output = self.run_script(home / "train.py", "--epochs=1", *OPTIONS)
        self.assertIn("epoch   1 of 1", output)
        self.run_script(home / "analyze.py")
        self.assertIn("accuracy by length", self.run_script(home / "inference.py"))
        lines = self.run_script(home / "inference.py", "--stdin", input="3 15\n9,8\n")
        self.assertRegex(lines, r"^((un)?sorted [0-9.]{5}\n){2}$")
        made = set(self.contents(home / "results"))
        expected = {
            *(f"{name}/training_log.json" for name in REQUIRED),
            "extrapolation_curves.png",
            "extrapolation/extrapolation_results.json",
            "extrapolation/extrapolation_curves.png",
            "extrapolation/learned_position_embeddings.png",
            "position_viz/learned_position_embeddings.png",
        }
        self.assertEqual(expected - made, set())
        self.assertEqual([name for name in made if ".tmp" in name], [])
        path = home / "results" / "extrapolation" / "extrapolation_results.json"
        self.assertEqual(len(json.loads(path.read_text())["accuracy"]), 3 * 11 * 5)

    def test_a_fellow_student_s_script_runs_unchanged(self):
        home = copy_of_the_code(self.folder / "problem2")
        (home / "script.py").write_text((HOME / "tests" / "starter_kit.py").read_text())
        data = self.small_data((200, 20, 20), extrapolation=True)
        output = self.run_script(home / "script.py", data, self.folder)
        self.assertEqual(output, "".join(f"{name} {name} 32 101 2\n" for name in REQUIRED))


class Whole(SmallData):
    def calls(self, *arguments):
        """What `python problem2` calls: the arguments of its three commands, and its output."""
        main = runpy.run_path(str(HOME / "__main__.py"))["main"]
        commands = [mock.patch.object(module, "main") for module in (train, analyze, inference)]
        with commands[0] as first, commands[1] as second, commands[2] as third:
            status, output, errors = command(main, *arguments)
        self.assertEqual((status, errors), (0, ""))
        return [" ".join(each.call_args.args[0]) for each in (first, second, third)], output

    def test_a_quick_look_leaves_the_committed_results_alone(self):
        quick = HOME / "runs" / "quick_look"
        calls, output = self.calls("--epochs", 1)
        expected = [f"--output-dir {quick} --epochs 1"]
        expected += [f"--results-dir {quick} --num-samples 200", f"--results-dir {quick}"]
        self.assertEqual(calls, expected)
        self.assertIn(str(quick), output)
        options = "--epochs", 1, "--num-samples", 4, "--output-dir", "x"
        expected = ["--output-dir x --epochs 1", "--results-dir x --num-samples 4"]
        self.assertEqual(self.calls(*options)[0], [*expected, "--results-dir x"])

    def test_by_default_the_results_are_made_anew(self):
        expected = [f"--output-dir {RESULTS} --epochs 10"] + 2 * [f"--results-dir {RESULTS}"]
        self.assertEqual(self.calls()[0], expected)
