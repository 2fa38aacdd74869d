"""The data: the course's own, half sorted, no sequence twice; damaged files are one line."""

import contextlib
import hashlib
import json
import subprocess
import sys
from unittest import mock

from support.cli import UserError

import torch
from torch.utils.data import DataLoader

import generate_data
from dataset import (
    PAD_VALUE,
    ExtrapolationDataset,
    SortingDataset,
    collate_fn,
    create_dataloaders,
    create_extrapolation_loader,
    data_file,
)
from generate_data import GAP_SOURCES, NEGATIVES, TEST_LENGTHS
from tests.helpers import HOME, command
from tests.small import SmallData


def read(path):
    return json.loads(path.read_text())


def tuples(entries):
    return {tuple(entry["sequence"]) for entry in entries}


def rows(batches):
    """The sequences of batches of one length."""
    return [tuple(row) for batch in batches for row in batch["sequence"].tolist()]


class Splits(SmallData):
    def test_the_default_splits_are_the_course_s_and_disjoint(self):
        options = "--output-dir", self.folder, "--no-generate-extrapolation"
        self.assertEqual(command(generate_data.main, *options)[0], 0)
        self.assertFalse((self.folder / "extrapolation").exists())
        digest = hashlib.sha256((self.folder / "train.json").read_bytes()).hexdigest()
        self.assertEqual(digest[:16], "c4ee1c4884e3cac2")
        splits = [read(self.folder / f"{split}.json") for split in ("train", "val", "test")]
        self.assertEqual([len(split) for split in splits], [10_000, 2_000, 2_000])
        self.assertEqual(len(set().union(*map(tuples, splits))), 14_000)
        self.assertEqual(
            generate_data.load_splits(self.folder),
            [[tuple(entry["sequence"]) for entry in split] for split in splits],
        )
        for entry in splits[0] + splits[2]:
            sequence = entry["sequence"]
            self.assertEqual(entry["is_sorted"], int(sequence == sorted(sequence)))
            self.assertEqual(entry["length"], len(sequence))
            self.assertTrue(8 <= len(sequence) <= 16)

    def test_the_starter_kit_s_function_draws_the_course_s_samples(self):
        samples = generate_data.generate_dataset(60, 8, 16, seed=641)
        self.assertEqual(samples, read(self.small_data() / "train.json"))
        always = generate_data.generate_dataset(20, 4, 4, sorted_prob=1.0)
        self.assertEqual({(each["is_sorted"], each["length"]) for each in always}, {(1, 4)})

    def test_more_sequences_than_there_are_is_one_line(self):
        def generate(*sizes):
            names = "--train-size", "--val-size", "--test-size"
            options = [text for pair in zip(names, sizes) for text in pair]
            lengths = "--min-train-len", 2, "--max-train-len", 2, "--no-generate-extrapolation"
            lengths = "--output-dir", self.folder / "d", *lengths
            return command(generate_data.main, *lengths, *options)

        self.assertEqual(generate(5000, 2000, 10)[0], 0)
        splits = generate_data.load_splits(self.folder / "d")
        self.assertEqual(len(set().union(*splits)), 7010)
        with mock.patch.object(generate_data, "MOST_DRAWS", 1000):
            self.assert_one_line(generate(9980, 10, 10), "1,000 draws gave no new")

    def test_the_handout_s_command_forwards(self):
        script = HOME / "scripts" / "generate_data.py"
        options = "--seed=641", "--train-size=50", "--val-size=5", "--test-size=6"
        run = [sys.executable, script, *options, "--output-dir", self.folder / "d"]
        done = subprocess.run(run, cwd=self.folder, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(len(read(self.folder / "d" / "extrapolation" / "test_len_256.json")), 6)

    def test_bad_options_are_one_line(self):
        (self.folder / "file").write_text("")
        for options in ("--seed=-1", "--train-size=0", "--min-train-len=1", "--min-train-len=17"):
            result = command(generate_data.main, "--output-dir", self.folder / "d", options)
            self.assert_one_line(result, options.split("=")[0])
        options = "--output-dir", self.folder / "file", "--no-generate-extrapolation"
        self.assert_one_line(command(generate_data.main, *options), "file")


class TestSets(SmallData):
    def setUp(self):
        super().setUp()
        self.data = self.small_data((60, 20, 40), extrapolation=True)

    def read(self, *name):
        return read(self.data / "extrapolation" / data_file(*name))

    def test_each_is_half_sorted_all_different_and_new(self):
        splits = [tuples(read(self.data / f"{split}.json")) for split in ("train", "val", "test")]
        sets = [(length, None) for length in TEST_LENGTHS]
        for length, source in sets + [(16, source) for source in GAP_SOURCES]:
            halves = set()
            for kind in NEGATIVES:
                entries = self.read(length, kind, source)
                self.assertEqual(len(tuples(entries) - set().union(*splits)), 40)
                self.assertEqual({entry["length"] for entry in entries}, {length})
                rising = [each for each in entries if each["sequence"] == sorted(each["sequence"])]
                self.assertEqual(rising, [entry for entry in entries if entry["is_sorted"]])
                self.assertEqual(len(rising), 20)
                halves.add(frozenset(tuples(rising)))
            self.assertEqual(len(halves), 1, "the kinds share their sorted half")

    def test_kinds_of_negatives(self):
        for kind in NEGATIVES:
            for entry in self.read(64, kind)[20:]:
                values = entry["sequence"]
                falls = sum(a > b for a, b in zip(values, values[1:]))
                misplaced = [i for i, value in enumerate(sorted(values)) if value != values[i]]
                self.assertGreater(falls, 15 if kind == "shuffled" else 0)
                if kind in ("one_inversion", "one_swap"):
                    self.assertEqual(len(misplaced), 2)
                if kind == "one_inversion":
                    self.assertEqual((falls, misplaced[1] - misplaced[0]), (1, 1))
                if kind == "reversed":
                    self.assertEqual(values, sorted(values, reverse=True))

    def test_the_gap_control_has_the_gaps_of_long_sequences(self):
        for source, most in [(32, 80), (256, 20)]:
            for entry in self.read(16, "one_inversion", source):
                spread = max(entry["sequence"]) - min(entry["sequence"])
                self.assertTrue(0 < spread < most, (source, spread))

    def test_a_missing_set_is_made_as_generate_makes_it(self):
        folder = self.data / "extrapolation"
        before = {path: path.read_bytes() for path in folder.glob("*.json")}
        gone = [folder / data_file(16, kind, source) for kind in NEGATIVES for source in (None, 32)]
        for path in gone[1:]:
            path.unlink()
        for source in (None, 32):
            with contextlib.redirect_stdout(None):
                generate_data.ensure_test_set(self.data, 16, source)
        self.assertEqual({path: path.read_bytes() for path in folder.glob("*.json")}, before)

    def test_short_sets_have_negatives_of_every_kind(self):
        seen = {(a, b) for a in range(100) for b in range(100) if (a + b) % 3 == 0}
        for name, content in generate_data.make_test_sets(2, None, 800, 641, seen).items():
            entries = json.loads(content)
            self.assertEqual(sum(entry["is_sorted"] for entry in entries), 400, name)
            self.assertEqual(len(tuples(entries) - seen), 800, name)

    def test_loader(self):
        batches = list(create_extrapolation_loader(self.data, 32, batch_size=8))
        self.assertEqual([batch["sequence"].shape for batch in batches], [(8, 32)] * 5)
        self.assertEqual(set(rows(batches)), tuples(self.read(32)))
        other = ExtrapolationDataset(self.data, 16, kind="reversed", gap_source=64)
        self.assertEqual(set(rows([other[range(40)]])), tuples(self.read(16, "reversed", 64)))
        with self.assertRaisesRegex(UserError, "does not exist"):
            ExtrapolationDataset(self.data, 33)


class Load(SmallData):
    def test_batches_are_of_one_length_and_complete(self):
        data = self.small_data((300, 20, 20))
        train, val, _ = create_dataloaders(data, batch_size=16)
        batches, entries = list(train), read(data / "train.json")
        self.assertEqual(len(batches), len(train))
        labels = {tuple(entry["sequence"]): entry["is_sorted"] for entry in entries}
        for batch in batches:
            self.assertTrue(batch["mask"].all() and len(batch["sequence"]) <= 16)
            self.assertEqual(batch["label"].tolist(), [labels[row] for row in rows([batch])])
        self.assertEqual(sorted(rows(batches)), sorted(labels))
        self.assertNotEqual(rows(train), rows(batches), "shuffled anew")
        lengths = [int(batch["length"][0]) for batch in batches]
        self.assertNotEqual(lengths, sorted(lengths), "batches in random order")
        self.assertEqual(rows(val), rows(val), "in one order")

    def test_the_same_batches_with_any_number_of_workers(self):
        data, found = self.small_data(), []
        for num_workers in (0, 2):
            train = create_dataloaders(data, 8, num_workers)[0]
            torch.manual_seed(3)
            found.append([rows(train), rows(train), torch.rand(1).item()])
        self.assertEqual(*found)

    def test_items_are_the_caller_s_own(self):
        dataset = SortingDataset(self.small_data() / "val.json")
        before = {key: tensor.clone() for key, tensor in dataset[range(20)].items()}
        for index in (3, slice(0, 5), [1, 2], torch.tensor([4])):
            for tensor in dataset[index].values():
                tensor.fill_(1)
        for key, tensor in dataset[range(20)].items():
            self.assertTrue(torch.equal(tensor, before[key]), key)

    def test_collate_fn_pads_at_the_end(self):
        dataset = SortingDataset(self.small_data() / "val.json")
        (batch,) = DataLoader(dataset, batch_size=20, collate_fn=collate_fn)
        self.assertEqual(set(batch), {"sequence", "label", "length", "mask"})
        for key, tensor in dataset[range(20)].items():
            self.assertTrue(torch.equal(batch[key], tensor), key)
        self.assertLess(batch["length"].min(), 16)
        for sequence, n, mask in zip(batch["sequence"], batch["length"], batch["mask"]):
            self.assertTrue((sequence[n:] == PAD_VALUE).all() and (sequence[:n] != PAD_VALUE).all())
            self.assertEqual(mask.tolist(), [place < n for place in range(len(mask))])

    def test_max_len_pad_value_and_batch_size(self):
        data = self.small_data()
        dataset = SortingDataset(data / "val.json", max_len=11, pad_value=-1)
        kept = [entry for entry in read(data / "val.json") if entry["length"] <= 11]
        self.assertEqual(dataset.lengths.tolist(), [entry["length"] for entry in kept])
        self.assertEqual(dataset.sequences.min(), -1)
        with self.assertRaisesRegex(ValueError, "value of the sequences"):
            SortingDataset(data / "val.json", pad_value=7)
        with self.assertRaisesRegex(ValueError, "at most 3"):
            SortingDataset(data / "val.json", max_len=3)
        with self.assertRaisesRegex(ValueError, "batch_size must be 1 or more"):
            create_dataloaders(data, batch_size=0)

    def test_damaged_files_are_one_line_that_names_the_sequence(self):
        good = {"sequence": [1, 2], "is_sorted": 1, "length": 2}
        values = [1, 100], [1, -1], [1, 2.0], [0, True]
        cases = {
            "JSON": ["[{", "", "\xff", "[" * 100_000],
            "list of sequences": ["[]", "{}"],
            "sequence 1: needs the keys": [[good, 7], [good, {"sequence": [1]}]],
            "list of values": [[good | {"sequence": value}] for value in ([], "12")],
            "from 0 to 99": [[good | {"sequence": value}] for value in values],
            "there are 2 values": [[good | {"length": 3}]],
            "which is wrong": [[good | {"is_sorted": value}] for value in (0, "1", [])],
        }
        pairs = [(words, each) for words, contents in cases.items() for each in contents]
        for words, content in pairs:
            with self.subTest(content=str(content)[:60]):
                path = self.folder / "train.json"
                text = content if isinstance(content, str) else json.dumps(content)
                path.write_text(text, encoding="latin-1")
                with self.assertRaisesRegex(UserError, words):
                    SortingDataset(path)
        path.write_text(json.dumps([good | {"is_sorted": True}]))
        self.assertEqual(SortingDataset(path).labels.tolist(), [1])

    def test_overlapping_splits_are_warned_of(self):
        data = self.small_data()
        (data / "test.json").write_text((data / "val.json").read_text())
        with self.assertWarnsRegex(UserWarning, "20 sequence.* in two splits"):
            create_dataloaders(data)
