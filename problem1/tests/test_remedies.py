"""Records that are half-formed, older or smaller, and the folders that remedies name."""

from unittest import mock

from support import cli, studies
from support.files import WEIGHTS_DIGEST, file_digest, weights_digest, write_json

import analyze
from beyond import explore, head_seeds, seeds, sizes
from dataset import ORDERS, create_dataloaders
from generate_data import generate
from heads.examination import Examination
from heads.pruning import measure_orders
from model import load_model
from tests.helpers import RESULTS, command, without_pictures
from tests.small import (
    CARRY,
    OWN,
    UNUSED,
    Planted,
    SmallData,
    digits,
    encode_problems,
    save,
    small_model,
)


class Remedies(SmallData):
    def test_a_remedy_names_its_folder(self):
        beyond = self.folder / "beyond" / "other"
        for path, command_ in [(self.folder, "train.py"), (beyond, "problem1/beyond train")]:
            words = f"python {command_} --output-dir {path}$"
            with self.assertRaisesRegex(cli.UserError, words):
                load_model(path / "best_model.pth")
        words = f"python generate_data.py --output-dir {self.folder}$"
        with self.assertRaisesRegex(cli.UserError, words):
            create_dataloaders(self.folder)
        for n in (1, 2):
            generate(self.folder / str(n), n, 641, 40, 10, 10)
        for n, split in [(1, "train"), (1, "val"), (2, "test")]:
            (self.folder / str(n) / f"{split}.json").rename(self.folder / f"{split}.json")
        with self.assertRaisesRegex(cli.UserError, f"of different sizes: .*{words}"):
            create_dataloaders(self.folder)

    def test_half_formed_records_are_one_line(self):
        data, path = self.small_data(), self.folder / "best_model.pth"
        model = small_model(num_heads=1, d_model=4, d_ff=4)
        save(path, model, num_digits=1, train_sha256=file_digest(data / "train.json"))
        digest = {WEIGHTS_DIGEST: weights_digest(model)}
        for record in ([], {}, digest, digest | {"sets": [{}]}, digest | {"sets": 3}):
            write_json(self.folder / "head_analysis" / "carry.json", record)
            result = command(explore.main, "--model-path", path, "--data-dir", data)
            self.assert_one_line(result, "carry.json is not a whole record", f"--model-path {path}")
        with (
            mock.patch.object(cli, "HERE", self.folder),
            mock.patch.object(studies, "HERE", self.folder),
            mock.patch.object(cli, "DATA_DIR", data),
            mock.patch.object(seeds, "TRAIN_FILE", data / "train.json"),
        ):
            generate(sizes.data_folder(1), 1, 641, 40, 10, 10)
            for module, record in [
                (seeds, {"training": {}}),
                (seeds, {"seed": 0}),
                (sizes, {"digits": 1, "order": ORDERS[0], "way": "own", "layers": 2, "seed": 0}),
            ]:
                name = "seeds.jsonl" if module is seeds else "runs.jsonl"
                studies.write_records(self.folder / "records" / name, [record])
                options = "--output-dir", self.folder / "records", "--seeds", 0
                options += ("--digits", 1, "--orders", ORDERS[0]) if module is sizes else ()
                result = command(module.main, *options)
                self.assertIn(f"{name} is not a whole record", result[2])
                self.assertEqual((result[0], result[2].count("\n")), (2, 1))


class Smaller(SmallData):
    def test_a_smaller_analysis_leaves_the_record_alone(self):
        data, results = self.small_data(2, (300, 20, 60)), self.folder / "results"
        model = small_model(num_heads=1, d_model=4, d_ff=4)
        save(results / "best_model.pth", model, train_sha256=file_digest(data / "train.json"))
        runs = self.folder / "runs"
        for options, folder in [
            (("--num-samples", 9), runs),
            (("--num-samples", 9, "--results-dir", results), runs),
            (("--num-samples", 9, "--output-dir", results / "mine"), results / "mine"),
            ((), results),
        ]:
            with (
                mock.patch.object(cli, "RESULTS_DIR", results),
                mock.patch.object(analyze, "SMALLER_DIR", runs),
                without_pictures(),
            ):
                result = command(analyze.main, "--data-dir", data, *options)
            self.assertEqual((result[0], result[2]), (0, ""))
            self.assertEqual(f"go to {runs}\n" in result[1], folder == runs)
            self.assertIn(f"attention maps in {folder / 'attention_patterns'}", result[1])
            self.assertEqual((results / "head_analysis").exists(), folder == results)

    def test_more_seeds_than_colours_are_all_drawn(self):
        records = studies.read_records(RESULTS / "beyond" / "head_seeds.jsonl")
        records = [record | {"seed": seed} for seed, record in enumerate(records * 3)]
        figure = head_seeds.plot_seeds(records[:12])
        labels = figure.axes[0].get_legend_handles_labels()[1]
        self.assertEqual(labels, [f"seed {seed}" for seed in range(12)])

    def test_removal_curves_of_two_sets_have_one_length(self):
        """On the second set too few answers are right sooner than on the first."""
        easy, hard = (
            Examination(Planted(), *encode_problems(digits(*a), digits(*b)))
            for a, b in [((11, 23, 40), (22, 31, 50)), ((18, 29, 47), (23, 34, 28))]
        )
        (record,) = measure_orders(easy, hard, {"greedy": [UNUSED, CARRY, OWN]})
        self.assertEqual(record["prunable_1_point"], 2)
        self.assertEqual(len(record["exact_match"]), len(record["chosen_on"]))
        self.assertEqual(record["exact_match"][:3], [1, 1, 0])
