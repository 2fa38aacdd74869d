"""The study: its table of variants, its runs on a small scale, what it measures, and the proof over all windows."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import torch
from torch import nn

import study
from dataset import SortingDataset, make_loader
from extrapolation import records, study as measures, study_figures, verification
from extrapolation.shortcut import TrendModel, features, measure_shortcut
from learning.checkpoint import save_model
from learning.loop import TrainingConfig
from learning.variants import CELLS, RECOMMENDED, SCALED_CELLS, VARIANTS, Variant
from model import POOLINGS, create_model
from positional_encoding import ENCODINGS, REQUIRED
from tests.helpers import Oracle, TemporaryFolder, command, without_pictures

TINY = dict(d_model=16, num_heads=2, num_layers=1, d_ff=16, epochs=1)


class Table(TemporaryFolder):
    def test_a_variant_differs_from_its_parent_in_one_setting(self):
        names = list(VARIANTS)
        for name, variant in VARIANTS.items():
            self.assertEqual(variant.name, name)
            self.assertRegex(name, "^[a-z0-9_+-]+$", "a name is a file's name")
            if variant.parent is not None:
                self.assertLess(names.index(variant.parent), names.index(name))
                parent = VARIANTS[variant.parent].settings()
                self.assertEqual(sum(value != parent[key] for key, value in variant.settings().items()), 1, name)
        self.assertEqual([name for name, variant in VARIANTS.items() if variant.parent is None],
                         ["sinusoidal", RECOMMENDED])
        self.assertEqual(len({tuple(variant.settings().values()) for variant in VARIANTS.values()}), len(VARIANTS),
                         "no two are the same")

    def test_the_grid_is_complete(self):
        made = {tuple(variant.settings()[key] for key in ("encoding_type", "pooling", "log_scaling"))
                + (variant.augmentation != "none",) for name, variant in VARIANTS.items()
                if name in CELLS + SCALED_CELLS}
        self.assertEqual(made, set(itertools.product(ENCODINGS, POOLINGS, (False, True), (False, True))))
        self.assertEqual([VARIANTS[name].parent for name in SCALED_CELLS], CELLS)
        for name in CELLS:
            self.assertEqual(VARIANTS[name].model_arguments() | {"log_scaling": True},
                             VARIANTS[f"{name}-scaled"].model_arguments())

    def test_the_required_three_are_the_defaults_of_the_course_s_model_and_of_training(self):
        for name in REQUIRED:
            self.assertEqual(VARIANTS[name].training_config(seed=3), TrainingConfig(seed=3))
            self.assertEqual(create_model(**VARIANTS[name].model_arguments()).config,
                             create_model(name, dropout=VARIANTS[name].dropout).config)
        for encoding in ENCODINGS:
            self.assertTrue(any(variant.encoding_type == encoding for variant in VARIANTS.values()))


class Study(TemporaryFolder):
    """Runs of tiny variants, in this process."""

    def setUp(self):
        super().setUp()
        self.data = self.small_data((60, 20, 20), extrapolation=True)
        tiny = {"root": Variant("root", encoding_type="learned", **TINY),
                "child": Variant("child", "root", encoding_type="relative_bias", **TINY),
                "scaled": Variant("scaled", "root", encoding_type="learned", log_scaling=True, **TINY),
                RECOMMENDED: Variant(RECOMMENDED, encoding_type="local_bias", pooling="lowest",
                                     augmentation="crop+shift+swap", **TINY)}
        for target, value in (("study.VARIANTS", tiny), ("study.SCRATCH_DIR", self.folder / "scratch"),
                              ("extrapolation.verification.VALUES", 4)):
            self.enterContext(mock.patch(target, value))
        self.variants = tiny

    def study(self, *options):
        with mock.patch.object(study, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers)):
            return command(study.main, "--data-dir", self.data, "--runs", self.folder / "runs.jsonl", "--num-samples",
                           20, "--workers", 1, *options)

    def records(self):
        """`{(variant, seed): record}` as read back."""
        return {(line["variant"], line["seed"]): records.unpack(line)
                for line in records.read_lines(self.folder / "runs.jsonl")}

    def test_a_line_of_the_file_gives_back_the_record(self):
        with mock.patch.object(study, "add_record") as add:
            self.study("--seeds", 0, "--only", "root", RECOMMENDED)
        for call in add.call_args_list:
            record = call.args[1]
            line = json.loads(json.dumps(records.pack(record)))
            self.assertNotRegex(json.dumps(line), "interval|sorted_share|agreement|every_sequence_right")
            self.same(records.unpack(line), record)

    def same(self, found, expected):
        """Equal but for the rounding of floats, and for the order of keys."""
        if isinstance(expected, dict):
            self.assertEqual(found.keys(), expected.keys())
            for key, value in expected.items():
                self.same(found[key], value)
        elif isinstance(expected, list):
            self.assertEqual(len(found), len(expected))
            for one, other in zip(found, expected):
                self.same(one, other)
        elif isinstance(expected, float):
            self.assertTrue(found is None or abs(found - expected) <= 6e-5 * abs(expected), (found, expected))
        else:
            self.assertEqual(found, expected)

    def test_one_more_run_is_one_more_line(self):
        self.study("--seeds", 0, 1, "--only", "child")
        before = (self.folder / "runs.jsonl").read_bytes().splitlines()
        self.study("--seeds", 2, "--only", "child")
        after = (self.folder / "runs.jsonl").read_bytes().splitlines()
        self.assertEqual((len(before), after[:2], len(after)), (2, before, 3))

    def test_each_run_leaves_one_record_that_describes_itself_and_no_weights(self):
        status, output, errors = self.study("--seeds", 0, 3, "--only", "root", "child")
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("4 runs to do", output)
        self.assertIn("child, seed 3", output)
        self.assertIn("4 of 4 done, 0 min left", output)
        found = self.records()
        self.assertEqual(sorted(found), [("child", 0), ("child", 3), ("root", 0), ("root", 3)])
        self.assertEqual(list((self.folder / "scratch").iterdir()), [])
        for record in found.values():
            self.assertEqual(record["settings"], self.variants[record["variant"]].settings())
            self.assertEqual((len(record["accuracy"]), {entry["n"] for entry in record["accuracy"]},
                              record["test"]["n"]), (55, {20}, 20))
            self.assertEqual("untrained_rows" in record, record["variant"] == "root")
        self.assertNotEqual(found["child", 0]["train"], found["child", 3]["train"])

    def test_what_is_done_is_not_done_again_and_what_was_interrupted_goes_on(self):
        with mock.patch.object(study, "measure_run", side_effect=KeyboardInterrupt):
            self.study("--seeds", 0, "--only", "root")
        self.assertFalse((self.folder / "runs.jsonl").exists())
        self.assertTrue((self.folder / "scratch" / "root_0" / "resume.pth").exists())
        with mock.patch("learning.loop.train_epoch", side_effect=AssertionError("trained again")):
            self.assertEqual(self.study("--seeds", 0, "--only", "root")[0], 0)
        self.assertIn("0 runs to do", self.study("--seeds", 0, "--only", "root")[1])
        output = self.study("--list")[1]
        self.assertRegex(output, r"root +a root +seeds: 0; [0-9]+ s a run")
        self.assertRegex(output, r"child +root, but encoding_type = relative_bias +seeds: none yet")

    def test_a_seed_named_twice_is_one_run(self):
        self.assertIn("1 runs to do", self.study("--seeds", 7, 7, "--only", "root", "root")[1])
        self.assertEqual(list(self.records()), [("root", 7)])

    def test_a_record_of_fewer_sequences_does_not_stand_for_the_run(self):
        self.study("--seeds", 0, "--only", "root")
        self.assertEqual(self.records()["root", 0]["num_samples"], 20)
        self.assertIn("0 runs to do", self.study("--seeds", 0, "--only", "root", "--num-samples", 10)[1])
        output = self.study("--seeds", 0, "--only", "root", "--num-samples", 40)[1]
        self.assertIn("1 runs to do, 1 at a time; 1 of them again, for their records are of fewer than 40 sequences",
                      output)
        self.assertEqual(self.records()["root", 0]["num_samples"], 40)

    def test_no_run_starts_after_the_time_is_up(self):
        with mock.patch.object(study, "time",
                               mock.Mock(monotonic=itertools.count(0, 25).__next__, perf_counter=time.perf_counter)):
            output = self.study("--seeds", 0, 1, "--only", "root", "child", "--minutes", 1)[1]
        self.assertIn("3 runs were not started in 1 minutes", output)
        self.assertEqual(len(self.records()), 1)

    def test_records_of_other_settings_or_data_are_refused(self):
        self.study("--seeds", 0, "--only", "child")
        self.variants["child"] = Variant("child", "root", **TINY | {"d_ff": 8})
        self.assert_one_line(self.study("--list"), "child, seed 0,", "or no longer, in learning/variants.py")
        self.variants["child"] = Variant("child", "root", encoding_type="relative_bias", **TINY)
        (self.data / "train.json").write_text((self.data / "train.json").read_text() + " ")
        self.assert_one_line(self.study("--seeds", 0, "--only", "child"), "child, seed 0,", "other data")
        for line in (b"[]", b"{", b"{}", b"\xff"):
            (self.folder / "runs.jsonl").write_bytes(line)
            self.assert_one_line(self.study("--list"), "line 1, is no record of a run")

    def test_figures_are_drawn_from_the_records(self):
        self.study("--seeds", 0)
        self.study("--seeds", 1, "--only", "root")
        torch.manual_seed(0)
        model = create_model(**self.variants[RECOMMENDED].model_arguments())
        model.about = {"train_sha256": ""}
        save_model(self.folder / RECOMMENDED / "best_model.pth", model.state_dict())
        names = ("root", "child", RECOMMENDED)
        with mock.patch.multiple(study, NEGATIVES=("swap", "one_inversion"), CELLS=("root", "child"),
                                 SCALED_CELLS=("scaled", "no records"), LEARNED=("root",),
                                 COMPARED=names, SCALING=names), \
                mock.patch.object(measures, "LONGEST", {300: 4}), \
                mock.patch.object(study, "plot_grid", wraps=study.plot_grid) as grids, without_pictures(study):
            status, _, errors = self.study("--figures", "--results-dir", self.folder, "--output-dir",
                                           self.folder / "out")
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual([{record["variant"] for record in call.args[0]} for call in grids.call_args_list],
                         2 * [{"root", "child"}] + 2 * [{"scaled"}])
        figures = sorted(path.stem for path in (self.folder / "out").glob("*.png"))
        self.assertEqual(figures, ["bias", "dilution", "gap", "grid_one_inversion", "grid_scaled_one_inversion",
                                   "grid_scaled_swap", "grid_swap", "neighbour_head", "pairs",
                                   "parts", "shortcut", "ties", "untrained_rows"])
        examined = json.loads((self.folder / "out" / "recommended.json").read_text())
        self.assertEqual({entry["length"] for entry in examined["accuracy"]}, {8, 12, 16, 32, 64, 128, 256, 300})
        self.assertEqual(examined["every_window"]["descents"], 6)

    def test_figures_without_records_are_one_line(self):
        self.assert_one_line(self.study("--figures"), "holds no records", "python study.py")


class Measures(TemporaryFolder):
    def test_mean_and_interval_over_seeds(self):
        mean, half = study_figures.mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
        self.assertEqual(mean, 3)
        self.assertAlmostEqual(half, 2.776 * (2.5 / 5) ** 0.5)
        self.assertEqual(study_figures.mean_interval([0.5]), (0.5, 0.0))

    def test_the_grid_shows_each_run_in_its_panel_and_row(self):
        def run(encoding, pooling, augmentation, accuracy):
            return {"settings": {"encoding_type": encoding, "pooling": pooling, "augmentation": augmentation,
                                 "log_scaling": False},
                    "accuracy": [{"length": 16, "negatives": "swap", "gap_source": None, "accuracy": accuracy}]}
        figure = study_figures.plot_grid([run("learned", "max", "none", 0.6), run("learned", "max", "swap", 0.7),
                                          run("sinusoidal", "mean", "swap", 0.8)],
                                       "swap", lengths=(16,))
        drawn = {axes.get_title(): {line.get_label(): (line.get_xdata()[0], round(line.get_ydata()[0]))
                                    for line in axes.lines if "seed" in line.get_label()}
                 for axes in figure.axes}
        self.assertEqual(drawn, {"mean pooling, 16 values": {"one seed, augmented": (0.8, 0)},
                                 "max pooling, 16 values": {"one seed, augmented": (0.7, 1),
                                                            "one seed, plain": (0.6, 1)}})
        self.assertEqual([label.get_text() for label in figure.axes[0].get_yticklabels()], ["sinusoidal", "learned"])

    def test_the_trend_is_the_least_squares_line_and_sees_no_single_inversion(self):
        line, flat = torch.tensor([[2, 4, 6, 8, 10]]), torch.tensor([[7, 7, 7, 7, 7]])
        torch.testing.assert_close(features(torch.cat([line, flat])),
                                   torch.tensor([[10, 0, 1, 0.2], [0, 0, 0, 0.2]], dtype=torch.float64))
        generator = torch.Generator().manual_seed(0)
        sequences = torch.randint(100, (600, 12), generator=generator)
        sequences[::2] = sequences[::2].sort(dim=1).values
        labels = (sequences.diff(dim=1) >= 0).all(dim=1).long()
        trend = TrendModel([(sequences, labels)])
        self.assertGreater(((trend.margins(sequences) > 0) == labels).double().mean(), 0.99)
        inverted = sequences[::2].clone()
        inverted[:, [5, 6]] = inverted[:, [6, 5]]
        self.assertGreater((trend.margins(inverted) > 0).double().mean(), 0.5)

    def test_agreement_with_the_trend(self):
        data = self.small_data((200, 20, 100))
        train, test = ([(batch["sequence"], batch["label"])
                        for batch in make_loader(SortingDataset(data / f"{split}.json"), 50)]
                       for split in ("train", "test"))
        trend = TrendModel(train)
        result = measure_shortcut(Oracle(), trend, test)
        self.assertEqual((result["n"], result["accuracy"], result["accuracy_where_trend_is_right"]), (100, 1, 1))
        self.assertAlmostEqual(result["agreement"], result["trend_accuracy"])
        self.assertTrue(0.5 < result["trend_accuracy"] < 1 and 0 < result["kappa"] < 1)
        sorted_share, called = (torch.cat(parts).double().mean().item() for parts in
                                zip(*((labels, trend.margins(sequences) > 0) for sequences, labels in test)))
        chance = sorted_share * called + (1 - sorted_share) * (1 - called)
        self.assertAlmostEqual(result["kappa"], (result["agreement"] - chance) / (1 - chance))
        self.assertEqual(result["trend_wrong"], round(100 * (1 - result["trend_accuracy"])))

    def test_pairs_ties_and_margins_of_one_that_knows(self):
        for each in (1, 8):
            table = measures.measure_pairs(Oracle(), each)
            self.assertEqual((table.shape, measures.pair_errors(table)), ((100, 100), []))
        table[3, 2], table[2, 3] = 1, -1
        self.assertEqual(measures.pair_errors(table), [[2, 3], [3, 2]])
        ties = measures.measure_ties(Oracle(), count=20)
        self.assertEqual({record["accuracy"] for record in ties}, {1.0})
        self.assertEqual([record["distinct"] for record in ties if record["set"] == "one_inversion"], [2, 4, 8, 16])
        data = self.small_data((60, 20, 20), extrapolation=True)
        self.assertEqual(measures.measure_dilution(Oracle(), data, [16], 20),
                         [{"length": 16, "n": 20, "margin_sorted_mean": 6.0, "margin_sorted_std": 0.0,
                           "margin_one_inversion_mean": -6.0, "margin_one_inversion_std": 0.0}])

    def test_heads_that_look_at_one_neighbour_are_seen_to(self):
        data = self.small_data((60, 20, 20), extrapolation=True)
        model = create_model("local_bias", d_model=16, num_heads=3 - 1, num_layers=1, d_ff=16).eval()
        model.pos_encoding.weights.data = torch.tensor([[50.0, 0, 0], [0, 0, 50.0]])
        before, after = measures.measure_heads(model, data, [16], 20)
        for record, side in [(before, "before"), (after, "after")]:
            self.assertAlmostEqual(record[side], 1, places=4)
            self.assertAlmostEqual(record["top_weight"], 1, places=4)
            self.assertAlmostEqual(record["entropy"], 0, places=3)
            self.assertAlmostEqual(record["before"] + record["itself"] + record["after"], 1, places=4)
        self.assertIn(study_figures.neighbour_head({"heads": [before, after]})[1:], [(0, "before"), (1, "after")])

    def test_policies_for_untrained_rows(self):
        table = torch.arange(10.0).unsqueeze(1)
        policies = {name: rows.flatten().tolist() for name, rows in measures.row_policies(table, 4, 7).items()}
        self.assertEqual(policies, {"initial": list(range(10)), "zeros": [0, 1, 2, 3, 0, 0, 0, 0, 0, 0],
                                    "copies": [0, 1, 2, 3, 0, 1, 2, 3, 0, 1],
                                    "interpolation": [0, 0.5, 1, 1.5, 2, 2.5, 3, 7, 8, 9]})
        data, model = self.small_data((60, 20, 20), extrapolation=True), create_model("learned", d_model=16,
                                                                                      num_heads=2, num_layers=1,
                                                                                      d_ff=16).eval()
        before = {name: value.clone() for name, value in model.named_parameters()}
        records = measures.measure_untrained_rows(model, data, [16, 32], 20, 16)
        self.assertEqual(len(records), 2 * 4 * 2)
        self.assertEqual(len({record["loss"] for record in records if (record["length"], record["negatives"])
                              == (16, "swap")}), 1)
        self.assertGreater(len({record["loss"] for record in records if (record["length"], record["negatives"])
                                == (32, "swap")}), 2)
        self.assertTrue(all(torch.equal(value, before[name]) for name, value in model.named_parameters()),
                        "the model is left as it was")


class Verification(TemporaryFolder):
    """With five values instead of a hundred, where every sequence up to a length can be tried."""

    def setUp(self):
        super().setUp()
        patch = mock.patch.object(verification, "VALUES", 5)
        patch.start()
        self.addCleanup(patch.stop)

    def model(self, seed):
        torch.manual_seed(seed)
        model = create_model("local_bias", d_model=12, num_heads=2, num_layers=1, d_ff=16, dropout=0.0,
                             pooling="lowest").eval()
        nn.init.normal_(model.pos_encoding.weights)
        return model

    def trained(self):
        """A model that has learned the five values so well that it is proved right: the first one of several seeds, for
        which of them do differs from machine to machine."""
        sequences, weights = torch.tensor(list(itertools.product(range(5), repeat=4))), torch.tensor([1.0, 8.0])
        for seed in range(10):
            model = self.model(seed)
            optimizer = torch.optim.Adam(model.parameters(), 0.01)
            for _ in range(300):
                optimizer.zero_grad()
                loss = sum(nn.functional.cross_entropy(model(sequences[:, :n]),
                                                       (sequences[:, :n].diff(dim=1) >= 0).all(dim=1).long(), weights)
                           for n in (1, 2, 3, 4))
                loss.backward()
                optimizer.step()
            if verification.judge(verification.window_margins(model))["every_sequence_right"]:
                return model
        self.fail("none of the test's models has learned")

    def test_the_margin_of_a_sequence_is_the_lowest_of_its_windows(self):
        model = self.model(1)
        windows = verification.window_margins(model)
        for sequence in itertools.product(range(5), repeat=4):
            a, b, c, d = sequence
            expected = min(windows["first"][a, b], windows["inner"][a, b, c], windows["inner"][b, c, d],
                           windows["last"][c, d])
            logits = model(torch.tensor([sequence]))[0]
            self.assertAlmostEqual((logits[1] - logits[0]).item(), expected.item(), places=4)
        self.assertAlmostEqual((model(torch.tensor([[3]])) @ torch.tensor([-1.0, 1.0])).item(),
                               windows["single"][3].item(), places=4)

    @torch.no_grad()
    def test_a_model_proved_right_is_right_on_every_sequence_and_a_spoilt_one_is_not_proved(self):
        with torch.enable_grad():
            model = self.trained()
        windows = verification.window_margins(model)
        verdict = verification.judge(windows)
        self.assertEqual((verdict["every_sequence_right"], verdict["descents"], verdict["windows_without_descent"]),
                         (True, 10, 5 + 15 + 15 + 35))
        for length in (1, 2, 3, 6):
            sequences = torch.tensor(list(itertools.product(range(5), repeat=length)))
            self.assertTrue(torch.equal(model.predict(sequences), (sequences.diff(dim=1) >= 0).all(dim=1).long()),
                            length)
        for key, place, value, fault in [("single", 2, -1, "called_unsorted"),
                                         ("inner", (1, 1, 3), -1, "called_unsorted"),
                                         ("first", (0, 4), 0, "called_unsorted"),
                                         ("last", (2, 2), -1, "called_unsorted")]:
            spoilt = {name: margins.clone() for name, margins in windows.items()}
            spoilt[key][place] = value
            self.assertEqual((verification.judge(spoilt)[fault], verification.judge(spoilt)["every_sequence_right"]),
                             (1, False))
        spoilt = {name: margins.clone() for name, margins in windows.items()}
        spoilt["inner"][1, 3, 2], spoilt["inner"][3, 2, 4] = 1, 1  # 1 3 2 4 passes now
        self.assertEqual(verification.judge(spoilt)["not_always_noticed"], 1)
        spoilt["inner"][:, 3, 2], spoilt["first"][3, 2] = -1, -1  # the 3 notices it whatever comes before
        self.assertEqual(verification.judge(spoilt)["not_always_noticed"], 0)
        for key in windows:  # of what is not a number nothing is proved
            with self.assertRaisesRegex(ValueError, "not a number"):
                verification.judge(windows | {key: torch.full_like(windows[key], float("nan"))})

    def test_it_applies_to_the_recommended_kind_alone(self):
        self.assertTrue(verification.applies(self.model(0)))
        for changes in ({"num_layers": 2}, {"encoding_type": "relative_bias"}, {"pooling": "max"},
                        {"log_scaling": True}):
            self.assertFalse(verification.applies(create_model(**{"encoding_type": "local_bias", "num_layers": 1,
                                                                  "pooling": "lowest", "d_model": 8, "num_heads": 1}
                                                               | changes)))
