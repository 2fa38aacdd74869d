"""The committed results: the weights load, and the numbers in the JSON files are what the weights give."""

import json

import torch

from analysis import classify, classify_group, evaluation_groups, load_group, measure_group, moved
from checkpoint import load_model
from dataset import create_dataloaders
from evaluation import evaluate, summarize
from files import sha256
from generate_data import TEST_LENGTHS, NEGATIVES, generate
from model import create_model
from positional_encoding import REQUIRED
from tests.helpers import RESULTS, TemporaryFolder
from training import TrainingConfig
from variants import TRAINED_BY_DEFAULT, VARIANTS


def read(name):
    return json.loads((RESULTS / name).read_text())


class Results(TemporaryFolder):
    def test_the_weights_give_the_numbers_in_the_logs(self):
        generate(self.folder, generate_extrapolation=False)
        _, val, test = create_dataloaders(self.folder, 500)
        for encoding in TRAINED_BY_DEFAULT:
            model, about = load_model(RESULTS / encoding / "best_model.pth")
            log = read(f"{encoding}/training_log.json")
            self.assertEqual(about["train_sha256"], log["data_sha256"]["train"])
            self.assertEqual(about["train_sha256"], sha256(self.folder / "train.json"))
            for loader, record in [(val, log["epochs"][log["best_epoch"] - 1]["val"]), (test, log["test"])]:
                self.same(evaluate(model, loader), record)

    def same(self, result, record):
        """Equal but for rounding: another processor may move one in a thousand across the boundary."""
        for key, value in result.items():
            torch.testing.assert_close(torch.tensor(value), torch.tensor(record[key]), rtol=1e-2, atol=1.5e-3, msg=key)

    def test_the_weights_give_the_numbers_of_the_analysis(self):
        generate(self.folder)
        accuracy = read("extrapolation/extrapolation_results.json")["accuracy"]
        for encoding in ("sinusoidal", "learned", "recommended"):
            model, _ = load_model(RESULTS / encoding / "best_model.pth")
            for group in evaluation_groups([16]):
                if group["gap_source"] in (None, 256):
                    sets = load_group(self.folder, group, kinds=["swap" if group["gap_source"] else "one_inversion"])
                    for result in measure_group(classify_group(model, sets), sets, group):
                        record = next(record for record in accuracy if record["encoding"] == encoding
                                      and all(record[key] == result[key] for key in (*group, "negatives")))
                        self.same({key: result[key] for key in ("accuracy", "sorted_share")}, record)
        sequences, labels = load_group(self.folder, evaluation_groups([16])[0], kinds=["swap"])["swap"]
        for record in read("extrapolation/extrapolation_results.json")["position_control"]:
            if record["first_position"] == 16:
                model, _ = load_model(RESULTS / record["encoding"] / "best_model.pth")
                with moved(model, 16):
                    result = summarize(classify(model, sequences), labels)
                self.same({key: result[key] for key in ("accuracy", "sorted_share")}, record)

    def test_every_set_is_in_the_record(self):
        record = read("extrapolation/extrapolation_results.json")
        self.assertEqual(len(record["accuracy"]), len(TRAINED_BY_DEFAULT) * (len(TEST_LENGTHS) + 4) * len(NEGATIVES))
        for entry in record["accuracy"]:
            self.assertEqual(entry["n"], 2000 if entry["negatives"] in ("swap", "one_inversion") else 400)
        self.assertIn("initialised", record["learned_rows_policy"])

    def test_the_logs_are_of_default_runs(self):
        for encoding in TRAINED_BY_DEFAULT:
            log, variant = read(f"{encoding}/training_log.json"), VARIANTS[encoding]
            self.assertEqual(TrainingConfig(**log["training"]), variant.training_config(seed=0))
            self.assertEqual((len(log["epochs"]), log["model"]["encoding_type"]), (variant.epochs, variant.encoding_type))
            for place, name in [("best_models", "best_model.pth"), ("training_logs", "training_log.json")]:
                self.assertEqual((RESULTS / place / f"{encoding}_{name}").read_bytes(), (RESULTS / encoding / name).read_bytes())

    def test_sinusoidal_and_learned_learn_and_none_cannot_in_all_five_seeds(self):
        records = {(record["seed"], record["encoding"]): record for record in read("seeds.json")}
        for seed in range(5):
            for encoding in REQUIRED:
                record = records[seed, encoding]
                self.assertEqual(TrainingConfig(**record["training"]), TrainingConfig(seed=seed))
                if encoding == "none":
                    self.assertTrue(0.45 < record["test"]["accuracy"] < 0.55, seed)
                else:
                    self.assertGreaterEqual(record["test"]["accuracy"], 0.98, (seed, encoding))

    def test_the_recommended_variant_is_right_everywhere_in_all_five_seeds(self):
        for seed in range(5):
            record = read(f"study/runs/recommended_{seed}.json")
            self.assertEqual(record["settings"], VARIANTS["recommended"].settings())
            self.assertTrue(record["every_window"]["every_sequence_right"])
            self.assertGreater(record["every_window"]["smallest"], 0.1)  # far above rounding
            for entry in record["accuracy"]:
                if entry["set"] == "length" and entry["length"] >= 16:
                    self.assertGreaterEqual(entry["accuracy"], 0.99 if entry["negatives"] == "one_inversion" else 0.999, entry)

    def test_the_committed_recommended_model_compares_neighbours_at_any_length(self):
        model, _ = load_model(RESULTS / "recommended" / "best_model.pth")
        values = torch.arange(100)
        v, w = torch.cartesian_prod(values, values).unbind(1)
        for length in (2, 1000):  # sorted but for one step from v to w, at random surroundings that only rise
            chosen = torch.randperm(len(v), generator=torch.Generator().manual_seed(length))[:10_000 if length == 2 else 40]
            left = (torch.rand(len(chosen), length // 2 - 1) * (v[chosen] + 1).unsqueeze(1)).long().sort(dim=1).values
            right = (w[chosen].unsqueeze(1) + torch.rand(len(chosen), length // 2 - 1) * (100 - w[chosen]).unsqueeze(1)).long().sort(dim=1).values
            sequences = torch.cat([left, v[chosen].unsqueeze(1), w[chosen].unsqueeze(1), right], dim=1)
            self.assertTrue(torch.equal(classify(model, sequences).argmax(dim=1), (v <= w)[chosen].long()), length)

    def test_learned_rows_past_the_training_lengths_are_as_initialised(self):
        log = read("learned/training_log.json")
        torch.manual_seed(log["training"]["seed"] * 1_000_000)
        initial = create_model(**log["model"]).positions.position_embeddings.weight
        trained = load_model(RESULTS / "learned" / "best_model.pth")[0].positions.position_embeddings.weight
        self.assertTrue(torch.equal(trained[16:], initial[16:]))
        self.assertTrue((trained[:16] != initial[:16]).any(dim=1).all())

    def test_figures_are_whole(self):
        figures = [RESULTS / name for name in ("extrapolation_curves.png", "extrapolation/extrapolation_curves.png",
                                               "extrapolation/learned_position_embeddings.png", "position_viz/encodings.png")]
        for figure in figures + [RESULTS / encoding / "training_curves.png" for encoding in TRAINED_BY_DEFAULT]:
            self.assertEqual(figure.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
