"""Studies of problem 1: chains of carries, many seeds, sizes of numbers, longer numbers."""

import unittest
from dataclasses import replace
from unittest import mock

from support import cli, files, studies
from support.studies import read_records

import torch

from beyond import few_heads, head_seeds, lengths, recipes, seeds, sizes
from beyond.chains import NINES, count_right, draw_chain, draw_nines, problem_classes
from dataset import ORDERS, AdditionDataset, decode_problems, encode_problems
from generate_data import generate
from heads.carries import longest_chain
from tests.helpers import command, studies_in_this_process, without_pictures
from tests.small import Oracle, SmallData, save, small_model
from train import TrainingConfig

SMALL = {"num_encoder_layers": 1, "num_decoder_layers": 1, "d_model": 8, "num_heads": 2, "d_ff": 8}


class Chains(unittest.TestCase):
    def test_drawn_problems_are_of_their_class_and_differ(self):
        generator = torch.Generator().manual_seed(0)
        for n in (1, 2, 6, 20):
            for length in {0, 1, n // 2, n}:
                a, b = draw_chain(n, length, 200, generator)
                self.assertEqual(longest_chain(a, b).unique().tolist(), [length])
                self.assertTrue((a[:, 0] > 0).all() and (b[:, 0] > 0).all())
                different = len(torch.cat([a, b], dim=1).unique(dim=0))
                self.assertGreater(different, 150 if n > 2 else 20)
            a, b = draw_nines(n, 100, generator)
            self.assertTrue((a + b == 9).all() and (a[:, 0] > 0).all() and (b[:, 0] > 0).all())

    def test_a_chain_may_stand_at_any_place(self):
        a, b = draw_chain(6, 2, 2000, torch.Generator().manual_seed(0))
        starts = ((a + b >= 10)[:, 1:] & (a + b == 9)[:, :-1]).float().mean(dim=0)
        self.assertTrue((starts > 0.1).all(), starts)

    def test_every_class_is_there_and_the_same_again(self):
        classes, again = (problem_classes(4, 30, seed=0) for _ in range(2))
        names = ["random", *(f"chain {length}" for length in range(5)), NINES]
        self.assertEqual(list(classes), names)
        self.assertEqual({len(a) for a, _ in classes.values()}, {30})
        self.assertTrue(all(torch.equal(classes[name][0], again[name][0]) for name in names))

    def test_wrong_answers_are_counted_in_their_class(self):
        for order, place in zip(ORDERS, (0, 3)):

            def no_carry_to_the_top(target, place=place):
                return torch.where(torch.arange(4) == place, 0, target)

            classes = problem_classes(3, 40, seed=0)
            self.assertEqual({*count_right(Oracle(3, order=order), classes, order).values()}, {40})
            right = count_right(Oracle(3, no_carry_to_the_top, order=order), classes, order)
            self.assertEqual([right[name] for name in ("chain 0", "chain 3", NINES)], [40, 0, 40])


class Studies(SmallData):
    """Each study at a tiny size: models of width 8, one epoch, in this process."""

    def setUp(self):
        super().setUp()
        self.data = self.small_data()

        def short(**options):
            return TrainingConfig(**options | {"epochs": 1})

        for patch in (
            mock.patch.multiple(
                cli, HERE=self.folder, RESULTS_DIR=self.folder / "results", DATA_DIR=self.data
            ),
            mock.patch.object(studies, "HERE", self.folder),
            mock.patch.object(seeds, "TRAIN_FILE", self.data / "train.json"),
            mock.patch.object(lengths, "DATA", self.folder / "data_lengths"),
            mock.patch.multiple(
                sizes,
                CLASS_SIZE=20,
                WAYS={way: replace(config, epochs=1) for way, config in sizes.WAYS.items()},
            ),
            mock.patch.multiple(
                lengths, TESTED=(2,), TEST_SIZE=10, TRAINED={1: 59, 2: 60}, HELD_OUT={1: 11, 2: 9}
            ),
            mock.patch.object(recipes, "TrainingConfig", short),
            mock.patch.object(recipes, "sizes_and_config", lambda _: (SMALL, None)),
            studies_in_this_process(),
            without_pictures(),
        ):
            self.enterContext(patch)

    def run_study(self, module, *options, todo):
        """Run a study, which has so many runs to do."""
        status, output, errors = command(module.main, *options)
        self.assertEqual((status, errors), (0, ""), output)
        self.assertIn(f"{todo} runs to do", output)
        return output

    def records(self, name, *keys):
        return read_records(self.folder / "results" / "beyond" / name, keys)

    def test_seeds(self):
        for order, folder in zip(ORDERS, (".", "right_to_left")):
            self.run_study(seeds, "--order", order, "--seeds", 3, todo=1)
            self.run_study(seeds, "--order", order, "--seeds", 3, 1, todo=1)
            records = self.records(f"{folder}/seeds.jsonl", "seed")
            self.assertEqual([record["seed"] for record in records], [1, 3])
            self.assertEqual({record["order"] for record in records}, {order})
            self.assertEqual({record["pairs"] for record in records}, {81})
            self.assertEqual({len(record["weights_sha256"]) for record in records}, {64})
        self.run_study(seeds, "--epochs", 2, "--focus", 0.5, "--seeds", 0, todo=1)
        (record,) = self.records("seeds_focus_0.5_epochs_2.jsonl")
        self.assertEqual((record["training"]["focus"], len(record["val_curve"])), (0.5, 2))

    def test_seeds_on_a_gpu_are_trained_at_once_and_their_records_are_those_of_a_process(self):
        class Gpu(str):
            type = "cuda"  # so it says, and it is the CPU

        with (
            mock.patch.object(
                recipes, "sizes_and_config", lambda _: (SMALL | {"dropout": 0}, None)
            ),
            mock.patch.object(cli, "choose_device", return_value=Gpu("cpu")) as choose,
        ):
            self.run_study(seeds, "--seeds", 2, todo=1)
            output = self.run_study(seeds, "--device", "cuda", "--seeds", 2, 1, 0, 1, todo=2)
            self.assertIn("2 runs to do, all at once", output)
            self.assertEqual(self.run_study(seeds, "--seeds", 1, todo=0).count("pairs,"), 3)
            self.assertEqual([call.args[0] for call in choose.mock_calls], [None, "cuda", None])
            choose.return_value = torch.device("cpu")
            self.run_study(seeds, "--output-dir", self.folder / "cpu", "--seeds", 0, 1, 2, todo=3)
        records = self.records("seeds.jsonl", "seed")
        self.assertEqual([record["seed"] for record in records], [0, 1, 2])
        for ours, alone in zip(records, read_records(self.folder / "cpu/seeds.jsonl", ["seed"])):
            self.assertEqual(list(ours), list(alone))
            for name in set(ours) - {"weights_sha256", "seconds", "val_curve"}:
                self.assertEqual(ours[name], alone[name], name)
            for point, alone_point in zip(ours["val_curve"], alone["val_curve"]):
                self.assertEqual(point[1:], alone_point[1:])

    def test_records_of_other_data_or_settings_are_not_mixed_in(self):
        path = self.folder / "results" / "beyond" / "seeds.jsonl"
        self.run_study(seeds, "--seeds", 0, todo=1)
        text = path.read_text()
        for old, new, key in [('"lr": ', '"lr": 1', "training"), ('train_sha256": "', "", "train")]:
            path.write_text(text.replace(old, new or old + "0"))
            result = command(seeds.main, "--seeds", 1)
            self.assert_one_line(result, "holds runs with another " + key, "move it away")

    def test_sizes(self):
        options = "--digits", 1, "--orders", "right-to-left", "--seeds"
        self.run_study(sizes, *options, 0, todo=1)
        output = self.run_study(sizes, *options, 2, 0, 1, 1, todo=2)
        self.assertIn(" 1 digits, right-to-left, shared recipe, 2+2 layers: worst class", output)
        records = self.records("sizes/runs.jsonl", "seed")
        self.assertEqual([record["seed"] for record in records], [0, 1, 2])
        self.assertEqual((records[0]["pairs"], records[0]["n"]), (81, 20))
        names = ["random", "chain 0", "chain 1", NINES]
        self.assertEqual(list(records[0]["right"]), names)
        self.assertTrue((self.folder / "results/beyond/sizes/sizes.png").exists())

    def test_sizes_in_other_ways_for_the_order_that_fails(self):
        for way in sizes.WAYS:
            generate(sizes.data_folder(2, way), 2, 641, 40, 10, 10)
        (sizes.data_folder(2, sizes.BALANCED) / "train.json").unlink()
        with mock.patch.object(sizes, "AGAIN", (2,)):
            output = self.run_study(sizes, "--digits", 2, "--seeds", 0, todo=5)
        self.assertIn(" 2 digits, left-to-right, balanced recipe", output)
        records = self.records("sizes/runs.jsonl", "order", "way")
        found = [(record["order"], record["way"]) for record in records]
        others = [(ORDERS[0], way) for way in (sizes.BALANCED, sizes.LONGER, sizes.OWN)]
        self.assertEqual(found, [*others, *((order, sizes.SHARED) for order in ORDERS)])
        # A third of the problems has each length of the longest chain, and all sums are right.
        data = AdditionDataset(sizes.data_folder(2, sizes.BALANCED) / "train.json")
        a, b = decode_problems(data.inputs)
        self.assertEqual(longest_chain(a, b).bincount().tolist(), [13, 13, 13])
        self.assertTrue(torch.equal(encode_problems(a, b)[1], data.targets))

    def test_lengths(self):
        output = self.run_study(lengths, "--seeds", 0, todo=3)
        self.assertIn("columns,  2 digits, 1 seeds: random", output)
        kinds = [record["positions"] for record in self.records("lengths/runs.jsonl", "seed")]
        self.assertEqual({*kinds}, {"sinusoidal", "learned", "columns"})
        self.run_study(lengths, "--seeds", 0, todo=0)

    def test_few_heads(self):
        results, gone = self.folder / "results", ["encoder.0.self.1", "decoder.0.cross.0"]
        model = small_model(num_encoder_layers=1)
        save(results / "best_model.pth", model, num_digits=1)
        pruned = [{"method": way, "removed": gone} for way in ("zero", "mean")]
        path = results / "head_analysis" / "pruning.json"
        record = {files.WEIGHTS_DIGEST: files.weights_digest(model), "pruned_models": pruned}
        files.write_json(path, record)
        output = self.run_study(few_heads, "--seeds", 1, todo=4)
        self.assertIn("one head a layer, 1+1 layers, seed 1: 3 heads", output)
        records = self.records("few_heads.jsonl", "way")
        self.assertEqual({record["pairs"] for record in records}, {81})
        after = [record for record in records if "errors_before" in record]
        self.assertEqual([record["heads"] for record in after], [18, 18])
        self.assertTrue(all(record["way"].startswith("pruned") for record in after))
        save(results / "best_model.pth", small_model(num_encoder_layers=1, seed=1), num_digits=1)
        self.assert_one_line(command(few_heads.main), "holds runs with another committed_weights")
        with mock.patch.object(cli, "RESULTS_DIR", results):
            with self.assertRaisesRegex(cli.UserError, "pruning.json is of other weights"):
                few_heads.pruned_model(0, None, 1)

    def test_head_seeds(self):
        def briefly(model, sets):
            return {"orders": [{"exact_match": [1.0, 0.9]}], "sets": [], "verdicts": {}}

        with (
            mock.patch.object(head_seeds, "study_briefly", briefly),
            mock.patch.object(head_seeds, "plot_seeds", list),
        ):
            self.run_study(head_seeds, "--seeds", 4, todo=1)
        (record,) = self.records("head_seeds.jsonl", "seed")
        self.assertEqual((record["seed"], record["orders"][0]["exact_match"]), (4, [1.0, 0.9]))
