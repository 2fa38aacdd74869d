"""The house: what stands at its root, which room may import which, and lines that fit a screen."""

import ast
import unittest
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
HANDOUT = {"positional_encoding", "model", "dataset", "generate_data", "train", "analyze", "inference"}
COMMANDS = {"train", "analyze", "inference", "explore", "study", "seeds", "draws", "gaps", "benchmark", "__main__",
            "scripts"}
# A room or module may import those below it, and modules of its own room.
FLOORS = [COMMANDS, {"exploring"}, {"extrapolation", "speed"}, {"learning"}, {"model"}, {"positional_encoding"},
          {"positions"}, {"generate_data"}, {"dataset"}, {"support"}]


def place(module):
    """The room of a module, or the module itself at the root."""
    return module.split(".")[0]


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def sources():
    """`{module: its file}`, tests left out."""
    return {".".join(path.relative_to(HOME).with_suffix("").parts): path for path in HOME.rglob("*.py")
            if path.relative_to(HOME).parts[0] not in ("tests", "data", "results", "runs")}


def imported(path):
    """The modules of this folder that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                 else [node.module] if isinstance(node, ast.ImportFrom) else [])
        yield from (name for name in names if (HOME / place(name)).is_dir() or (HOME / f"{name}.py").exists())


class Structure(unittest.TestCase):
    def test_the_root_holds_what_the_handout_names_and_the_commands(self):
        self.assertEqual({path.stem for path in HOME.glob("*.py")}, HANDOUT | COMMANDS - {"scripts"})

    def test_arrows_of_import_only_go_down(self):
        arrows = [(module, name) for module, path in sources().items() for name in imported(path)]
        self.assertGreater(len(arrows), 50)
        for module, name in arrows:
            with self.subTest(f"{module} imports {name}"):
                here, there = place(module), place(name)
                self.assertTrue(here == there or floor(here) < floor(there) or {here, there} <= COMMANDS)

    def test_no_circle_of_imports(self):
        arrows = {module: {name for name in imported(path)} for module, path in sources().items()}
        while arrows:
            free = {module for module, names in arrows.items() if not names & arrows.keys() - {module}}
            self.assertTrue(free, f"a circle among {sorted(arrows)}")
            arrows = {module: names for module, names in arrows.items() if module not in free}

    def test_every_room_says_what_lives_there(self):
        for room in ("learning", "extrapolation", "exploring", "positions", "speed", "support"):
            text = (HOME / room / "__init__.py").read_text(encoding="utf-8")
            self.assertIn("May import", ast.get_docstring(ast.parse(text)))

    def test_lines_fit_a_screen(self):
        files = [path for kind in ("py", "html") for path in HOME.rglob(f"*.{kind}") if "data" not in path.parts]
        self.assertIn(HOME / "exploring" / "page.html", files)
        long = [f"{path.relative_to(HOME)}:{number}" for path in files
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 120]
        self.assertEqual(long, [])


if __name__ == "__main__":
    unittest.main()
