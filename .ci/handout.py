"""The handout, line by line, on a fresh clone.

Every file that it names, in both of its layouts, is there and in order; every command that it names
runs. Run as `python .ci/handout.py`, with the libraries of the README installed.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import matplotlib.image
import torch

ROOT = Path(__file__).resolve().parent.parent
TOP = {"problem1", "problem2", "report.pdf", "README.md"}
# The deliverables of both problems, and the structure that must be followed exactly.
DELIVERABLES = [
    "problem1/results/training_log.json",
    "problem1/results/best_model.pth",
    "problem1/results/head_analysis/ablation.json",
    "problem1/results/head_analysis/importance.json",
    *(
        f"problem1/results/attention_patterns/{stack}.{layer}.{kind}.{head}.png"
        for stack, kind in [("encoder", "self"), ("decoder", "self"), ("decoder", "cross")]
        for layer in range(2)
        for head in range(4)
    ),
    *(
        f"problem2/results/{encoding}/{name}"
        for encoding in ("sinusoidal", "learned", "none")
        for name in ("best_model.pth", "training_log.json", "training_curves.png")
    ),
    *(
        f"problem2/results/extrapolation/{name}"
        for name in (
            "extrapolation_results.json",
            "extrapolation_curves.png",
            "learned_position_embeddings.png",
        )
    ),
]
STRUCTURE = [
    *(
        f"problem1/{name}.py"
        for name in (
            "attention",
            "model",
            "dataset",
            "train",
            "analyze",
            "generate_data",
            "inference",
        )
    ),
    *(
        f"problem2/{name}.py"
        for name in (
            "positional_encoding",
            "model",
            "dataset",
            "train",
            "analyze",
            "generate_data",
            "inference",
            "scripts/generate_data",
        )
    ),
    "problem2/results/extrapolation_curves.png",
    "report.pdf",
    "README.md",
]
FOLDERS = {
    "problem1/results/attention_patterns": ["*.png"],
    "problem1/results/head_analysis": ["*.json", "*.png"],
    "problem2/results/training_logs": ["*.json"],
    "problem2/results/best_models": ["*.pth"],
    "problem2/results/position_viz": ["*.png"],
}
SMALL = (
    "--epochs",
    "1",
    "--d-model",
    "16",
    "--num-heads",
    "2",
    "--num-layers",
    "1",
    "--d-ff",
    "16",
)


class Handout(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.clone = Path(folder.name) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)

    def in_order(self, path):
        """Fail unless the file is what its name says: it opens, and there is something in it."""
        self.assertGreater(path.stat().st_size, 0)
        if path.suffix == ".json":
            self.assertTrue(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".png":
            height, width, _ = matplotlib.image.imread(path).shape
            self.assertGreater(min(height, width), 200)
        elif path.suffix == ".pth":
            self.assertIn(
                "embedding.weight", torch.load(path, map_location="cpu", weights_only=True)
            )
        elif path.suffix == ".pdf":
            content = path.read_bytes()
            self.assertTrue(content.startswith(b"%PDF-"))
            pattern = rb"/Type\s*/Pages\b.*?/Count\s+(\d+)|/Count\s+(\d+).*?/Type\s*/Pages\b"
            pages = int(re.search(pattern, content, re.DOTALL).expand(rb"\1\2"))
            self.assertTrue(8 <= pages <= 16, f"{pages} pages")
        elif path.suffix == ".py":
            compile(path.read_text(encoding="utf-8"), path, "exec")

    def test_every_file_that_is_named(self):
        for name in DELIVERABLES + STRUCTURE:
            with self.subTest(name):
                self.in_order(self.clone / name)

    def test_every_folder_that_is_named(self):
        for folder, patterns in FOLDERS.items():
            for pattern in patterns:
                with self.subTest(f"{folder}/{pattern}"):
                    found = sorted((self.clone / folder).glob(pattern))
                    self.assertTrue(found)
                    for path in found:
                        self.in_order(path)
        self.assertGreaterEqual(
            len(list((self.clone / "problem1/results/attention_patterns").glob("case_*.png"))), 8
        )

    def test_the_top_level_is_what_the_structure_shows(self):
        self.assertEqual(
            {path.name for path in self.clone.iterdir() if not path.name.startswith(".")}, TOP
        )

    def test_the_readme_says_what_it_must(self):
        readme = (self.clone / "README.md").read_text(encoding="utf-8")
        for needed in (
            "- Full name: ",
            "- USC email: ",
            "python train.py",
            "python inference.py",
            "Notes on the implementation",
        ):
            self.assertIn(needed, readme)

    def test_the_examples_of_the_readme_run(self):
        readme = (self.clone / "README.md").read_text(encoding="utf-8")
        examples = re.findall(r"```python\n# in (problem\d)/(.*?)```", readme, re.DOTALL)
        self.assertEqual([folder for folder, _ in examples], ["problem1", "problem2"])
        subprocess.run(
            [sys.executable, "generate_data.py"],
            cwd=self.clone / "problem1",
            capture_output=True,
            check=True,
        )
        for folder, code in examples:
            run = subprocess.run(
                [sys.executable, "-c", f"#{code}"],
                cwd=self.clone / folder,
                capture_output=True,
                text=True,
            )
            self.assertEqual((run.returncode, run.stderr), (0, ""))

    def test_every_command_that_is_named(self):
        for folder, generate in [
            ("problem1", ["generate_data.py", "--seed", "641", "--num-digits", "3"]),
            ("problem2", ["scripts/generate_data.py", "--seed", "641"]),
        ]:
            for command in (generate, ["inference.py"], ["train.py", *SMALL], ["inference.py"]):
                with self.subTest(f"{folder}: python {' '.join(command)}"):
                    run = subprocess.run(
                        [sys.executable, *command],
                        cwd=self.clone / folder,
                        capture_output=True,
                        text=True,
                        timeout=600,
                    )
                    self.assertEqual(
                        (run.returncode, run.stderr if run.returncode else ""), (0, "")
                    )

    def test_records_of_another_training_give_a_draft_of_the_report(self):
        results = self.clone / "problem1" / "results"
        other = results / "beyond" / "right_to_left"
        record = results / "beyond" / "exhaustive.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"errors": 7}))
        report = (self.clone / "report.pdf").read_bytes()

        def build(*options):
            return subprocess.run(
                [sys.executable, self.clone / ".report" / "build.py", *options],
                capture_output=True,
                text=True,
            )

        refused = build()
        self.assertEqual(refused.returncode, 1)
        self.assertIn("the records no longer say", refused.stderr)
        shutil.copytree(other / "head_analysis", results / "head_analysis", dirs_exist_ok=True)
        self.assertIn("ablation.json is of other weights: make it again", build().stderr)
        self.assertEqual((self.clone / "report.pdf").read_bytes(), report)
        draft = build("--draft")
        self.assertEqual((draft.returncode, draft.stderr), (0, ""))
        self.assertIn("- no error of the committed weights", draft.stdout)
        self.in_order(self.clone / "report.pdf")
        self.assertNotEqual((self.clone / "report.pdf").read_bytes(), report)
        self.assertEqual(build("--check").returncode, 1)


if __name__ == "__main__":
    unittest.main()
