"""Runs with several seeds: default settings, either order, controls in files of their own, and none twice."""

from unittest import mock

import torch

import seeds
import train
from learning import checkpoint, runs
from model import ORDERS
from tests.helpers import InThisProcess, TemporaryFolder, command


class Seeds(TemporaryFolder):
    def setUp(self):
        super().setUp()
        self.small_data()
        self.addCleanup(torch.set_num_threads, torch.get_num_threads())
        for patch in (mock.patch.object(checkpoint, "HERE", self.folder),
                      mock.patch.object(checkpoint, "RESULTS_DIR", self.folder / "results"),
                      mock.patch.object(seeds, "DATA_DIR", self.folder / "data"),
                      mock.patch.object(train, "DATA_DIR", self.folder / "data"),
                      mock.patch.object(runs, "ProcessPoolExecutor", InThisProcess)):
            patch.start()
            self.addCleanup(patch.stop)

    def records(self, *path):
        return runs.read_runs(self.folder.joinpath("results", *path), seeds.KEYS)

    def test_each_seed_is_run_once_in_either_order(self):
        for order, folder in zip(ORDERS, ((), ("right_to_left",))):
            options = ("--order", order, "--seeds")
            self.assertIn("1 runs to do", command(seeds.main, *options, 3)[1])
            self.assertIn("1 runs to do", command(seeds.main, *options, 3, 1)[1])
            records = self.records(*folder, "seeds.jsonl")
            self.assertEqual(list(records), [(1,), (3,)])
            self.assertEqual({record["model"]["order"] for record in records.values()}, {order})
            self.assertEqual({record["pairs"] for record in records.values()}, {81})
            model, _ = checkpoint.load_model(checkpoint.runs_of(order) / "seed_3" / "best_model.pth")
            self.assertEqual(model.config.order, order)

    def test_controls_have_files_of_their_own(self):
        self.assertEqual(command(seeds.main, "--epochs", 1, "--focus", 0.5, "--seeds", 0)[0], 0)
        record = self.records("seeds_focus_0.5_epochs_1.jsonl")[0,]
        self.assertEqual((record["training"]["epochs"], record["training"]["focus"]), (1, 0.5))
        self.assertEqual(len(record["val_curve"]), 1)

    def test_runs_at_other_settings_are_refused(self):
        path = self.folder / "results" / "seeds_epochs_1.jsonl"
        command(seeds.main, "--epochs", 1, "--seeds", 0)
        path.write_text(path.read_text().replace('"lr": ', '"lr": 1'))
        self.assert_one_line(command(seeds.main, "--epochs", 1, "--seeds", 1), "holds runs at other settings")
