"""The study: its table of variants, its runs at a small size, what it measures, its figures."""

import itertools
import json
from dataclasses import replace
from unittest import mock

from support import studies

import torch

from beyond import seeds, study, study_figures
from beyond import study_measures as measures
from beyond.shortcut import TrendModel, features, measure_shortcut
from beyond.variants import CELLS, GRID_POOLINGS, RECOMMENDED, SCALED_CELLS, VARIANTS, Variant
from dataset import SortingDataset, make_loader
from model import ModelConfig, create_model
from positional_encoding import ENCODINGS, REQUIRED
from tests.helpers import TemporaryFolder, command, studies_in_this_process, without_pictures
from tests.small import SIZES, Oracle, SmallData, save
from train import TrainingConfig

TRAINING = TrainingConfig(epochs=1)
CHANGES = ("encoding_type", "pooling", "log_scaling", "augmentation")


class Table(TemporaryFolder):
    def test_a_variant_differs_from_its_parent_in_one_setting(self):
        names = list(VARIANTS)
        for name, variant in VARIANTS.items():
            self.assertEqual(variant.name, name)
            self.assertRegex(name, "^[a-z0-9_+-]+$", "a name is a file's name")
            if variant.parent is not None:
                self.assertLess(names.index(variant.parent), names.index(name))
                parent = VARIANTS[variant.parent].settings().items()
                self.assertEqual(len(dict(variant.settings().items() - parent)), 1, name)
        roots = [name for name, variant in VARIANTS.items() if variant.parent is None]
        self.assertEqual(roots, [REQUIRED[0], RECOMMENDED])
        settings = {tuple(variant.settings().values()) for variant in VARIANTS.values()}
        self.assertEqual(len(settings), len(VARIANTS), "no two are the same")

    def test_the_grid_is_complete(self):
        made = set()
        for name in CELLS + SCALED_CELLS:
            *others, augmentation = (VARIANTS[name].settings()[key] for key in CHANGES)
            made.add((*others, augmentation != "none"))
        every = itertools.product(ENCODINGS, GRID_POOLINGS, (False, True), (False, True))
        self.assertEqual(made, set(every))
        self.assertEqual([VARIANTS[name].parent for name in SCALED_CELLS], CELLS)

    def test_the_required_three_are_those_of_train_py(self):
        for name in REQUIRED:
            self.assertEqual(VARIANTS[name].training_config(seed=3), TrainingConfig(seed=3))
            config = ModelConfig(dropout=0.0, encoding_type=name)
            self.assertEqual(VARIANTS[name].kind(**VARIANTS[name].arguments()).config, config)


class Study(SmallData):
    """Runs of tiny variants, in this process."""

    def setUp(self):
        super().setUp()
        self.data, self.runs = self.small_data(extrapolation=True), self.folder / "runs.jsonl"
        tiny = ModelConfig(**SIZES)
        local = replace(tiny, encoding_type="local_bias", pooling="lowest")
        augmented = replace(TRAINING, augmentation="crop+shift+swap")
        root = Variant("root", None, replace(tiny, encoding_type="learned"), TRAINING)
        variants = root, root.derive("child", encoding_type="relative_bias")
        variants += (
            root.derive("scaled", log_scaling=True),
            Variant(RECOMMENDED, None, local, augmented),
        )
        self.variants = {variant.name: variant for variant in variants}
        for target, value in [
            ("beyond.study.VARIANTS", self.variants),
            ("beyond.study.TEST_LENGTHS", (16, 32)),
            ("beyond.study.LONGER", (16, 32)),
            ("beyond.verification.VALUES", 4),
            ("support.studies.HERE", self.folder),
        ]:
            self.enterContext(mock.patch(target, value))

    def study(self, *options):
        folders = "--data-dir", self.data, "--runs", self.runs
        with studies_in_this_process():
            return command(study.main, *folders, "--num-samples", 20, "--workers", 1, *options)

    def lines(self):
        return studies.read_records(self.runs, ("variant", "seed"))

    def test_each_run_is_a_line_that_describes_itself(self):
        status, output, errors = self.study("--seeds", 0, 3, 3, "--only", "root", "child", "root")
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("4 runs to do", output)
        found = {(line["variant"], line["seed"]): line for line in self.lines()}
        self.assertEqual(list(found), [("child", 0), ("child", 3), ("root", 0), ("root", 3)])
        for line in found.values():
            self.assertEqual(line["settings"], self.variants[line["variant"]].settings())
            self.assertEqual((line["num_samples"], line["test"]["n"]), (20, 20))
            self.assertEqual({entry["n"] for entry in line["accuracy"]}, {20})
            self.assertEqual(len(line["accuracy"]), 6 * 5)
            self.assertEqual("untrained_rows" in line, line["variant"] == "root")
            self.assertNotRegex(json.dumps(line), "interval|sorted_share|NaN")
        weights = {line["weights_sha256"] for line in found.values()}
        self.assertEqual(len(weights), 4)

    def test_what_is_done_is_not_done_again(self):
        self.study("--seeds", 0, "--only", "root")
        before = self.runs.read_bytes().splitlines()
        with mock.patch.object(study, "fit", side_effect=KeyboardInterrupt):
            result = self.study("--seeds", 0, 1, "--only", "root")
        self.assert_one_line(result, "interrupted", status=130)
        self.assertIn("1 runs to do", result[1])
        self.assertEqual(self.runs.read_bytes().splitlines(), before)
        self.study("--seeds", 0, 1, "--only", "root")
        after = self.runs.read_bytes().splitlines()
        self.assertEqual((after[:1], len(after)), (before, 2))
        output = self.study("--list")[1]
        self.assertRegex(output, r"root +without parent +seeds: 0, 1")
        self.assertRegex(output, r"child +root, .*encoding_type = relative_bias +seeds: none yet")

    def test_a_larger_record_replaces_a_smaller_one_and_never_the_other_way_round(self):
        for samples, runs, kept in [(20, 1, 20), (10, 0, 20), (40, 1, 40), (20, 0, 40)]:
            options = "--seeds", 0, "--only", "child", "--num-samples", samples
            self.assertIn(f"{runs} runs to do", self.study(*options)[1])
            self.assertEqual([line["num_samples"] for line in self.lines()], [kept])

    def test_records_of_other_settings_or_data_are_refused(self):
        self.study("--seeds", 0, "--only", "child")
        child = self.variants["child"]
        self.variants["child"] = child.derive("child", d_ff=8)
        self.assert_one_line(self.study("--list"), "child, seed 0, has other settings")
        self.variants["child"] = child
        train_file = self.data / "train.json"
        train_file.write_text(train_file.read_text() + " ")
        result = self.study("--seeds", 0, "--only", "child")
        self.assert_one_line(result, "child, seed 0, was trained on other data")
        for line in (b"[]", b"{", b"{}", b"\xff"):
            self.runs.write_bytes(line)
            self.assert_one_line(self.study("--list"), "line 1, is no record of a run")

    def test_figures_are_drawn_from_the_records(self):
        self.assert_one_line(self.study("--figures"), "holds no records")
        every = {"TEST_LENGTHS": (16, 32, 64, 128, 256), "LONGER": (16, 32, 64, 128, 256)}
        self.enterContext(mock.patch.multiple(study, **every))
        self.study("--seeds", 0)
        self.study("--seeds", 1, "--only", "root")
        variant = self.variants[RECOMMENDED]
        torch.manual_seed(0)
        model = variant.kind(**variant.arguments())
        save(self.folder / RECOMMENDED / "best_model.pth", model)
        names = "root", "child", RECOMMENDED
        settings = {"CELLS": names[:2], "SCALED_CELLS": ("scaled", "none"), "LEARNED": names[:1]}
        settings |= {"COMPARED": names, "SCALING": names, "NEGATIVES": ("swap", "one_inversion")}
        lengths = {"TEST_LENGTHS": (16, 32), "LONGER_STILL": (40,), "SIZE": 4}
        grids = mock.patch.object(study.plot, "plot_grid", wraps=study.plot.plot_grid)
        folders = "--results-dir", self.folder, "--output-dir", self.folder / "out"
        with mock.patch.multiple(study, **settings), mock.patch.multiple(measures, **lengths):
            with grids as grid, without_pictures():
                status, _, errors = self.study("--figures", *folders)
        self.assertEqual((status, errors), (0, ""))
        drawn = [{record["variant"] for record in call.args[0]} for call in grid.call_args_list]
        self.assertEqual(drawn, 2 * [{"root", "child"}, {"scaled"}])
        examined = json.loads((self.folder / "out" / "recommended.json").read_text())
        self.assertEqual({entry["length"] for entry in examined["accuracy"]}, {16, 32, 40})
        self.assertEqual(examined["every_window"]["descents"], 6)


class Measures(SmallData):
    def data(self):
        return self.small_data(extrapolation=True)

    def test_the_trend_is_the_least_squares_line_and_sees_no_single_inversion(self):
        lines = torch.tensor([[2, 4, 6, 8, 10], [7, 7, 7, 7, 7]])
        expected = torch.tensor([[10, 0, 1, 0.2], [0, 0, 0, 0.2]], dtype=torch.float64)
        torch.testing.assert_close(features(lines), expected)
        generator = torch.Generator().manual_seed(0)
        sequences = torch.randint(100, (600, 12), generator=generator)
        sequences[::2] = sequences[::2].sort(dim=1).values
        labels = (sequences.diff(dim=1) >= 0).all(dim=1).long()
        trend = TrendModel([(sequences, labels)])
        right = (trend.margins(sequences) > 0) == labels
        self.assertGreater(right.double().mean(), 0.99)
        inverted = sequences[::2].clone()
        inverted[:, [5, 6]] = inverted[:, [6, 5]]
        self.assertGreater((trend.margins(inverted) > 0).double().mean(), 0.5)

    def test_agreement_with_the_trend(self):
        data, splits = self.small_data((200, 20, 100)), []
        for split in ("train", "test"):
            loader = make_loader(SortingDataset(data / f"{split}.json"), 50)
            splits.append([(batch["sequence"], batch["label"]) for batch in loader])
        trend = TrendModel(splits[0])
        found = measure_shortcut(Oracle(), trend, splits[1])
        labels = torch.cat([labels for _, labels in splits[1]])
        called = torch.cat([trend.margins(sequences) for sequences, _ in splits[1]]) > 0
        agree = int((called == labels).sum())
        self.assertTrue(50 < agree < 100)
        expected = {"n": 100, "right": 100, "agree": agree, "trend_wrong": 100 - agree}
        expected["right_where_trend_is_wrong"] = 100 - agree
        self.assertEqual({key: found[key] for key in expected}, expected)
        share, trend_share = labels.double().mean().item(), called.double().mean().item()
        chance = share * trend_share + (1 - share) * (1 - trend_share)
        self.assertAlmostEqual(found["kappa"], (agree / 100 - chance) / (1 - chance))

    def test_pairs_ties_and_margins_of_one_that_knows(self):
        for each in (1, 8):
            table = measures.measure_pairs(Oracle(), each)
            self.assertEqual((table.shape, measures.pair_errors(table)), ((100, 100), []))
        table[3, 2], table[2, 3] = 1, -1
        self.assertEqual(measures.pair_errors(table), [[2, 3], [3, 2]])
        ties = measures.measure_ties(Oracle(), count=20)
        self.assertTrue(all(record["right"] == record["n"] for record in ties))
        inverted = [record["distinct"] for record in ties if record["set"] == "one_inversion"]
        self.assertEqual(inverted, [2, 4, 8, 16])
        (record,) = measures.measure_dilution(Oracle(), self.data(), [16], 20)
        expected = {"length": 16, "n": 20, "margin_sorted_mean": 6.0, "margin_sorted_std": 0.0}
        expected |= {"margin_one_inversion_mean": -6.0, "margin_one_inversion_std": 0.0}
        self.assertEqual(record, expected)

    def test_heads_that_look_at_one_neighbour_are_seen_to(self):
        model = create_model("local_bias", **SIZES).eval()
        model.pos_encoding.weights.data = torch.tensor([[50.0, 0, 0], [0, 0, 50.0]])
        found = measures.measure_heads(model, self.data(), [16], 20)
        for record, side in zip(found, ("before", "after")):
            self.assertAlmostEqual(record[side], 1, places=4)
            self.assertAlmostEqual(record["top_weight"], 1, places=4)
            self.assertAlmostEqual(record["entropy"], 0, places=3)
            total = record["before"] + record["itself"] + record["after"]
            self.assertAlmostEqual(total, 1, places=4)
        neighbour = study_figures.neighbour_head({"heads": found})
        self.assertIn(neighbour[1:], [(0, "before"), (1, "after")])

    def test_policies_for_untrained_rows(self):
        policies = measures.row_policies(torch.arange(10.0).unsqueeze(1), 4, 7)
        expected = {
            "initial": list(range(10)),
            "zeros": [0, 1, 2, 3, 0, 0, 0, 0, 0, 0],
            "copies": [0, 1, 2, 3, 0, 1, 2, 3, 0, 1],
            "interpolation": [0, 0.5, 1, 1.5, 2, 2.5, 3, 7, 8, 9],
        }
        self.assertEqual({k: rows.flatten().tolist() for k, rows in policies.items()}, expected)
        data, model = self.data(), create_model("learned", **SIZES).eval()
        before = {name: value.clone() for name, value in model.named_parameters()}
        found = measures.measure_untrained_rows(model, data, [16, 32], 20, 16)
        self.assertEqual(len(found), 2 * 4 * 2)
        losses = {16: set(), 32: set()}
        for record in found:
            if record["negatives"] == "swap":
                losses[record["length"]].add(round(record["loss"], 6))
        self.assertEqual((len(losses[16]), len(losses[32]) > 2), (1, True))
        for name, value in model.named_parameters():
            self.assertTrue(torch.equal(value, before[name]), "the model is left as it was")


class Seeds(SmallData):
    def test_a_line_a_run_and_other_data_are_refused(self):
        config = mock.Mock(side_effect=lambda **names: ModelConfig(**names | SIZES))
        training = mock.Mock(side_effect=lambda seed: TrainingConfig(epochs=1, seed=seed))
        self.enterContext(without_pictures())
        for target, value in [
            ("beyond.seeds.ModelConfig", config),
            ("beyond.seeds.TEST_LENGTHS", (16,)),
            ("support.cli.DATA_DIR", self.small_data(extrapolation=True)),
            ("support.studies.HERE", self.folder),
        ]:
            self.enterContext(mock.patch(target, value))
        path = self.folder / "seeds.jsonl"

        def run(*numbers):
            return command(seeds.main, "--seeds", *numbers, "--workers", 1, "--output", path)

        with studies_in_this_process(), mock.patch.object(seeds, "TrainingConfig", training):
            self.assertEqual(run(0)[0], 0)
        lines = studies.read_records(path, ("seed", "encoding"))
        self.assertEqual([line["encoding"] for line in lines], sorted(REQUIRED))
        for line in lines:
            self.assertEqual(len(line["val_curve"]), 1)
            self.assertEqual(len(line["accuracy"]), 2 * 5)
            self.assertEqual(line["position_control"] is None, line["encoding"] == "none")
        self.assert_one_line(run(0), "holds runs with other settings or data")
