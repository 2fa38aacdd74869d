"""The committed results: the weights load, and give the numbers in the records."""

import json
import unittest

from support.files import WEIGHTS_DIGEST, file_digest, rounded, weights_digest

import torch

from dataset import create_dataloaders, decode_problems, shift_right
from generate_data import generate
from heads.carries import longest_chain
from heads.examination import encode
from heads.exhaustive import all_pairs
from model import load_model
from tests.helpers import RESULTS, TemporaryFolder
from train import evaluate

OTHER = RESULTS / "beyond" / "right_to_left"


def read(path, model):
    """A record; the test is skipped if it is missing or was made from other weights."""
    record = json.loads(path.read_text()) if path.exists() else {}
    if record.get(WEIGHTS_DIGEST) != weights_digest(model):
        raise unittest.SkipTest(f"{path.name} was made from other weights")
    return record


class Results(TemporaryFolder):
    @classmethod
    def setUpClass(cls):
        cls.model = load_model(RESULTS / "best_model.pth")

    def own_data(self):
        """The default data; the test is skipped if the model was trained on others."""
        generate(self.folder)
        if file_digest(self.folder / "train.json") != self.model.training_info["train_sha256"]:
            self.skipTest("the model was trained on other data than the default ones")

    def test_the_weights_give_the_numbers_in_the_log(self):
        log = read(RESULTS / "training_log.json", self.model)
        self.own_data()
        _, val, test = create_dataloaders(self.folder, 500)
        best = log["epochs"][log["best_epoch"] - 1]["val"]
        for loader, record in [(val, best), (test, log["test"])]:
            result = evaluate(self.model, loader)
            self.assertAlmostEqual(result.pop("loss") / record.pop("loss"), 1, places=2)
            self.assertEqual(rounded(result), record)

    def test_the_weights_answer_as_the_exhaustive_records_say(self):
        """On the hardest pairs (a carry handed on twice) and on a sample of the others."""
        for model, path in [
            (self.model, RESULTS / "beyond" / "exhaustive.json"),
            (load_model(OTHER / "best_model.pth"), OTHER / "exhaustive.json"),
        ]:
            record = read(path, model)
            pairs = torch.stack(all_pairs(record["num_digits"]), dim=1)
            hard = longest_chain(*pairs.unbind(1)) == 3
            self.assertEqual(int(hard.sum()), record["by_cascade_length"]["2"]["pairs"])
            shuffled = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
            chosen = torch.cat([pairs[hard], pairs[shuffled[:10_000]]])  # [N, 2, n]
            order, listed = model.training_info["order"], record["error_list"]
            listed = {(error["a"], error["b"]) for error in listed}
            for part in chosen.split(5000):
                source, target = encode(*part.unbind(1), order)
                with torch.no_grad():
                    predicted = model(source, shift_right(target)).argmax(dim=-1)
                wrong = (predicted != target).any(dim=1)
                for a, b in zip(*(digits.tolist() for digits in decode_problems(source[wrong]))):
                    pair = tuple(int("".join(map(str, number))) for number in (a, b))
                    self.assertIn(pair, listed)

    def test_records_of_one_model_name_its_weights_and_none_holds_nan(self):
        def refuse(constant):
            raise AssertionError(constant)

        paths = [*RESULTS.rglob("*.json"), *RESULTS.rglob("*.jsonl")]
        self.assertGreater(len(paths), 10)
        for path in paths:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            records = [json.loads(line, parse_constant=refuse) for line in lines]
            of_one = path.suffix == ".json" and isinstance(records[0], dict)
            if of_one and path.stem not in ("benchmark", "robustness"):
                self.assertRegex(records[0][WEIGHTS_DIGEST], "^[0-9a-f]{64}$", path)
