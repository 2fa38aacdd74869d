"""The committed results: the weights load, and the numbers in the JSON files are what the weights give."""

import contextlib
import json

import torch

import draws
import study
from dataset import create_dataloaders
from extrapolation.analysis import (MAIN_KINDS, classify, classify_group, evaluation_groups, load_group, measure_group,
                                    moved)
from extrapolation.draws import measure_draws
from extrapolation.records import from_table
from generate_data import TEST_LENGTHS, NEGATIVES, ensure_test_set, generate, load_splits
from learning.checkpoint import load_model
from learning.evaluation import evaluate, summarize
from learning.loop import TrainingConfig
from learning.variants import TRAINED_BY_DEFAULT, VARIANTS
from model import create_model
from positional_encoding import REQUIRED
from support.digests import KEY, file_digest, records_of_other_weights, weights_digest
from support.files import rounded
from tests.helpers import RESULTS, TemporaryFolder


# The weights that the report is about. What is said of them alone is tested while they are the ones there.
COMMITTED = {"sinusoidal": "845aa57535f7c6fda1866a456ae21d133a545b9b6f55fba820298ffc1ab33e9c",
             "learned": "b7aae14f342595c1d8a5f4e510de7266bbee3f6f8974f7e2513f4f1d8aa6988e",
             "none": "ac994cfb0565e291113d3dbe61cfe107e7821e0c41c9f00f027b471fc78663c6",
             "recommended": "b60bbf0a1b873d0a5f87b897121a2424a99d44eeda367702f4f28add006b355c"}


def read(name):
    return json.loads((RESULTS / name).read_text())


def digest(name):
    """Digest of the weights there are of a model."""
    return weights_digest(load_model(RESULTS / name / "best_model.pth")[0].state_dict())


class Results(TemporaryFolder):
    def test_the_weights_give_the_numbers_in_the_logs(self):
        generate(self.folder, generate_extrapolation=False)
        _, val, test = create_dataloaders(self.folder, 500)
        for encoding in TRAINED_BY_DEFAULT:
            model, about = load_model(RESULTS / encoding / "best_model.pth")
            log = read(f"{encoding}/training_log.json")
            self.assertEqual(about["train_sha256"], log["data_sha256"]["train"])
            self.assertEqual(about["train_sha256"], file_digest(self.folder / "train.json"))
            self.assertEqual(log[KEY], weights_digest(model.state_dict()))
            for loader, record in [(val, log["epochs"][log["best_epoch"] - 1]["val"]), (test, log["test"])]:
                self.same(evaluate(model, loader), record)

    def same(self, result, record):
        """Equal but for rounding: another processor may move one in a thousand across the boundary."""
        for key, value in result.items():
            torch.testing.assert_close(torch.tensor(value), torch.tensor(record[key]), rtol=1e-2, atol=1.5e-3, msg=key)

    def test_the_records_are_of_the_committed_weights(self):
        for name in COMMITTED:
            if digest(name) == COMMITTED[name]:
                self.assertEqual(records_of_other_weights(RESULTS / "extrapolation", COMMITTED[name], name), [])
        if digest("recommended") == COMMITTED["recommended"]:
            self.assertEqual(read("study/recommended.json")[KEY], COMMITTED["recommended"])

    def test_the_weights_give_the_numbers_of_the_analysis(self):
        if any(records_of_other_weights(RESULTS / "extrapolation", digest(name), name) for name in TRAINED_BY_DEFAULT):
            self.skipTest("the models were trained anew, and not analyzed since")
        generate(self.folder, generate_extrapolation=False)
        with contextlib.redirect_stdout(None):
            for source in (None, 256):
                ensure_test_set(self.folder, 16, source)
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
        self.assertLessEqual(set(TRAINED_BY_DEFAULT), record["models"].keys())
        self.assertEqual(len(record["accuracy"]), len(record["models"]) * (len(TEST_LENGTHS) + 4) * len(NEGATIVES))
        for entry in record["accuracy"]:
            self.assertEqual(entry["n"], 2000 if entry["negatives"] in ("swap", "one_inversion") else 400)
        self.assertIn("initialised", record["learned_rows_policy"])

    def test_the_logs_are_of_default_runs(self):
        for encoding in TRAINED_BY_DEFAULT:
            log, variant = read(f"{encoding}/training_log.json"), VARIANTS[encoding]
            self.assertEqual(TrainingConfig(**log["training"]), variant.training_config(seed=0))
            self.assertEqual((len(log["epochs"]), log["model"]["encoding_type"]),
                             (variant.epochs, variant.encoding_type))
            for place, name in [("best_models", "best_model.pth"), ("training_logs", "training_log.json")]:
                self.assertEqual((RESULTS / place / f"{encoding}_{name}").read_bytes(),
                                 (RESULTS / encoding / name).read_bytes())

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
        records = study.read_records(RESULTS / "study" / "runs.jsonl")
        self.assertLess((RESULTS / "study" / "runs.jsonl").stat().st_size, 6000 * len(records))
        for seed in range(5):
            record = records["recommended", seed]
            self.assertEqual(record["settings"], VARIANTS["recommended"].settings())
            self.assertTrue(record["every_window"]["every_sequence_right"])
            self.assertGreater(record["every_window"]["smallest"], 0.1)  # far above rounding
            for entry in record["accuracy"]:
                if entry["set"] == "length" and entry["length"] >= 16:
                    self.assertGreaterEqual(entry["accuracy"], 0.99 if entry["negatives"] == "one_inversion" else 0.999,
                                            entry)

    def test_the_draws_are_what_the_weights_give(self):
        generate(self.folder, generate_extrapolation=False)
        model, _ = load_model(RESULTS / "unrestricted" / "best_model.pth")
        line = draws.read_draws(RESULTS / "draws.jsonl")["unrestricted", 0, 16]
        if line[KEY] != weights_digest(model.state_dict()):
            self.skipTest("draws.jsonl was made from other weights")
        records = measure_draws(model, 16, line["num_samples"], set().union(*load_splits(self.folder)), draws=1)
        self.assertEqual(records, [record for record in from_table(line["draws"]) if record["draw"] == 0])

    def test_the_intervals_are_those_of_the_draws(self):
        lines = draws.read_draws(RESULTS / "draws.jsonl").values()
        self.assertEqual(read("draws_intervals.json"), rounded(draws.summarize(lines)))

    def test_without_a_window_ten_seeds_are_right_at_every_length(self):
        lines = [line for (name, _, _), line in draws.read_draws(RESULTS / "draws.jsonl").items()
                 if name == "unrestricted"]
        self.assertEqual({line["seed"] for line in lines}, set(range(10)))
        self.assertGreaterEqual(max(line["length"] for line in lines), 2048)
        for line in lines:
            for kind in MAIN_KINDS:
                chosen = [record for record in from_table(line["draws"]) if record["kind"] == kind]
                right, n = (sum(record[key] for record in chosen) for key in ("right", "n"))
                self.assertGreaterEqual(right / n, 0.999, (line["seed"], line["length"], kind))

    def test_the_committed_recommended_model_compares_neighbours_at_any_length(self):
        if digest("recommended") != COMMITTED["recommended"]:
            self.skipTest("the recommended model was trained anew")
        model, _ = load_model(RESULTS / "recommended" / "best_model.pth")
        values = torch.arange(100)
        v, w = torch.cartesian_prod(values, values).unbind(1)
        for length in (2, 1000):  # sorted but for one step from v to w, at random surroundings that only rise
            chosen = torch.randperm(len(v), generator=torch.Generator().manual_seed(length))[:10_000 if length == 2
                                                                                             else 40]
            left = (torch.rand(len(chosen), length // 2 - 1) * (v[chosen] + 1).unsqueeze(1)).long().sort(dim=1).values
            right = (w[chosen].unsqueeze(1) + torch.rand(len(chosen), length // 2 - 1)
                     * (100 - w[chosen]).unsqueeze(1)).long().sort(dim=1).values
            sequences = torch.cat([left, v[chosen].unsqueeze(1), w[chosen].unsqueeze(1), right], dim=1)
            self.assertTrue(torch.equal(classify(model, sequences).argmax(dim=1), (v <= w)[chosen].long()), length)

    def test_learned_rows_past_the_training_lengths_are_as_initialised(self):
        log = read("learned/training_log.json")
        torch.manual_seed(log["training"]["seed"] * 1_000_000)
        initial = create_model(**log["model"]).pos_encoding.position_embeddings.weight
        trained = load_model(RESULTS / "learned" / "best_model.pth")[0].pos_encoding.position_embeddings.weight
        self.assertTrue(torch.equal(trained[16:], initial[16:]))
        self.assertTrue((trained[:16] != initial[:16]).any(dim=1).all())

    def test_figures_are_whole(self):
        figures = [RESULTS / name for name in ("extrapolation_curves.png", "extrapolation/extrapolation_curves.png",
                                               "extrapolation/learned_position_embeddings.png",
                                               "position_viz/encodings.png")]
        for figure in figures + [RESULTS / encoding / "training_curves.png" for encoding in TRAINED_BY_DEFAULT]:
            self.assertEqual(figure.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
