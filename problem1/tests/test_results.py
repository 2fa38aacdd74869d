"""The committed results: the weights load, and the numbers in the JSON files are what the weights give."""

import json
import unittest
from dataclasses import asdict

import torch

import sizes
from dataset import AdditionDataset, create_dataloaders
from generate_data import generate
from heads.examination import Examination
from heads.sites import ablated, all_heads, parse_head
from learning.carries import cascade_length
from learning.checkpoint import load_model, results_of
from learning.evaluation import evaluate
from learning.exhaustive import all_pairs, predict, predict_forced
from learning.loop import TrainingConfig, learning_rate
from learning.runs import read_runs
from model import ORDERS
from support.digests import KEY, file_digest, weights_digest
from support.files import rounded
from tests.helpers import RESULTS, TemporaryFolder
from train import default_config

COMMITTED = "d1386d03c070a466f9f47bf9d081336c7e6dce67964d5832ccd46ddc9404ef69"
model, about = load_model(RESULTS / "best_model.pth")
DIGEST = weights_digest(model.state_dict())
of_the_committed_weights = unittest.skipUnless(DIGEST == COMMITTED,
                                               "the model in results/ is another one than that of the report")
SEEDS = {order: list(read_runs(results_of(order) / "seeds.jsonl", ("seed",)).values()) for order in ORDERS}


def read(name):
    """A record in results/; the test is skipped if it was made from other weights than those that lie there."""
    record = json.loads((RESULTS / name).read_text())
    if isinstance(record, dict) and record.get(KEY, DIGEST) != DIGEST:
        raise unittest.SkipTest(f"{name} was made from other weights")
    return record


class Results(TemporaryFolder):
    def test_the_weights_give_the_numbers_in_the_log(self):
        generate(self.folder)
        log = read("training_log.json")
        _, val, test = create_dataloaders(self.folder, 500)
        self.assertEqual(about, {"num_digits": log["num_digits"], "train_sha256": log["data_sha256"]["train"]})
        if file_digest(self.folder / "train.json") != about["train_sha256"]:
            self.skipTest("the model was trained on other data than the default ones")
        for loader, record in [(val, log["epochs"][log["best_epoch"] - 1]["val"]), (test, log["test"])]:
            result = evaluate(model, loader)
            self.assertAlmostEqual(result.pop("loss") / record.pop("loss"), 1, places=2)
            self.assertEqual(rounded(result), record)

    @of_the_committed_weights
    def test_the_log_is_of_a_default_run(self):
        log, config = read("training_log.json"), TrainingConfig()
        self.assertEqual(TrainingConfig(**log["training"]), config)
        self.assertEqual(len(log["epochs"]), config.epochs)
        steps = -(-10_000 // config.batch_size) * config.epochs
        self.assertAlmostEqual(log["epochs"][-1]["train"]["learning_rate"], learning_rate(steps - 1, steps, config))

    def test_the_weights_answer_as_the_exhaustive_record_says(self):
        """On the hardest pairs (a carry handed on twice) and on a sample of the others."""
        record = read("exhaustive.json")
        a, b = all_pairs(3, 0, record["pairs"])
        chosen = cascade_length(a, b, 3) == 2
        self.assertEqual(chosen.sum().item(), record["by_cascade_length"]["2"]["pairs"])
        chosen[torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[:10_000]] = True
        listed = {(error["a"], error["b"]) for error in record["error_list"]}
        a, b = a[chosen], b[chosen]
        for start in range(0, len(a), 5000):
            part = slice(start, start + 5000)
            predicted, target = predict(model, a[part], b[part], 3)
            for x, y, wrong in zip(a[part].tolist(), b[part].tolist(), (predicted != target).any(1).tolist()):
                self.assertEqual(wrong, (x, y) in listed, (x, y))

    @of_the_committed_weights
    def test_one_forced_pass_finds_the_errors_of_free_running_decoding(self):
        a, b = torch.randint(100, 1000, (2, 500), generator=torch.Generator().manual_seed(0))
        with ablated(model, ["encoder.1.self.2"]):
            free, forced = (function(model, a, b, 3) for function in (predict, predict_forced))
        wrong = (free[0] != free[1]).any(dim=1)
        self.assertTrue(20 < int(wrong.sum()) < 400)
        self.assertTrue(torch.equal(wrong, (forced[0] != forced[1]).any(dim=1)))

    def test_the_baselines_of_the_head_study_are_the_accuracy_that_training_reports(self):
        ablation = read("head_analysis/ablation.json")
        self.assertEqual(ablation["baseline"]["test"]["exact_match"], read("training_log.json")["test"]["exact_match"])
        self.assertEqual((ablation["baseline"]["test"]["n"], len(ablation["records"])), (2000, 24 * 3 * 2))

    def test_the_weights_give_the_ablations_of_the_record(self):
        generate(self.folder)
        test = AdditionDataset(self.folder / "test.json")
        examination = Examination(model, test.inputs, test.targets)
        records = {(record["head"], record["method"]): record
                   for record in read("head_analysis/ablation.json")["records"] if record["set"] == "test"}
        for head in sorted({head for head, _ in records})[::8]:
            without = examination.matches([parse_head(head)]).float().mean().item()
            baseline = examination.clean.matches.float().mean().item()
            self.assertAlmostEqual(without - baseline, records[head, "zero"]["exact_match_change"]["mean"], delta=2e-3)

    def test_a_picture_for_each_head_and_the_whole_cases(self):
        folder = RESULTS / "attention_patterns"
        names = {site.name() for site in all_heads(model)}
        self.assertEqual(len(names), 24)
        self.assertLessEqual({f"{name}.png" for name in names}, {path.name for path in folder.iterdir()})
        self.assertGreaterEqual(len(list(folder.glob("case_*.png"))), 12)
        for path in [*folder.iterdir(), *(RESULTS / "head_analysis").glob("*.png")]:
            self.assertEqual(path.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    @of_the_committed_weights
    def test_the_carry_moves_with_the_heads_that_the_record_names_and_not_without(self):
        sets = [record for record in read("head_analysis/carry.json")["sets"] if record["heads_only"]
                and record["searched_on"][0] == "carry"]
        self.assertEqual([record["column"] for record in sets], [1, 2, 3])
        for record in sets:
            self.assertGreaterEqual(record["conditions"]["carry"]["exact"], 0.95)
            self.assertLessEqual(record["conditions"]["same carry"]["exact"], 0.02)

    def test_the_head_study_was_done_on_five_seeds(self):
        for order in ORDERS:
            records = json.loads((results_of(order) / "head_analysis" / "seeds.json").read_text())
            self.assertEqual([record["seed"] for record in records], [0, 1, 2, 3, 4])

    def test_every_record_says_which_weights_it_is_of(self):
        records = ["exhaustive.json", "training_log.json", *(f"head_analysis/{name}.json" for name in
                   ("patterns", "ablation", "importance", "pruning", "pairs", "carry"))]
        for name in records:
            self.assertRegex(json.loads((RESULTS / name).read_text())[KEY], "^[0-9a-f]{64}$", name)

    def test_the_exhaustive_record_adds_up(self):
        record = read("exhaustive.json")
        self.assertEqual((record["pairs"], record["unseen"]["pairs"]), (810_000, 800_000))
        for key in ("by_carry_pattern", "by_cascade_length"):
            self.assertEqual(sum(part["pairs"] for part in record[key].values()), 810_000)
            self.assertEqual(sum(part["errors"] for part in record[key].values()), record["errors"])
        self.assertEqual(len(record["error_list"]), record["errors"])

    @of_the_committed_weights
    def test_no_error_in_all_pairs_for_the_committed_weights(self):
        self.assertEqual(read("exhaustive.json")["errors"], 0)

    def test_no_error_in_all_pairs_for_seeds_0_to_4(self):
        for records in SEEDS.values():
            self.assertEqual([record["errors"] for record in records if record["seed"] < 5], [0] * 5)

    def test_the_records_of_the_seeds_are_of_default_runs(self):
        for order, records in SEEDS.items():
            for record in records:
                config = default_config(order, "sinusoidal", seed=record["seed"])
                self.assertEqual(record["training"], asdict(config))
                self.assertEqual((record["pairs"], record["model"]["order"]), (810_000, order))
                self.assertEqual(len(record["error_list"]), record["errors"])

    def test_no_error_units_first_after_a_quarter_of_the_visits(self):
        records = read_runs(results_of("right-to-left") / "seeds_epochs_5.jsonl", ("seed",)).values()
        self.assertEqual([(record["seed"], record["errors"]) for record in records], [(seed, 0) for seed in range(5)])
        for record in records:
            config = default_config("right-to-left", "sinusoidal", seed=record["seed"], epochs=5)
            self.assertEqual(record["training"], asdict(config))
            self.assertLessEqual(config.epochs, TrainingConfig().epochs / 4)

    def test_the_model_that_writes_right_to_left_makes_no_error(self):
        backward, _ = load_model(RESULTS / "right_to_left" / "best_model.pth")
        record = json.loads((RESULTS / "right_to_left" / "exhaustive.json").read_text())
        if record[KEY] != weights_digest(backward.state_dict()):
            self.skipTest("exhaustive.json was made from other weights")
        self.assertEqual((backward.config.order, record["errors"]), ("right-to-left", 0))
        a, b = all_pairs(3, 0, 810_000)
        hard = (cascade_length(a, b, 3) == 2).nonzero().flatten()
        predicted, target = predict_forced(backward, a[hard], b[hard], 3)
        self.assertTrue(torch.equal(predicted, target))

    def test_every_class_of_carry_chains_is_learned_units_first(self):
        records = read_runs(RESULTS / "sizes" / "runs.jsonl", ("digits", "order", "layers", "seed")).values()
        done = {(record["digits"], record["order"], record["seed"]) for record in records
                if record["layers"] == sizes.LAYERS}
        self.assertEqual(done, {(digits, order, seed) for digits, number in sizes.SEEDS.items() for order in ORDERS
                                for seed in range(number)})
        for record in records:
            config = default_config(record["order"], "columns", seed=record["seed"])
            self.assertEqual(record["training"], asdict(config))
            self.assertEqual(record["n"], 1000)
            if record["order"] == "right-to-left" and record["digits"] > 1:
                self.assertGreaterEqual(min(record["right"].values()), 999, record)

    def test_places_by_columns_hold_at_four_times_the_trained_length(self):
        records = [record for record in read_runs(RESULTS / "lengths" / "runs.jsonl", ("positions", "seed")).values()
                   if record["positions"] == "columns"]
        self.assertEqual([record["seed"] for record in records], [0, 1, 2, 3, 4])
        for record in records:
            tested = next(test for test in record["right"] if test["digits"] == 20)
            self.assertGreaterEqual(min(tested["right"].values()) / record["n"], 0.95)

    def test_figures_are_whole(self):
        self.assertEqual((RESULTS / "training_curves.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
