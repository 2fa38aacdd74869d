"""Data: as the course's, in no two splits, in right batches, and refused in one line if damaged."""

import hashlib
import json
import unittest

from support.cli import UserError
from support.files import locked

import torch
from torch.utils.data import DataLoader

import generate_data
from dataset import (
    ORDERS,
    PAD_TOKEN,
    AdditionDataset,
    collate_fn,
    create_dataloaders,
    decode_problems,
    encode_problems,
    get_vocab_size,
    in_order,
    number_range,
    padding_mask,
    shift_right,
    to_digits,
    to_numbers,
)
from tests.helpers import command
from tests.small import SmallData, digits

SPLITS = ("train", "val", "test")


class Generate(SmallData):
    def test_default_data_is_the_course_s_and_disjoint(self):
        status, *_ = command(generate_data.main, "--output-dir", self.folder)
        self.assertEqual(status, 0)
        digest = hashlib.sha256((self.folder / "train.json").read_bytes()).hexdigest()
        self.assertTrue(digest.startswith("c60471f6be72b67c"))
        splits = [json.loads((self.folder / f"{split}.json").read_text()) for split in SPLITS]
        self.assertEqual([len(split) for split in splits], [10_000, 2_000, 2_000])
        different = {tuple(problem["input"]) for split in splits for problem in split}
        self.assertEqual(len(different), 14_000)
        self.assertEqual(generate_data.generate_dataset(10_000, 3, seed=641), splits[0])

    def test_every_number_of_digits(self):
        for n in range(1, 11):
            problems = json.loads((self.small_data(n) / "test.json").read_text())
            for source, target in (problem.values() for problem in problems):
                a, b, total = (
                    int("".join(map(str, part))) for part in (source[:n], source[n + 1 :], target)
                )
                self.assertEqual((total, source[n], len(target)), (a + b, 10, n + 1))
                self.assertTrue(all(number_range(n)[0] <= x <= number_range(n)[1] for x in (a, b)))
            self.assertEqual(create_dataloaders(self.folder / "data")[0].dataset.num_digits, n)

    def test_all_problems_of_a_size_can_be_asked_for_and_no_more(self):
        self.small_data(1, (41, 20, 20))
        options = ("--num-digits", 1, "--train-size", 60, "--output-dir", self.folder / "x")
        self.assert_one_line(command(generate_data.main, *options), "81", "82")
        self.assertFalse((self.folder / "x" / "train.json").exists())

    def test_of_small_numbers_there_are_fewer_by_default(self):
        self.assertEqual(
            [generate_data.default_sizes(n) for n in (1, 2, 3, 10)],
            [(59, 11, 11), (5786, 1157, 1157), (10_000, 2_000, 2_000), (10_000, 2_000, 2_000)],
        )
        options = ("--num-digits", 1, "--output-dir", self.folder / "x")
        status, output, _ = command(generate_data.main, *options)
        self.assertEqual(status, 0)
        self.assertIn("59 training, 11 validation and 11 test problems of 1 digit(s)", output)

    def test_bad_options_exit_with_2(self):
        bad = "--num-digits=11 --num-digits=0 --train-size=0 --seed=-1 --test-size=x --what=x"
        for option in [*bad.split(), "--seed=" + "9" * 30]:
            self.assert_one_line(command(generate_data.main, option), option.split("=")[0])
        (self.folder / "file").write_text("")
        options = ("--output-dir", self.folder / "file")
        self.assert_one_line(command(generate_data.main, *options), "file")

    def test_data_that_another_run_is_writing_is_left_alone(self):
        data = self.small_data()
        before = self.contents()
        with locked(data):
            result = command(generate_data.main, "--num-digits", 1, "--output-dir", data)
        self.assert_one_line(result, "another run")
        self.assertEqual(self.contents(), before)


class Tokens(unittest.TestCase):
    def test_problems(self):
        source, target = encode_problems(digits(347, 999), digits(159, 999))
        self.assertEqual(source.tolist(), [[3, 4, 7, 10, 1, 5, 9], [9, 9, 9, 10, 9, 9, 9]])
        self.assertEqual(target.tolist(), [[0, 5, 0, 6], [1, 9, 9, 8]])
        for ours, given in zip(decode_problems(source), (digits(347, 999), digits(159, 999))):
            self.assertTrue(torch.equal(ours, given))
        self.assertEqual(get_vocab_size(), 13)

    def test_sums_of_any_length_are_right(self):
        generator = torch.Generator().manual_seed(0)
        for n in (1, 3, 25):
            a, b = torch.randint(10, (2, 50, n), generator=generator)
            for x, y, total in zip(a.tolist(), b.tolist(), encode_problems(a, b)[1].tolist()):
                numbers = [int("".join(map(str, number))) for number in (x, y, total)]
                self.assertEqual(numbers[0] + numbers[1], numbers[2])

    def test_digits_and_numbers(self):
        numbers = torch.tensor([0, 7, 90, 105])
        self.assertEqual(to_digits(numbers, 2).tolist(), [[0, 0], [0, 7], [9, 0], [0, 5]])
        self.assertTrue(torch.equal(to_numbers(to_digits(numbers, 4)), numbers))

    def test_the_order_of_writing(self):
        target = torch.tensor([[0, 5, 0, 6]])
        self.assertTrue(torch.equal(in_order(target, ORDERS[0]), target))
        self.assertEqual(in_order(target, ORDERS[1]).tolist(), [[6, 0, 5, 0]])
        self.assertTrue(torch.equal(in_order(in_order(target, ORDERS[1]), ORDERS[1]), target))

    def test_decoder_input_is_the_target_behind_the_start_token(self):
        self.assertEqual(shift_right(torch.tensor([[0, 5, 0, 6]])).tolist(), [[12, 0, 5, 0]])


class Load(SmallData):
    def test_batches(self):
        train, val, _ = create_dataloaders(self.small_data(2, (50, 10, 10)), batch_size=16)
        self.assertEqual(len(train), 4)
        batches = list(train)
        self.assertEqual([len(batch["input"]) for batch in batches], [16, 16, 16, 2])
        seen = torch.cat([batch["input"] for batch in batches])
        self.assertTrue(torch.equal(seen.unique(dim=0), train.dataset.inputs.unique(dim=0)))
        self.assertFalse(torch.equal(seen, train.dataset.inputs), "training problems are shuffled")
        in_file = torch.cat([batch["input"] for batch in val])
        self.assertTrue(torch.equal(in_file, val.dataset.inputs))
        self.assertEqual(batches[0]["input_len"].tolist(), [5] * 16)
        self.assertEqual(batches[0]["target_len"].tolist(), [3] * 16)

    def test_the_same_seed_gives_the_same_batches_with_any_number_of_workers(self):
        data, passes = self.small_data(2, (50, 10, 10)), []
        for workers in (0, 2):
            torch.manual_seed(0)
            train, *_ = create_dataloaders(data, 16, num_workers=workers)
            passes.append([[batch["input"].tolist() for batch in train] for _ in range(2)])
            passes[-1].append(torch.rand(1).item())  # what training draws after the batches
        self.assertEqual(*passes)
        self.assertNotEqual(*passes[0][:2])

    def test_validation_draws_no_random_numbers(self):
        _, val, _ = create_dataloaders(self.small_data())
        before = torch.get_rng_state()
        self.assertEqual(len(list(val)), 1)
        self.assertTrue(torch.equal(torch.get_rng_state(), before))

    def test_targets_are_given_in_the_order_of_writing(self):
        path = self.small_data() / "val.json"
        ordinary, backward = (AdditionDataset(path, order=order) for order in ORDERS)
        self.assertTrue(torch.equal(ordinary.targets.flip(1), backward.targets))
        self.assertTrue(torch.equal(ordinary.inputs, backward.inputs))

    def test_an_item_is_the_caller_s_own(self):
        dataset = AdditionDataset(self.small_data() / "val.json")
        before = dataset.inputs.clone(), dataset.targets.clone()
        for index in (0, slice(2), [0, 1]):
            for tensor in dataset[index].values():
                tensor.fill_(7)
            self.assertTrue(torch.equal(dataset.inputs, before[0]), index)
            self.assertTrue(torch.equal(dataset.targets, before[1]), index)

    def test_collate_fn_gives_the_same_batches_and_pads(self):
        dataset = AdditionDataset(self.small_data(2, (50, 10, 10)) / "val.json")
        (ours,) = DataLoader(dataset, batch_size=10, collate_fn=collate_fn)
        for key, tensor in dataset[range(10)].items():
            self.assertTrue(torch.equal(ours[key], tensor), key)
        self.assertIsNone(padding_mask(ours["input"]))
        short = {
            "input": torch.tensor([1, 10, 2]),
            "target": torch.tensor([0, 3]),
            "input_len": torch.tensor(3),
            "target_len": torch.tensor(2),
        }
        mixed = collate_fn([dataset[0], short])
        self.assertEqual(mixed["input"][1].tolist(), [1, 10, 2, PAD_TOKEN, PAD_TOKEN])
        self.assertEqual(mixed["target"][1].tolist(), [0, 3, PAD_TOKEN])
        self.assertEqual(padding_mask(mixed["input"])[1].tolist(), [True] * 3 + [False] * 2)

    def test_what_cannot_be_is_refused(self):
        data = self.small_data()
        with self.assertRaisesRegex(ValueError, "batch_size must be 1 or more, not 0"):
            create_dataloaders(data, batch_size=0)
        for token in (0, 9, 10, 12):
            with self.assertRaisesRegex(ValueError, "already"):
                AdditionDataset(data / "val.json", pad_token=token)

    def test_damaged_files_are_refused_in_one_line_that_names_the_problem(self):
        def problem(source, target):
            return {"input": source, "target": target}

        good = problem([1, 10, 2], [0, 3])
        form, wrong = "is not a list of problems such as", "is not the sum of two numbers"
        for content, words in [
            *((content, "JSON") for content in ("[{", "", "\xff")),
            *((content, form) for content in ("[]", "{}", [good, {"input": [1]}], [good, 7])),
            ([problem([1, 10, 12], [0, 3])], f"problem 0: .* {wrong}"),
            ([good, problem([1, 10, -1], [0, 0])], f"problem 1: .* {wrong}"),
            ([problem([1, 2, 10], [0, 3])], wrong),
            ([problem([1, 10, 2], [0, 4])], wrong),
            ([problem([0, 1, 10, 2, 0], [0, 2, 1])], wrong),
            ([problem([1, 10, 2], [3])], wrong),
            *(([problem([1, 10, bad], [0, 3])], form) for bad in (2.5, "2", 10**30)),
            *(([problem(bad, [0, 3])], form) for bad in ([1, 10], [], "1+2")),
            ([good, problem([1, 0, 10, 2, 0], [0, 3, 0])], form),
            ([problem([1] * 11 + [10] + [1] * 11, [0] + [2] * 11)], form),
        ]:
            with self.subTest(content=str(content)[:60]):
                path = self.folder / "train.json"
                text = content if isinstance(content, str) else json.dumps(content)
                path.write_text(text, encoding="latin-1")
                with self.assertRaisesRegex(UserError, f"train.json.*{words}") as raised:
                    AdditionDataset(path)
                self.assertIn("python generate_data.py", str(raised.exception))

    def test_a_byte_order_mark_is_no_damage(self):
        path = self.small_data() / "val.json"
        before = AdditionDataset(path).inputs
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        self.assertTrue(torch.equal(AdditionDataset(path).inputs, before))

    def test_splits_that_overlap_or_differ_are_said(self):
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
        with self.assertRaisesRegex(UserError, "val.json .*python generate_data.py"):
            create_dataloaders(data)
