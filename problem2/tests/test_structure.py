"""What stands at the door, and which file may import which."""

import ast
import unittest

import torch

from tests.helpers import HOME

OTHER = HOME.with_name("problem1")
DOOR = ["__main__", "analyze", "dataset", "generate_data", "inference", "model"]
DOOR += ["positional_encoding", "train"]
FOLDERS = {"extrapolation", "beyond", "support", "tests", "scripts", "results"}
MADE = {"data", "runs", "__pycache__", ".ruff_cache"}
# A file may import those of later groups, and those of its own folder.
GROUPS = [
    {"__main__", "scripts"},
    {"beyond"},
    {"train", "analyze", "inference"},
    {"extrapolation"},
    {"model"},
    {"positional_encoding"},
    {"generate_data"},
    {"dataset"},
    {"support"},
]
UPWARD = {("model", "beyond")}  # in load_model alone


def sources():
    """`{module: its file}`, without tests."""
    paths = [path.relative_to(HOME) for path in HOME.rglob("*.py")]
    paths = [path for path in paths if path.parts[0] not in MADE | {"tests", "results"}]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(path):
    """The modules of this folder that a file imports."""
    known = sources()
    for node in ast.walk(ast.parse((HOME / path).read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        yield from (name for name in names if name in known)


def reached(start):
    """The modules that must be read with `start`: all that it imports, and they import."""
    known, found, waiting = sources(), set(), [start]
    while waiting:
        module = waiting.pop()
        found.add(module)
        names = [name for name in imported(known[module]) if (module, name) not in UPWARD]
        waiting += [name for name in names if name not in found]
    return found


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

    def test_the_door(self):
        self.assertEqual(sorted(path.stem for path in HOME.glob("*.py")), DOOR)
        folders = {path.name for path in HOME.iterdir() if path.is_dir()}
        self.assertEqual(folders - MADE, FOLDERS)
        others = [path.name for path in HOME.iterdir() if path.is_file() and path.suffix != ".py"]
        self.assertEqual(others, [])

    def test_imports_go_down(self):
        def group(module):
            place = module.split(".")[0]
            return next(number for number, names in enumerate(GROUPS) if place in names)

        arrows = [(module, name) for module, path in sources().items() for name in imported(path)]
        self.assertGreater(len(arrows), 50)
        upward = []
        for here, there in set(arrows):
            same_folder = here.split(".")[0] == there.split(".")[0]
            if not (group(here) < group(there) or same_folder):
                upward.append((here, there))
        self.assertEqual(set(upward), UPWARD)

    def test_only_load_model_imports_beyond(self):
        tree = ast.parse((HOME / "model.py").read_text(encoding="utf-8"))
        (function,) = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            and any(isinstance(inner, ast.Import) for inner in ast.walk(node))
        )
        self.assertEqual(function.name, "load_model")

    def test_no_circle_of_imports(self):
        left = {
            module: {name for name in imported(path) if (module, name) not in UPWARD}
            for module, path in sources().items()
        }
        while left:
            free = {module for module, names in left.items() if not names & left.keys() - {module}}
            self.assertTrue(free, f"a circle among {sorted(left)}")
            left = {module: names for module, names in left.items() if module not in free}

    def test_a_command_is_read_in_few_files(self):
        for name, most in [("train", 9), ("analyze", 14)]:
            found = {module for module in reached(name) if sources()[module].name != "__init__.py"}
            self.assertIn("dataset", found)
            self.assertLessEqual(len(found), most, name)
