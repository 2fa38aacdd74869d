"""The commands of beyond/ at a small size: train, draws, gaps, benchmark; and their names."""

import json
import math
import runpy
import subprocess
import sys
from dataclasses import replace
from unittest import mock

from support import files, timing

import torch

import train as required
from beyond import benchmark, draws, gaps, train
from beyond.benchmark import PyTorchClassifier
from beyond.variants import RECOMMENDED, VARIANTS
from model import SortingClassifier, load_model
from tests.helpers import HOME, TemporaryFolder, command, without_pictures
from tests.small import EXACT, SIZES, SmallData
from tests.test_attention import copy_layer

GAPS = "relative_bias-lowest-augmented"
MODULE = HOME / "beyond"


class Named(TemporaryFolder):
    def run_beyond(self, *arguments):
        with (
            mock.patch.object(sys, "argv", [str(MODULE), *arguments]),
            mock.patch.object(sys, "path", sys.path.copy()),
        ):
            main = runpy.run_path(str(MODULE / "__main__.py"))["main"]
            return command(lambda _: main())

    def test_without_a_name_the_commands_are_listed(self):
        readme = (MODULE / "README.md").read_text(encoding="utf-8")
        status, output, errors = self.run_beyond()
        self.assertEqual((status, output.strip(), errors), (0, readme.strip(), ""))
        names = [line.split("`")[1] for line in readme.splitlines() if line.startswith("| `")]
        commands = names[: names.index("benchmark") + 1]
        self.assertEqual(len(commands), 8)
        for name in commands:
            self.assertTrue((MODULE / f"{name}.py").exists(), name)

        # From another folder, in a process of its own.
        run = [sys.executable, MODULE, "draws", "--help"]
        done = subprocess.run(run, cwd=self.folder, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("beyond draws", done.stdout.splitlines()[0])

    def test_mistakes_are_one_line(self):
        self.assert_one_line(self.run_beyond("abacus"), "abacus", "draws")
        self.assert_one_line(self.run_beyond("seeds", "--seeds", "x"), "--seeds")

    def test_load_model_finds_what_beyond_adds(self):
        code = (
            "import sys; from pathlib import Path; from model import load_model; "
            "assert 'beyond' not in sys.modules; model = load_model(Path(sys.argv[1])); "
            "print(type(model).__name__, 'matplotlib' in sys.modules, 'train' in sys.modules)"
        )
        for name, kind in [
            (RECOMMENDED, "SortingClassifier"),
            ("unrestricted", "ScaledClassifier"),
        ]:
            path = HOME / "results" / "beyond" / name / "best_model.pth"
            run = [sys.executable, "-c", code, path]
            done = subprocess.run(run, cwd=HOME, capture_output=True, text=True)
            self.assertEqual((done.stdout, done.stderr), (f"{kind} False False\n", ""))


class Trained(SmallData):
    """Commands on models of two seeds."""

    def setUp(self):
        super().setUp()
        self.data = self.small_data()
        self.enterContext(without_pictures())

    def train(self, name, folder="results", seed=0, **changes):
        changes = SIZES | {"epochs": 1} | changes
        folders = "--data-dir", self.data, "--output-dir", self.folder / folder
        with mock.patch.dict(VARIANTS):
            for key in (name, RECOMMENDED, "unrestricted"):
                variant = VARIANTS[key]
                sizes = replace(variant.model, **SIZES)
                VARIANTS[key] = replace(variant, model=sizes)
            options = ["--epochs", 1, "--seed", seed, "--device", "cpu"]
            if name != RECOMMENDED:
                options += ["--variant", name]
            status, output, errors = command(train.main, *folders, *options)
        self.assertEqual((status, errors), (0, ""))
        return output

    def draws(self, *options):
        folders = [self.folder / f"seed_{seed}" for seed in (0, 1)]
        places = "--data-dir", self.data, "--output", self.folder / "draws.jsonl"
        sizes = "--num-samples", 8, "--draws", 2, "--results-dir", *folders
        return command(draws.main, *places, *sizes, *options)

    def lines(self, name):
        return [json.loads(line) for line in (self.folder / name).read_bytes().splitlines()]

    def test_recommended_and_unrestricted_are_trained_and_stale_records_named(self):
        output = self.train(RECOMMENDED)
        self.assertNotIn("other weights", output)
        for name, kind in [
            (RECOMMENDED, "SortingClassifier"),
            ("unrestricted", "ScaledClassifier"),
        ]:
            model = load_model(self.folder / "results" / name / "best_model.pth")
            self.assertEqual(type(model).__name__, kind)
        path = self.folder / "results" / "study" / "recommended.json"
        files.write_json(path, {"weights_sha256": "other"})
        self.assertIn(f"of other weights now: {path}", self.train(RECOMMENDED, seed=1))

    def test_draws_a_line_for_each_model_and_length(self):
        for seed in (0, 1):
            options = "--encoding", "learned", "--epochs", 1, "--seed", seed
            folders = "--data-dir", self.data, "--output-dir", self.folder / f"seed_{seed}"
            sizes = [f"--{name.replace('_', '-')}={size}" for name, size in SIZES.items()]
            self.assertEqual(command(required.main, *folders, *options, *sizes)[0], 0)
        status, output, errors = self.draws("--lengths", 16, 301)
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("learned, seed 1: no answer at 301 values", output)
        self.assertRegex(output, r"learned, swap, 16 values: .* over 2 seeds x 2 draws .* n = 32\)")
        intervals = json.loads((self.folder / "draws_intervals.json").read_text())
        keys = "encoding", "length", "kind", "seeds", "draws", "n"
        found = [tuple(each[key] for key in keys) for each in intervals]
        kinds = "one_inversion", "swap"
        self.assertEqual(found, [("learned", 16, kind, 2, 2, 32) for kind in kinds])
        before = self.lines("draws.jsonl")
        self.assertEqual([(line["seed"], line["length"]) for line in before], [(0, 16), (1, 16)])

        # What is there is not measured again, and not replaced by less.
        with mock.patch.object(draws, "measure_draws", side_effect=AssertionError):
            for fewer in (("--draws", 1), ("--num-samples", 4), ()):
                self.assertEqual(self.draws("--lengths", 16, *fewer)[0], 0)
        self.draws("--lengths", 12, "--only", "learned")
        self.assertEqual(
            [line for line in self.lines("draws.jsonl") if line["length"] == 16], before
        )
        self.draws("--lengths", 16, "--num-samples", 12)
        found = {line["num_samples"] for line in self.lines("draws.jsonl") if line["length"] == 16}
        self.assertEqual(found, {12})

        self.assert_one_line(self.draws("--only", "none"), "no model is called none")
        (self.folder / "draws.jsonl").write_text("{}")
        self.assert_one_line(self.draws(), "line 1, is no record")

    def test_gaps_two_lines_for_scaled_scores_and_one_for_plain_ones(self):
        def run(*options):
            folders = "--data-dir", self.data, "--results-dir", self.folder / "results"
            sizes = "--num-samples", 4, "--longest", 23, "--output", self.folder / "gaps.jsonl"
            with mock.patch.object(gaps, "SEQUENCES", 20):
                return command(gaps.main, *folders, *sizes, *options)

        self.enterContext(mock.patch("beyond.certificate.LENGTHS", (64,)))
        for name in (GAPS, f"{GAPS}-scaled", "none"):
            self.train(name)
        status, output, errors = run()
        self.assertEqual((status, errors, output.count("\n")), (0, "", 3))
        lines = self.lines("gaps.jsonl")
        found = [(line["encoding"], line["scores"]) for line in lines]
        scaled = [(f"{GAPS}-scaled", scores) for scores in ("frozen at 16", "scaled")]
        self.assertEqual(sorted(found), [(GAPS, "plain"), *scaled])
        proofs = {line["scores"]: line["certificate"] for line in lines if "certificate" in line}
        self.assertEqual(
            {scores: proof["length"] for scores, proof in proofs.items()}, {"scaled": 64}
        )
        self.assertIn("proved right", output)
        self.assertTrue((self.folder / "gaps.png").exists())
        whole = (self.folder / "gaps.jsonl").read_bytes()
        with mock.patch.object(gaps, "measure", side_effect=AssertionError):
            self.assertEqual(run()[0], 0)
            self.assertEqual(run("--num-samples", 2)[0], 0)
        self.assertEqual((self.folder / "gaps.jsonl").read_bytes(), whole)
        self.assert_one_line(run("--only", "none"), "no model there has one layer")


class Benchmark(TemporaryFolder):
    def test_the_model_of_pytorch_s_parts_computes_the_same(self):
        torch.manual_seed(0)
        sizes = {"vocab_size": 101, "d_model": 24, "num_heads": 3, "num_layers": 2, "d_ff": 40}
        kinds = SortingClassifier, PyTorchClassifier
        ours, theirs = (kind(**sizes, dropout=0.0).double().eval() for kind in kinds)
        for name in ("embedding", "classifier"):
            getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
        theirs.encoder.norm.load_state_dict(ours.norm.state_dict())
        for mine, other in zip(ours.layers, theirs.encoder.layers):
            copy_layer(mine, other)
        x = torch.randint(100, (3, 7))
        torch.testing.assert_close(theirs(x), ours(x), **EXACT)
        counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
        self.assertEqual(*counts)

    def test_a_small_run_leaves_a_record_and_its_figure(self):
        sizes = mock.patch.object(benchmark, "SIZES", SIZES | {"dropout": 0.0})
        with sizes, mock.patch.object(timing, "LENGTHS", (4,)):
            status, output, errors = command(
                benchmark.main, "--rounds", 2, "--output-dir", self.folder
            )
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("training step against nn.TransformerEncoder", output)
        records = json.loads((self.folder / "benchmark.json").read_text())["records"]
        sections = ["training step"] * 2 + ["attention"] * 4
        self.assertEqual([each["section"] for each in records], sections)
        for record in records:
            low, high = record["ratio_quartiles"]
            self.assertTrue(0 < low <= record["ratio"] <= high < math.inf)
        self.assertEqual((self.folder / "benchmark.png").read_bytes()[1:4], b"PNG")
