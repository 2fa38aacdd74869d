"""The data: as the course's, no problem in two splits, batches right, and damaged files refused in one line."""

import hashlib
import json

import torch
from torch.utils.data import DataLoader

import generate_data
from dataset import (PAD_TOKEN, AdditionDataset, collate_fn, create_dataloaders, encode_problems, get_vocab_size,
                     number_range, padding_mask, shift_right)
from support.cli import UserError
from tests.helpers import TemporaryFolder, command


def value(tokens):
    return int("".join(map(str, tokens)))


class Generate(TemporaryFolder):
    def test_default_data_is_the_course_s_and_disjoint(self):
        status, *_ = command(generate_data.main, "--output-dir", self.folder)
        self.assertEqual(status, 0)
        digest = hashlib.sha256((self.folder / "train.json").read_bytes()).hexdigest()
        self.assertTrue(digest.startswith("c60471f6be72b67c"))
        problems = [json.loads((self.folder / f"{split}.json").read_text()) for split in ("train", "val", "test")]
        self.assertEqual([len(split) for split in problems], [10_000, 2_000, 2_000])
        self.assertEqual(len({tuple(problem["input"]) for split in problems for problem in split}), 14_000)

    def test_every_number_of_digits(self):
        for n in range(1, 11):
            data = self.small_data(n)
            for problem in json.loads((data / "test.json").read_text()):
                a, b = value(problem["input"][:n]), value(problem["input"][n + 1:])
                self.assertEqual(value(problem["target"]), a + b)
                self.assertEqual((len(problem["input"]), len(problem["target"]), problem["input"][n]),
                                 (2 * n + 1, n + 1, 10))
                self.assertTrue(all(number_range(n)[0] <= x <= number_range(n)[1] for x in (a, b)))
            self.assertEqual(create_dataloaders(data)[0].dataset.num_digits, n)

    def test_all_problems_of_a_size_can_be_asked_for_but_no_more(self):
        self.small_data(1, (41, 20, 20))
        self.assert_one_line(command(generate_data.main, "--num-digits", 1, "--train-size", 60, "--output-dir",
                                     self.folder / "x"), "81", "82")
        self.assertFalse((self.folder / "x").exists())

    def test_of_small_numbers_all_there_are_is_drawn_by_default(self):
        self.assertEqual([generate_data.default_sizes(n) for n in (1, 2, 3, 10)],
                         [(59, 11, 11), (5786, 1157, 1157), (10_000, 2_000, 2_000), (10_000, 2_000, 2_000)])
        status, output, _ = command(generate_data.main, "--num-digits", 1, "--output-dir", self.folder / "x")
        self.assertEqual(status, 0)
        self.assertIn("59 training, 11 validation and 11 test problems of 1 digit(s)", output)

    def test_bad_options_exit_with_2(self):
        for option, text in [("--num-digits", "11"), ("--num-digits", "0"), ("--train-size", "0"), ("--seed", "-1"),
                             ("--test-size", "x"), ("--seed", "9" * 30), ("--what", "x")]:
            self.assert_one_line(command(generate_data.main, option, text), option)

    def test_a_folder_that_cannot_be_written_is_one_line(self):
        (self.folder / "file").write_text("")
        self.assert_one_line(command(generate_data.main, "--output-dir", self.folder / "file"), "file")


class Load(TemporaryFolder):
    def test_batches(self):
        data = self.small_data(2, (50, 10, 10))
        train, val, _ = create_dataloaders(data, batch_size=16)
        self.assertEqual(len(train), 4)
        batches = list(train)
        self.assertEqual([len(batch["input"]) for batch in batches], [16, 16, 16, 2])
        seen = torch.cat([batch["input"] for batch in batches])
        self.assertTrue(torch.equal(seen.unique(dim=0), train.dataset.inputs.unique(dim=0)))
        self.assertFalse(torch.equal(seen, train.dataset.inputs), "training problems are shuffled")
        self.assertTrue(torch.equal(torch.cat([batch["input"] for batch in val]), val.dataset.inputs))
        self.assertEqual(batches[0]["input_len"].tolist(), [5] * 16)
        self.assertEqual(batches[0]["target_len"].tolist(), [3] * 16)

    def test_an_item_is_the_caller_s_own(self):
        dataset = AdditionDataset(self.small_data() / "val.json")
        for index in (0, slice(2), [0, 1]):
            before = dataset.inputs.clone(), dataset.targets.clone()
            for tensor in dataset[index].values():
                tensor.fill_(7)
            self.assertTrue(torch.equal(dataset.inputs, before[0]) and torch.equal(dataset.targets, before[1]), index)

    def test_batches_of_nothing_are_refused(self):
        with self.assertRaisesRegex(ValueError, "batch_size must be 1 or more, not 0"):
            create_dataloaders(self.small_data(), batch_size=0)

    def test_collate_fn_gives_the_same_batches_and_pads(self):
        data = self.small_data(2, (50, 10, 10))
        dataset = AdditionDataset(data / "val.json")
        (ours,) = DataLoader(dataset, batch_size=10, collate_fn=collate_fn)
        for key, tensor in dataset[range(10)].items():
            self.assertTrue(torch.equal(ours[key], tensor), key)
        short = {"input": torch.tensor([1, 10, 2]), "target": torch.tensor([0, 3]), "input_len": torch.tensor(3),
                 "target_len": torch.tensor(2)}
        mixed = collate_fn([dataset[0], short])
        self.assertEqual(mixed["input"][1].tolist(), [1, 10, 2, PAD_TOKEN, PAD_TOKEN])
        self.assertEqual(mixed["target"][1].tolist(), [0, 3, PAD_TOKEN])
        self.assertEqual(padding_mask(mixed["input"])[1].flatten().tolist(), [True, True, True, False, False])
        self.assertIsNone(padding_mask(ours["input"]))

    def test_decoder_input_is_the_target_behind_the_start_token(self):
        self.assertEqual(shift_right(torch.tensor([[0, 5, 0, 6]])).tolist(), [[12, 0, 5, 0]])

    def test_encoding(self):
        source, target = encode_problems(torch.tensor([347]), torch.tensor([159]), 3)
        self.assertEqual((source.tolist(), target.tolist()), ([[3, 4, 7, 10, 1, 5, 9]], [[0, 5, 0, 6]]))
        self.assertEqual(get_vocab_size(), 13)

    def test_padding_with_a_token_that_means_something_is_refused(self):
        data = self.small_data()
        for token in (0, 9, 10, 12):
            with self.assertRaisesRegex(ValueError, "already"):
                AdditionDataset(data / "val.json", pad_token=token)

    def test_damaged_files_are_refused_in_one_line_that_names_the_problem(self):
        good = {"input": [1, 10, 2], "target": [0, 3]}
        for content, words in [
            ("[{", "JSON"), ("", "JSON"), ("[]", "list of problems"), ("{}", "list of problems"), ("\xff", "JSON"),
            ("[" * 100_000, "JSON"),
            ([good, {"input": [1, 10, 2]}], 'problem 1: needs the keys "input" and "target"'), ([good, 7], "problem 1"),
            ([{"input": [1, 10, 12], "target": [0, 3]}], "problem 0: tokens must be digits"),
            ([{"input": [1, 10, -1], "target": [0, 3]}], "tokens must be digits"),
            ([{"input": [1, 10, 2.5], "target": [0, 3]}], "tokens must be digits"),
            ([{"input": [1, 10, True], "target": [0, 3]}], "tokens must be digits"),
            ([{"input": [1, 2, 10], "target": [0, 3]}], "in the middle"),
            ([{"input": [1, 10, 2], "target": [3]}], "no sum"), ([{"input": [1, 10], "target": [0, 3]}], "no sum"),
            ([{"input": [], "target": []}], "no sum"), ([{"input": "1+2", "target": [3]}], "lists of tokens"),
            ([good, {"input": [1, 0, 10, 2, 0], "target": [0, 3, 0]}], "problem 1: 2-digit numbers"),
            ([{"input": [1, 10.0, 2], "target": [0, 3]}], "in the middle"),
            ([{"input": [1, 10, 2], "target": [0, 4]}], r"1 \+ 2 is not 4"),
            ([{"input": [0, 1, 10, 2, 0], "target": [0, 2, 1]}], "from 10 to 99"),
            ([{"input": [1] * 11 + [10] + [1] * 11, "target": [0] + [2] * 11}], "1 to 10 digits"),
        ]:
            with self.subTest(content=str(content)[:60]):
                path = self.folder / "train.json"
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="latin-1")
                with self.assertRaisesRegex(UserError, words):
                    AdditionDataset(path)

    def test_overlapping_splits_are_warned_of_and_missing_or_mixed_ones_refused(self):
        data = self.small_data()
        train = (data / "train.json").read_text()
        (data / "test.json").write_text((data / "val.json").read_text())
        with self.assertWarnsRegex(UserWarning, "20 problem.* in two splits"):
            create_dataloaders(data)
        self.small_data(2)
        (data / "train.json").write_text(train)
        with self.assertRaisesRegex(UserError, "different sizes"):
            create_dataloaders(data)
        (data / "val.json").unlink()
        with self.assertRaisesRegex(UserError, "python generate_data.py"):
            create_dataloaders(data)
