"""The committed results: the weights load, and give the numbers in the records of them."""

import contextlib
import json
import tempfile
import unittest
from functools import cache
from pathlib import Path

from support import files, studies

import torch

from beyond import draws, study
from beyond.order_measures import measure_controls
from dataset import create_dataloaders
from extrapolation.analysis import (
    classify,
    classify_group,
    evaluation_groups,
    find_models,
    load_group,
    measure_group,
)
from extrapolation.dissection import logits_under
from extrapolation.evaluation import evaluate, summarize
from generate_data import generate, load_splits
from model import create_model, load_model
from positional_encoding import REQUIRED
from tests.helpers import RESULTS

BEYOND = ("recommended", "unrestricted")


def read(name):
    return json.loads((RESULTS / name).read_text())


@cache
def model_of(name):
    return load_model(find_models(RESULTS)[name])


def log_of(name):
    return json.loads(find_models(RESULTS)[name].with_name("training_log.json").read_text())


class Results(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.data = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        generate(cls.data, generate_extrapolation=False)

    def same(self, result, record):
        """Equal up to rounding: another processor may move one in a thousand over the boundary."""
        for key, value in result.items():
            found, expected = torch.tensor(value), torch.tensor(record[key])
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1.5e-3, msg=key)

    def of_the_present_weights(self, digest, name):
        if digest != files.weights_digest(model_of(name)):
            self.skipTest(f"{name} was trained anew since the record was made")

    def test_all_models_are_found_and_give_the_numbers_in_their_logs(self):
        self.assertLessEqual({*REQUIRED, *BEYOND}, {*find_models(RESULTS)})
        _, val, test = create_dataloaders(self.data, 500)
        for name in (*REQUIRED, *BEYOND):
            model, log = model_of(name), log_of(name)
            self.assertEqual(log["weights_sha256"], files.weights_digest(model))
            digest = files.file_digest(self.data / "train.json")
            self.assertEqual(model.training_info, {"train_sha256": digest})
            self.assertEqual(log["data_sha256"]["train"], digest)
            best = log["epochs"][log["best_epoch"] - 1]["val"]
            for loader, record in [(val, best), (test, log["test"])]:
                self.same(evaluate(model, loader), record)

    def test_the_weights_give_the_numbers_of_the_analysis(self):
        record = read("extrapolation/extrapolation_results.json")
        groups = [group for group in evaluation_groups([16]) if group["gap_source"] in (None, 256)]
        for name in ("sinusoidal", "recommended"):
            self.of_the_present_weights(record["weights_sha256"].get(name), name)
            for group in groups:
                kind = "swap" if group["gap_source"] else "one_inversion"
                with contextlib.redirect_stdout(None):
                    sets = load_group(self.data, group, kinds=[kind])
                (found,) = measure_group(classify_group(model_of(name), sets), sets, group)
                wanted = {"encoding": name, "negatives": kind, **group}
                (entry,) = (each for each in record["accuracy"] if wanted.items() <= each.items())
                self.same({key: found[key] for key in ("accuracy", "sorted_share")}, entry)
        sequences, labels = load_group(self.data, {"length": 16}, kinds=["swap"])["swap"]
        positions, pair = {"moved": 16 + torch.arange(16)}, ("moved", "moved")
        for entry in record["position_control"]:
            if entry["first_position"] == 16:
                model = model_of(entry["encoding"])
                found = logits_under(model, sequences, positions, [pair])[pair]
                found = summarize(found, labels)
                self.same({key: found[key] for key in ("accuracy", "sorted_share")}, entry)

    def test_the_draws_are_what_the_weights_give(self):
        lines = studies.read_records(RESULTS / "beyond" / "draws.jsonl", draws.LINE)
        self.assertEqual(read("beyond/draws_intervals.json"), files.rounded(draws.summarize(lines)))
        wanted = {"encoding": "unrestricted", "seed": 0, "length": 16}
        (line,) = (each for each in lines if wanted.items() <= each.items())
        self.of_the_present_weights(line["weights_sha256"], "unrestricted")
        seen = set().union(*load_splits(self.data))
        found = draws.measure_draws(model_of("unrestricted"), 16, line["num_samples"], seen, 1)
        self.assertEqual(found, [record for record in line["draws"] if record["draw"] == 0])

    def test_the_controls_are_of_the_present_weights(self):
        lines = studies.read_records(RESULTS / "beyond" / "controls.jsonl", ("encoding", "seed"))
        kept = {line["encoding"]: line for line in lines if line["seed"] == 0}
        for name, line in kept.items():
            self.of_the_present_weights(line["weights_sha256"], name)
        found = measure_controls(model_of("recommended"))
        self.assertEqual(found, kept["recommended"]["controls"])

    def test_the_runs_of_the_study_are_of_the_settings_in_the_table(self):
        records = study.read_runs(RESULTS / "beyond" / "study" / "runs.jsonl", self.data)
        for seed in range(5):
            windows = records["recommended", seed]["every_window"]
            self.assertEqual((windows["called_unsorted"], windows["not_always_noticed"]), (0, 0))

    def test_the_recommended_model_compares_neighbours_at_any_length(self):
        self.of_the_present_weights(
            read("beyond/study/recommended.json")["weights_sha256"], "recommended"
        )
        v, w = torch.cartesian_prod(torch.arange(100), torch.arange(100)).unbind(1)
        for length, count in ((2, 10_000), (1000, 10)):
            # One step from v to w in surroundings that rise.
            generator = torch.Generator().manual_seed(length)
            chosen = torch.randperm(len(v), generator=generator)[:count]
            low, high = v[chosen].unsqueeze(1), w[chosen].unsqueeze(1)
            left = torch.rand(count, length // 2 - 1, generator=generator) * (low + 1)
            right = high + torch.rand(count, length // 2 - 1, generator=generator) * (100 - high)
            ends = [part.long().sort(dim=1).values for part in (left, right)]
            sequences = torch.cat([ends[0], low, high, ends[1]], dim=1)
            answers = classify(model_of("recommended"), sequences).argmax(dim=1)
            self.assertTrue(torch.equal(answers, (low <= high).squeeze(1).long()), length)

    def test_learned_rows_past_the_training_lengths_are_as_initialised(self):
        log = log_of("learned")
        torch.manual_seed(log["training"]["seed"] * 1_000_000)
        initial = create_model(**log["model"]).pos_encoding.position_embeddings.weight
        trained = model_of("learned").pos_encoding.position_embeddings.weight
        self.assertTrue(torch.equal(trained[16:], initial[16:]))
        self.assertTrue((trained[:16] != initial[:16]).any(dim=1).all())

    def test_no_record_holds_nan(self):
        def refuse(constant):
            raise AssertionError(f"{path} holds {constant}")

        paths = [*RESULTS.rglob("*.json"), *RESULTS.rglob("*.jsonl")]
        self.assertGreater(len(paths), 15)
        for path in paths:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            for line in lines:
                json.loads(line, parse_constant=refuse)
