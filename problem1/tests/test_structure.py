"""The house: what stands at the door, which file may import which, and what a copy needs."""

import ast
import json
import os
import subprocess
import sys
import unittest

import torch

from tests.helpers import HOME, copy_of_the_code
from tests.small import SmallData

OTHER = HOME.with_name("problem2")
DOOR = {"attention.py", "model.py", "dataset.py", "generate_data.py", "train.py", "analyze.py"}
DOOR |= {"inference.py", "__main__.py", "heads", "beyond", "support", "tests", "results"}
IGNORED = {"data", "runs", "__pycache__"}  # and what begins with a dot
# A file may import those on floors below its own, and those of its own folder.
FLOORS = [
    {"__main__"},
    {"train", "analyze", "inference"},
    {"heads"},
    {"model"},
    {"attention", "generate_data"},
    {"dataset"},
    {"support"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
LIBRARIES = {"torch", "numpy", "matplotlib", *sys.stdlib_module_names}


def sources():
    """`(path within this folder, syntax tree)` of each file of the code."""
    for path in HOME.rglob("*.py"):
        place = path.relative_to(HOME)
        if place.parts[0] not in IGNORED | {"tests", "results"}:
            yield place, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree):
    """The first part of each module's name that is imported anywhere in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


class Structure(unittest.TestCase):
    @unittest.skipUnless((OTHER / "support").is_dir(), "the folder is on its own")
    def test_both_problems_share_these_files(self):
        def contents(home):
            paths = [home / "tests" / name for name in ("helpers.py", "tools/chromium.py")]
            paths += (home / "support").glob("[!.]*.*")
            return {str(path.relative_to(home)): path.read_bytes() for path in paths}

        ours, theirs = contents(HOME), contents(OTHER)
        self.assertEqual(ours.keys(), theirs.keys())
        self.assertEqual([name for name in ours if ours[name] != theirs[name]], [])

    def test_tests_run_on_one_thread(self):
        self.assertEqual(torch.get_num_threads(), 1)

    def test_commands_import_support_before_torch(self):
        """It says how torch's threads wait, and torch reads that once."""
        for name in ("generate_data", "train", "analyze", "inference"):
            text = (HOME / f"{name}.py").read_text(encoding="utf-8")
            self.assertLess(
                text.index("from support"), (text + "import torch").index("import torch")
            )

    def test_at_the_door_stand_the_files_of_the_layout_alone(self):
        names = {path.name for path in HOME.iterdir() if not path.name.startswith(".")}
        self.assertEqual(names - IGNORED, DOOR)

    def test_imports_go_down(self):
        arrows = 0
        for place, tree in sources():
            name = place.parts[0].removesuffix(".py")
            if name == "beyond":  # it may import everything
                continue
            if place.name == "model.py":  # the one exception: a checkpoint that beyond/ knows
                (load,) = [node for node in tree.body if getattr(node, "name", "") == "load_model"]
                self.assertEqual(list(imports(load)), ["beyond"])
                tree.body.remove(load)
            for imported in set(imports(tree)) - LIBRARIES:
                with self.subTest(f"{place} imports {imported}"):
                    arrows += 1
                    self.assertTrue(
                        imported == name or FLOOR.get(name, 99) < FLOOR.get(imported, -1)
                    )
        self.assertGreater(arrows, 30)

    def test_no_library_but_the_three_and_matplotlib_only_when_a_figure_is_made(self):
        ours = FLOOR.keys() | {"beyond"}
        for place, tree in sources():
            with self.subTest(str(place)):
                self.assertEqual(set(imports(tree)) - LIBRARIES - ours, set())
                top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
                self.assertNotIn("matplotlib", [name for node in top for name in imports(node)])


class StarterKit(SmallData):
    def test_a_fellow_student_s_script_runs_unchanged(self):
        data = self.small_data(2, (320, 16, 16))
        copy = copy_of_the_code(self.folder / "problem1")
        done = subprocess.run(
            [sys.executable, "-W", "error", HOME / "tests" / "starter_kit.py", data],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        seen = json.loads(done.stdout)
        self.assertLess(seen["losses"][-1], seen["losses"][0])
        self.assertEqual(len(set(seen["accuracies"])), 1)
        self.assertLess(seen["difference"], 1e-4)
        shapes = {f"encoder_{i}_self": [8, 4, 5, 5] for i in range(2)}
        shapes |= {f"decoder_{i}_self": [8, 4, 3, 3] for i in range(2)}
        shapes |= {f"decoder_{i}_cross": [8, 4, 3, 5] for i in range(2)}
        self.assertEqual(seen["maps"], shapes)
        self.assertEqual(len(seen["changes"]), 24)
        self.assertGreater(min(seen["changes"]), 1e-5)
        self.assertEqual(seen["attention"], [[2, 4, 5, 8], [2, 4, 5, 5]])
