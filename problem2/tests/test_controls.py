"""Controls: what they are made of, the best threshold, rows, the map of values, the command."""

import random
from argparse import Namespace
from dataclasses import asdict, replace

from support import files, studies

import torch

from beyond import controls, order_measures
from beyond.order_measures import CONTROLS, best_threshold
from beyond.variants import VARIANTS
from model import create_model
from positional_encoding import SinusoidalPositionalEncoding
from tests.helpers import command, mock, studies_in_this_process
from tests.small import SIZES, Oracle, SmallData, save
from tests.small import random as normal


class NeedsItsRows(Oracle):
    """Knows the answers as long as its rows are as they were."""

    d_model = 4

    def __init__(self):
        super().__init__()
        self.pos_encoding = SinusoidalPositionalEncoding(4)

    def forward(self, x, mask=None):
        length = x.size(1)
        rows = self.pos_encoding(torch.zeros(1, length, 4))[0]
        right = torch.equal(rows, SinusoidalPositionalEncoding(4).rows(length))
        return super().forward(x if right else torch.zeros_like(x))


class Measures(SmallData):
    def test_one_that_knows_is_right_on_every_control(self):
        for record in order_measures.measure_controls(Oracle(), 50):
            is_sorted = record["control"].startswith("sorted")
            self.assertEqual(record["called_sorted"], 50 * is_sorted, record["control"])

    def test_controls_have_the_violations_that_they_are_named_after(self):
        base, many = list(range(0, 96, 6)), {"all pairs exchanged": 8, "blocks of 4 reversed": 12}
        for control, make in CONTROLS.items():
            made = torch.tensor(make(base, random.Random(0)))
            descents = 0 if control.startswith("sorted") else many.get(control, 1)
            self.assertEqual((len(made), (made.diff() < 0).sum()), (16, descents), control)

    def test_the_distance_knows_places_alone(self):
        usual = torch.tensor([[0, 10], [2, 30]])
        found = order_measures.place_distances({"sorted": usual, "swapped": usual.flip(1)})
        first, second = 2**0.5, 200**0.5  # standard deviations of the places
        self.assertAlmostEqual(found["sorted"], 0.5 + 0.5)
        nearest = (9 / first) ** 2 + (20 / second) ** 2
        self.assertAlmostEqual(found["swapped"], nearest)

    def test_the_best_threshold_is_that_of_all_tried(self):
        for seed in range(30):
            scores = (3 * normal(12, seed=seed)).round()  # with ties
            labels = torch.randint(2, (12,), generator=torch.Generator().manual_seed(seed))

            def right(threshold):
                return ((scores > threshold).long() == labels).sum().item()

            tried = max(right(threshold / 2) for threshold in range(-30, 30))
            self.assertEqual(right(best_threshold(scores, labels)), tried)

    def test_a_moved_threshold_is_found(self):
        data, oracle = self.small_data(extrapolation=True), Oracle()
        answer = oracle.forward
        oracle.forward = lambda x, mask=None: answer(x) + torch.tensor([10.0, 0])
        for record in order_measures.measure_ranking(oracle, data, [16, 32], 20):
            expected = {"n": 20, "auc": 1.0, "right": 10, "right_at_best_threshold": 20}
            self.assertEqual({key: record[key] for key in expected}, expected)

    def test_rows_that_a_model_needs_are_seen_to(self):
        found = order_measures.measure_rows(
            NeedsItsRows(), self.small_data(extrapolation=True), [16], 20
        )
        right = {record["rows"]: record["right"] for record in found}
        self.assertEqual(right, {"original": 20, "shuffled": 10, "zeros": 10})

    def test_rows_are_changed_where_the_encoding_adds_them(self):
        data = self.small_data(extrapolation=True)
        with mock.patch.object(order_measures, "LONGER_STILL", (40,)):
            for encoding, adds in (("sinusoidal", True), ("local_bias", False), ("none", False)):
                model = create_model(encoding, pooling="differences", **SIZES).eval()
                record = order_measures.measure_order_in_pooling(model, data, 20)
                self.assertEqual("rows" in record, adds, encoding)
                self.assertEqual([each["length"] for each in record["longer"]], [40, 40])

    def test_a_coarse_map_that_rises_or_falls_with_the_value_is_seen_to(self):
        data, classifier = self.small_data(extrapolation=True), torch.nn.Linear(1, 2)
        classifier.weight.data = torch.tensor([[0.0], [1.0]])
        for sign in (1, -1):
            model = Namespace(
                config=Namespace(pooling="differences"),
                classifier=classifier,
                encode=lambda x: sign * (x // 10).float().unsqueeze(2),
            )
            for record in order_measures.measure_monotone(model, data, [16], 20):
                self.assertEqual(record["rising"], sign > 0)
                if record["gap"] >= 10:
                    self.assertEqual(record["in_order"], 1)
                elif sign > 0:
                    self.assertLess(record["in_order"], 1)


class Command(SmallData):
    def test_a_line_a_model_kept_weights_are_loaded_and_other_data_are_refused(self):
        data, path = self.small_data(extrapolation=True), self.folder / "controls.jsonl"
        tiny = {
            name: replace(
                VARIANTS[name],
                model=replace(VARIANTS[name].model, **SIZES),
                training=replace(VARIANTS[name].training, epochs=1),
            )
            for name in controls.NAMES
        }
        for target, value in [
            ("beyond.controls.VARIANTS", tiny),
            ("beyond.controls.TEST_LENGTHS", (16, 32)),
            ("beyond.controls.SAMPLES", 20),
            ("support.studies.HERE", self.folder),
        ]:
            self.enterContext(mock.patch(target, value))
        digests = []  # of kept weights: of this training, and of one with more epochs
        for name, epochs in (("learned", 1), ("none", 2)):
            kept = tiny[name].kind(**tiny[name].arguments())
            save(self.folder / name / "best_model.pth", kept)
            log = {"training": asdict(tiny[name].training_config(1)) | {"epochs": epochs}}
            log |= {"model": asdict(kept.config), "training_lengths": [8, 16]}
            log["data_sha256"] = {"train": files.file_digest(data / "train.json")}
            files.write_json(self.folder / name / "training_log.json", log)
            digests.append(files.weights_digest(kept))

        def run(*numbers):
            folders = "--data-dir", data, "--results-dir", self.folder, "--output", path
            with studies_in_this_process():
                return command(controls.main, "--workers", 1, *folders, "--seeds", *numbers)

        status, output, errors = run(0, 1)
        self.assertEqual((status, errors), (0, ""))
        for words in ("all pairs exchanged", "swap, AUC", "sinusoidal - learned", "±"):
            self.assertIn(words, output)
        lines = studies.read_records(path, controls.RUN)
        self.assertEqual({line["encoding"] for line in lines}, set(controls.NAMES))
        self.assertEqual(len(lines), 8)
        loaded = [
            (line["encoding"], line["seed"])
            for line in lines
            if line[files.WEIGHTS_DIGEST] in digests
        ]
        self.assertEqual(loaded, [("learned", 1)])
        self.assertTrue(path.with_suffix(".png").exists())
        self.assertIn("0 runs to do", run(0)[1])
        (data / "train.json").write_text((data / "train.json").read_text() + " ")
        self.assert_one_line(run(0), "holds models of other data")
