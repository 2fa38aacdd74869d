"""The data: as the course's, half sorted, all different, no sequence in two splits; damaged files refused in one
line."""

import hashlib
import json
import subprocess
import sys
from unittest import mock

import torch
from torch.utils.data import DataLoader

import generate_data
from dataset import (PAD_VALUE, ExtrapolationDataset, SortingDataset, collate_fn, create_dataloaders,
                     create_extrapolation_loader, data_file)
from generate_data import GAP_SOURCES, NEGATIVES, TEST_LENGTHS, is_sorted
from support.cli import UserError
from tests.helpers import RESULTS, TemporaryFolder, command


def read(path):
    return json.loads(path.read_text())


class Generate(TemporaryFolder):
    def test_default_splits_are_the_course_s_and_disjoint(self):
        status, *_ = command(generate_data.main, "--output-dir", self.folder, "--no-generate-extrapolation")
        self.assertEqual(status, 0)
        self.assertTrue(hashlib.sha256((self.folder / "train.json").read_bytes()).hexdigest().startswith(
            "c4ee1c4884e3cac2"))
        splits = [read(self.folder / f"{split}.json") for split in ("train", "val", "test")]
        self.assertEqual([len(split) for split in splits], [10_000, 2_000, 2_000])
        keys = [{tuple(entry["sequence"]) for entry in split} for split in splits]
        self.assertFalse(keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
        for entry in splits[0] + splits[2]:
            self.assertEqual((entry["is_sorted"], entry["length"]),
                             (entry["sequence"] == sorted(entry["sequence"]), len(entry["sequence"])))
            self.assertTrue(8 <= entry["length"] <= 16)
        self.assertFalse((self.folder / "extrapolation").exists())

    def test_every_test_set_is_half_sorted_all_different_and_new(self):
        data = self.small_data((60, 20, 40), extrapolation=True)
        seen = {tuple(entry["sequence"]) for split in ("train", "val", "test")
                for entry in read(data / f"{split}.json")}
        sets = [(length, None) for length in TEST_LENGTHS] + [(16, source) for source in GAP_SOURCES]
        for length, source in sets:
            sorted_halves = set()
            for kind in NEGATIVES:
                entries = read(data / "extrapolation" / data_file(length, kind, source))
                keys = {tuple(entry["sequence"]) for entry in entries}
                self.assertEqual((len(keys), sum(entry["is_sorted"] for entry in entries)), (40, 20),
                                 (length, source, kind))
                self.assertEqual({entry["length"] for entry in entries}, {length})
                self.assertFalse(keys & seen)
                self.assertTrue(all(entry["is_sorted"] == is_sorted(entry["sequence"]) for entry in entries))
                sorted_halves.add(frozenset(key for key in keys if is_sorted(key)))
            self.assertEqual(len(sorted_halves), 1, "the kinds share their sorted half")

    def test_kinds_of_negatives(self):
        data = self.small_data((60, 20, 40), extrapolation=True)
        descents = {}
        for kind in NEGATIVES:
            for entry in read(data / "extrapolation" / data_file(64, kind))[20:]:
                s = entry["sequence"]
                descents.setdefault(kind, []).append(sum(a > b for a, b in zip(s, s[1:])))
                differing = sum(a != b for a, b in zip(s, sorted(s)))
                if kind == "one_inversion":
                    i = next(i for i in range(63) if s[i] > s[i + 1])
                    self.assertTrue(is_sorted(s[:i] + [s[i + 1], s[i]] + s[i + 2:]))
                    self.assertEqual(differing, 2)
                if kind == "one_swap":
                    self.assertEqual(differing, 2)
                if kind == "reversed":
                    self.assertEqual(s, sorted(s, reverse=True))
        self.assertEqual(set(descents["one_inversion"]), {1})
        self.assertGreater(min(descents["shuffled"]), 15)

    def test_gap_control_has_the_gaps_of_long_sequences(self):
        data = self.small_data((60, 20, 40), extrapolation=True)
        for source, most in [(32, 80), (256, 20)]:
            ranges = [max(entry["sequence"]) - min(entry["sequence"])
                      for entry in read(data / "extrapolation" / data_file(16, "one_inversion", source))]
            self.assertTrue(0 < min(ranges) and max(ranges) < most, (source, ranges))

    def test_more_sequences_than_there_are_is_one_line(self):
        lengths = ("--min-train-len", 2, "--max-train-len", 2, "--output-dir", self.folder / "d",
                   "--no-generate-extrapolation")
        self.assert_one_line(command(generate_data.main, *lengths),
                             "14,000 different sequences are asked for, and there are 10,000 of 2")
        self.assertFalse((self.folder / "d").exists())
        self.assertEqual(command(generate_data.main, *lengths, "--train-size", 5000, "--val-size", 10, "--test-size",
                                 10)[0], 0)
        with mock.patch.object(generate_data, "MOST_DRAWS", 1000):
            self.assert_one_line(command(generate_data.main, *lengths, "--train-size", 9980, "--val-size", 10,
                                         "--test-size", 10),
                                 "no new sequence among 1,000 drawn")
            with self.assertRaisesRegex(UserError, "no new sequence"):
                generate_data.make_test_set(2, None, 6000, 641, set())

    def test_short_test_sets_have_negatives_of_every_kind(self):
        seen = {(a, b) for a in range(100) for b in range(100) if (a + b) % 3 == 0}
        for length in (2, 3):
            for name, content in generate_data.make_test_set(length, None, 800, 641, seen).items():
                entries = json.loads(content)
                self.assertEqual(sum(entry["is_sorted"] for entry in entries), 400, name)
                self.assertEqual(len({tuple(entry["sequence"]) for entry in entries} - seen), 800, name)

    def test_a_missing_test_set_is_made_as_generate_makes_it(self):
        with mock.patch.object(generate_data, "TEST_LENGTHS", (20,)), mock.patch.object(generate_data, "GAP_SOURCES",
                                                                                        (40,)):
            data = self.small_data((60, 20, 20), extrapolation=True)
        before = {path: path.read_bytes() for path in (data / "extrapolation").glob("*.json")}
        self.assertEqual(len(before), 10)
        for path in list(before)[1:]:
            path.unlink()
        for length, source in [(20, None), (16, 40)]:
            generate_data.ensure_test_set(data, length, source)
        self.assertEqual({path: path.read_bytes() for path in (data / "extrapolation").glob("*.json")}, before)

    def test_the_sequences_of_each_split_are_without_padding(self):
        data = self.small_data()
        self.assertEqual(generate_data.load_splits(data),
                         [[tuple(entry["sequence"]) for entry in json.loads((data / f"{split}.json").read_text())]
                          for split in ("train", "val", "test")])

    def test_the_handout_s_command_forwards(self):
        done = subprocess.run([sys.executable, RESULTS.parent / "scripts" / "generate_data.py", "--seed", "641",
                               "--train-size", "50", "--val-size",
                               "5", "--test-size", "6", "--output-dir", self.folder / "d"], capture_output=True,
                              text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(len(read(self.folder / "d" / "extrapolation" / "test_len_256.json")), 6)

    def test_bad_options_are_one_line(self):
        for options in [("--seed", "-1"), ("--train-size", "0"), ("--min-train-len", "1"), ("--min-train-len", "17"),
                        ("--what", "x")]:
            self.assert_one_line(command(generate_data.main, *options), options[0])
        (self.folder / "file").write_text("")
        self.assert_one_line(command(generate_data.main, "--output-dir", self.folder / "file",
                                     "--no-generate-extrapolation"), "file")


class Load(TemporaryFolder):
    def test_batches_are_of_one_length_and_complete(self):
        data = self.small_data((300, 20, 20))
        train, val, _ = create_dataloaders(data, batch_size=16)
        batches = list(train)
        self.assertEqual(len(batches), len(train))
        self.assertTrue(all(batch["mask"].all() and len(batch["sequence"]) <= 16 for batch in batches))
        seen = sorted(tuple(row) for batch in batches for row in batch["sequence"].tolist())
        self.assertEqual(seen, sorted(tuple(entry["sequence"]) for entry in read(data / "train.json")))
        labels = {tuple(entry["sequence"]): entry["is_sorted"] for entry in read(data / "train.json")}
        for batch in batches:
            self.assertEqual(batch["label"].tolist(), [labels[tuple(row)] for row in batch["sequence"].tolist()])
        self.assertNotEqual([b["sequence"].tolist() for b in train], [b["sequence"].tolist() for b in batches],
                            "shuffled anew")
        self.assertEqual([b["sequence"].tolist() for b in val], [b["sequence"].tolist() for b in val], "in one order")

    def test_items_are_the_caller_s_own(self):
        dataset = SortingDataset(self.small_data() / "val.json")
        before = {key: tensor.clone() for key, tensor in dataset[range(20)].items()}
        for index in (3, slice(0, 5), [1, 2], torch.tensor([4])):
            for tensor in dataset[index].values():
                tensor.fill_(1)
        self.assertTrue(all(torch.equal(tensor, before[key]) for key, tensor in dataset[range(20)].items()))

    def test_an_impossible_batch_size_is_refused_in_our_words(self):
        data = self.small_data()
        with self.assertRaisesRegex(ValueError, "batch_size must be at least 1"):
            create_dataloaders(data, batch_size=0)

    def test_collate_fn_pads_at_the_end(self):
        dataset = SortingDataset(self.small_data() / "val.json")
        (batch,) = DataLoader(dataset, batch_size=20, collate_fn=collate_fn)
        for key, tensor in dataset[range(20)].items():
            self.assertTrue(torch.equal(batch[key], tensor), key)
        self.assertEqual(set(batch), {"sequence", "label", "length", "mask"})
        short = batch["length"].argmin()
        n = batch["length"][short]
        self.assertTrue((batch["sequence"][short, n:] == PAD_VALUE).all() and not batch["mask"][short, n:].any()
                        and batch["mask"][short, :n].all())

    def test_max_len_and_pad_value(self):
        path = self.small_data() / "val.json"
        dataset = SortingDataset(path, max_len=11, pad_value=-1)
        self.assertEqual(len(dataset), sum(entry["length"] <= 11 for entry in read(path)))
        self.assertLessEqual(dataset.lengths.max(), 11)
        self.assertEqual(dataset.sequences.min(), -1)
        with self.assertRaisesRegex(ValueError, "value of the sequences"):
            SortingDataset(path, pad_value=7)
        with self.assertRaisesRegex(ValueError, "at most 3"):
            SortingDataset(path, max_len=3)

    def test_extrapolation_loader(self):
        data = self.small_data((60, 20, 20), extrapolation=True)
        batches = list(create_extrapolation_loader(data, 32, batch_size=8))
        self.assertEqual(sum(len(batch["label"]) for batch in batches), 20)
        self.assertEqual(batches[0]["sequence"].shape, (8, 32))
        self.assertEqual(len(ExtrapolationDataset(data, 16, kind="reversed", gap_source=64)), 20)
        with self.assertRaisesRegex(UserError, "does not exist"):
            ExtrapolationDataset(data, 33)

    def test_damaged_files_are_refused_in_one_line_that_names_the_sequence(self):
        good = {"sequence": [1, 2], "is_sorted": 1, "length": 2}
        for content, words in [
            ("[{", "JSON"), ("", "JSON"), ("\xff", "JSON"), ("[]", "list of sequences"), ("{}", "list of sequences"),
            ([good, 7], "sequence 1: needs the keys"), ([{"sequence": [1]}], "needs the keys"),
            ([good | {"sequence": []}], "list of values"),
            ([good | {"sequence": "12"}], "list of values"), ([good | {"sequence": [1, 100]}], "from 0 to 99"),
            ([good | {"sequence": [1, -1]}], "from 0 to 99"),
            ([good | {"sequence": [1, 2.0]}], "from 0 to 99"), ([good | {"sequence": [0, True]}], "from 0 to 99"),
            ([good | {"length": 3}], "there are 2 values"),
            ([good | {"is_sorted": 0}], "which is not so"), ([good | {"is_sorted": "1"}], "which is not so"),
            ([good | {"is_sorted": []}], "which is not so"),
        ]:
            with self.subTest(content=str(content)[:60]):
                path = self.folder / "train.json"
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="latin-1")
                with self.assertRaisesRegex(UserError, words):
                    SortingDataset(path)

    def test_overlapping_splits_are_warned_of(self):
        data = self.small_data()
        (data / "test.json").write_text((data / "val.json").read_text())
        with self.assertWarnsRegex(UserWarning, "20 sequence.* in two splits"):
            create_dataloaders(data)
