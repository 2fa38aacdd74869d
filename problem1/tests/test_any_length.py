"""The adder for numbers of every length: what a step sees, every window, its command, inference."""

import json
import unittest
from dataclasses import replace
from unittest import mock

from support import studies
from support.files import weights_digest

import torch
from torch import nn

import inference
from beyond import any_length, lengths, local, needs, smallest, windows
from beyond.chains import draw_chain, draw_nines, draw_random
from beyond.local import LocalTransformer
from dataset import (
    ORDERS,
    VOCAB_SIZE,
    decode_problems,
    encode_problems,
    in_order,
    shift_right,
)
from model import load_model
from tests.helpers import RESULTS, TemporaryFolder, command, studies_in_this_process
from tests.small import save

SMALL = {"d_model": 12, "num_heads": 3, "d_ff": 20, "dropout": 0.0}
SMALL |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
CONFIG = replace(any_length.CONFIG, epochs=1)
WEIGHTS = RESULTS / "beyond" / "any_length" / "best_model.pth"


def local_model():
    """A small model with weights of a size at which every token matters."""
    torch.manual_seed(0)
    model = LocalTransformer(VOCAB_SIZE, **SMALL).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def trained_models():
    """The committed model, if it is there."""
    return [load_model(WEIGHTS)] if WEIGHTS.exists() else []


def random_problems(n, count=50):
    generator = torch.Generator().manual_seed(n)
    source, target = encode_problems(*draw_random(n, count, generator))
    return source, in_order(target, ORDERS[1])


def seen_by(step, n):
    """Places of the source and of the decoder's input that a step's window has."""
    source = [n] if step >= n - 1 else []
    for column in {step, step - 1} & set(range(n)):
        source += [n - 1 - column, 2 * n - column]
    return source, [place for place in (step, step - 1) if place >= 0]


class Sight(unittest.TestCase):
    def test_a_step_depends_on_its_window_alone(self):
        models = [local_model(), *trained_models()]
        for n in (1, 2, 3, 5, 40):
            source, target = random_problems(n, 4)
            both = source, shift_right(target)
            for model in models:
                with torch.no_grad():
                    expected = model(*both)
                    for step in range(n + 1):
                        changed = []
                        for tokens, places in zip(both, seen_by(step, n)):
                            other = torch.randint(VOCAB_SIZE, tokens.shape)
                            other[:, places] = tokens[:, places]
                            changed.append(other)
                        difference = (model(*changed) - expected)[:, step].abs().max()
                        self.assertLess(difference, 1e-5, (n, step))

    def test_a_step_depends_on_all_of_its_window(self):
        model, n = local_model(), 5
        source, target = random_problems(n, 4)
        both = source, shift_right(target)
        with torch.no_grad():
            expected = model(*both)
            for step in range(n + 1):
                for which, places in enumerate(seen_by(step, n)):
                    for place in places:
                        changed = [tokens.clone() for tokens in both]
                        changed[which][:, place] = (both[which][:, place] + 1) % VOCAB_SIZE
                        difference = (model(*changed) - expected)[:, step].abs().max()
                        self.assertGreater(difference, 1e-4, (step, which, place))

    def test_masks_and_more_layers_are_refused(self):
        model, (source, target) = local_model(), random_problems(2)
        for masks in ({"src_mask": source >= 0}, {"tgt_mask": torch.ones(3, 3)}):
            with self.assertRaisesRegex(ValueError, "takes no mask"):
                model(source, target, **masks)
        with self.assertRaisesRegex(ValueError, "one encoder layer"):
            LocalTransformer(VOCAB_SIZE, **SMALL | {"num_decoder_layers": 2})


class Adding(TemporaryFolder):
    def test_sums_are_those_of_greedy_decoding(self):
        for block in (1, 4, 64):
            with mock.patch.object(local, "BLOCK", block):
                for n in (1, 2, 3, 20, 70):
                    for model in [local_model(), *trained_models()]:
                        source = random_problems(n, 2)[0]
                        written = model.generate(source, n + 1).flip(1)
                        for row, expected in zip(source, written):
                            self.assertTrue(torch.equal(model.add(row[:n], row[n + 1 :]), expected))

    def test_the_checkpoint_is_loaded_like_all_others(self):
        model = local_model()
        save(self.folder / "m.pth", model, order=ORDERS[1])
        loaded = load_model(self.folder / "m.pth")
        self.assertIsInstance(loaded, LocalTransformer)
        self.assertEqual(weights_digest(loaded), weights_digest(model))


class Windows(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.found = {case: [] for case in windows.EXPECTED}
        for pair in windows.problems():
            source, target = encode_problems(*pair)
            each, cases = windows.windows_of(source, in_order(target, ORDERS[1]))
            for step, case in enumerate(cases):
                cls.found[case].append(windows.as_numbers(each[:, step]))
        cls.found = {case: torch.cat(parts).unique() for case, parts in cls.found.items()}

    def test_there_are_as_many_as_the_formula_says(self):
        counts = {case: len(numbers) for case, numbers in self.found.items()}
        self.assertEqual(counts, windows.EXPECTED)
        everything = torch.cat(list(self.found.values())).unique()
        self.assertEqual(len(everything), 422_300)  # no window is in two cases

    def test_no_problem_has_another_one(self):
        everything, generator = torch.cat(list(self.found.values())), torch.Generator()
        for n in (1, 2, 3, 4, 7, 30):
            for pair in (
                draw_random(n, 500, generator),
                draw_nines(n, 500, generator),
                draw_chain(n, n, 100, generator),
                torch.randint(10, (2, 500, n)).unbind(),  # also with leading zeros
            ):
                source, target = encode_problems(*pair)
                each, cases = windows.windows_of(source, in_order(target, ORDERS[1]))
                self.assertEqual(len(cases), n + 1)
                self.assertTrue(torch.isin(windows.as_numbers(each), everything).all())

    def test_a_window_has_what_a_step_sees_and_nothing_else(self):
        # 47 + 85 = 132, units first 2 3 1
        source, target = torch.tensor([[4, 7, 10, 8, 5]]), torch.tensor([[2, 3, 1]])
        each, cases = windows.windows_of(source, target)
        self.assertEqual(cases, ["step 0", "step 1", "step n"])
        rows = [[7, 5, 0, 11, 11, 11, 12, 11], [4, 8, 10, 7, 5, 0, 2, 12]]
        self.assertEqual(each[0].tolist(), [*rows, [11, 11, 11, 4, 8, 10, 3, 2]])

    def test_margins_are_negative_where_the_answer_is_wrong(self):
        model, (source, target) = local_model(), random_problems(3)
        logits = model(source, shift_right(target))
        right = logits.argmax(dim=-1) == target
        self.assertTrue(torch.equal(windows.margins(logits, target) > 0, right))

    def test_a_model_that_errs_and_windows_that_lack_prove_nothing(self):
        some = [windows.all_columns(1), [part[:50] for part in windows.all_columns(2)]]
        with (
            mock.patch.object(windows, "problems", lambda: some),
            mock.patch.object(windows, "measure_contexts", lambda *_: 0.0),
            mock.patch.dict(windows.EXPECTED),
        ):
            del windows.EXPECTED["steps 2 to n - 1"]
            record = windows.prove(local_model())
            self.assertFalse(record["proved"])
            self.assertGreater(record["wrong"], 0)
            with mock.patch.object(
                windows, "margins", lambda logits, target: torch.ones(target.shape)
            ):
                self.assertFalse(windows.prove(local_model())["proved"])  # some are not tried
                full = {case: entry["windows"] for case, entry in record["cases"].items()}
                windows.EXPECTED.update(full)
                self.assertTrue(windows.prove(local_model())["proved"])
        with self.assertRaisesRegex(ValueError, "not tried"):
            windows.measure_contexts(local_model(), torch.tensor([0]), torch.tensor([1.0]))


class Command(TemporaryFolder):
    def run_command(self, *arguments, main=any_length.main):
        proof = {"windows": 5, "wrong": 0, "smallest_margin": 1.5, "proved": True}
        proof |= {"rounding_to_float64": 1e-5, "rounding_in_long_numbers": 1e-5}
        data, few = self.folder / "data", {1: 59, 2: 60}
        with (
            mock.patch.multiple(lengths, DATA=data, TRAINED=few, HELD_OUT={1: 11, 2: 9}),
            mock.patch.multiple(any_length, DATA=data, TRAINED=few, SIZES=SMALL),
            mock.patch.multiple(any_length, CONFIG=CONFIG, prove=lambda model: proof),
            mock.patch.multiple(smallest, CONFIG=CONFIG, SIZES=SMALL, prove=lambda model: proof),
            mock.patch.multiple(needs, CONFIG=CONFIG, SIZES=SMALL, TESTED=(1, 7), TEST_SIZE=10),
            mock.patch.object(studies, "HERE", self.folder),
            studies_in_this_process(),
        ):
            return command(main, *arguments, "--output-dir", self.folder / "out")

    def test_training_problems_have_leading_zeros_and_all_of_one_digit(self):
        with (
            mock.patch.object(lengths, "DATA", self.folder),
            mock.patch.object(any_length, "DATA", self.folder),
        ):
            lengths.make_data()
            for n, order in [(1, ORDERS[1]), (2, ORDERS[0]), (5, ORDERS[1])]:
                data = any_length.read_problems("train", n, order)
                a, b = decode_problems(data.inputs)
                expected = in_order(encode_problems(a, b)[1], order)
                self.assertTrue(torch.equal(data.targets, expected))
                both = torch.stack([a[:, 0] == 0, b[:, 0] == 0], dim=1)
                self.assertEqual(len(both.unique(dim=0)), 4)
                if n == 1:
                    self.assertEqual(len(data.inputs.unique(dim=0)), 100)

    def test_leaves_weights_log_and_proof_of_one_model(self):
        status, output, _ = self.run_command()
        self.assertEqual(status, 0)
        self.assertIn("proved for every length", output)
        model = load_model(self.folder / "out" / "best_model.pth")
        for name in ("training_log.json", "proof.json"):
            record = json.loads((self.folder / "out" / name).read_text())
            self.assertEqual(record["weights_sha256"], weights_digest(model))
        self.assertEqual(model.training_info["num_digits"], 2)

    def test_seeds_are_a_line_each_and_leave_the_weights_alone(self):
        status, output, _ = self.run_command("--seeds", "1", "2")
        self.assertEqual(status, 0)
        self.assertIn("2 of 2 are proved", output)
        self.assertEqual([path.name for path in (self.folder / "out").iterdir()], ["seeds.jsonl"])

    def test_smaller_models_are_tried_and_drawn(self):
        tried = [(4, 2, 8, False, False), (6, 2, 5, True, True)]
        with mock.patch.object(smallest, "TRIED", tried):
            status, output, _ = self.run_command("--seeds", "1", main=smallest.main)
        self.assertEqual(status, 0)
        self.assertIn("width 6, 2 heads, d_ff 5, tied, longer", output)
        records = studies.read_records(self.folder / "out" / "sizes.jsonl", smallest.KEYS)
        self.assertEqual([record["training"]["epochs"] for record in records], [1, 4])
        for record, tied in zip(records, (False, True)):
            sizes = SMALL | {"d_model": record["width"], "d_ff": record["d_ff"], "num_heads": 2}
            untied = sum(p.numel() for p in LocalTransformer(VOCAB_SIZE, **sizes).parameters())
            shared = VOCAB_SIZE * record["width"] if tied else 0
            self.assertEqual(record["parameters"], untied - shared)
        self.assertTrue((self.folder / "out" / "sizes.png").is_file())

    def test_what_the_proof_needs(self):
        status, output, _ = self.run_command("--seeds", "0", main=needs.main)
        self.assertEqual(status, 0)
        for variant in needs.VARIANTS:
            self.assertIn(f"\n{variant} ", output)
        records = studies.read_records(self.folder / "out" / "ablations.jsonl", needs.KEYS)
        self.assertEqual(len(records), len(needs.VARIANTS))
        for record in records:
            self.assertEqual([test["digits"] for test in record["right"]], [1, 7])
        records[0]["training"]["lr"] = 1.0
        studies.write_records(self.folder / "out" / "ablations.jsonl", records)
        status, _, errors = self.run_command("--seeds", "0", main=needs.main)
        self.assertEqual((status, errors.count("\n")), (2, 1))
        self.assertIn("holds runs with another training", errors)

    def test_variants_see_what_their_names_say(self):
        source, target = random_problems(3, 4)
        torch.manual_seed(0)
        highest, without = (
            kind(VOCAB_SIZE, **SMALL).eval() for kind in (needs.HighestFirst, needs.WithoutPlus)
        )
        no_plus = source.clone()
        no_plus[:, 3] = 0
        given = shift_right(target)
        self.assertTrue(torch.equal(without(source, given), without(no_plus, given)))
        units = source.clone()
        units[:, 2] = (units[:, 2] + 1) % 10  # column 0, which step 2 and step 3 may see
        changed = (highest(units, given) != highest(source, given)).flatten(2).any(2).any(0)
        self.assertEqual(changed.tolist(), [False, False, True, True])


class Inference(TemporaryFolder):
    class Adder(LocalTransformer):
        """Adds as Python does."""

        def __init__(self):
            super().__init__(VOCAB_SIZE, **SMALL)

        def add(self, a, b):
            return encode_problems(a[None], b[None])[1][0]

    def run_inference(self, *arguments, stdin=b""):
        with mock.patch.object(inference, "load_model", return_value=self.Adder()):
            return command(inference.main, "--any-length", *arguments, stdin=stdin)

    def test_numbers_of_different_lengths(self):
        status, output, _ = self.run_inference("1" * 40 + "+9", "0 + 0 =", "007+3")
        self.assertEqual(status, 0)
        sums = [line.split(" = ")[1].split()[0] for line in output.splitlines()]
        self.assertEqual(sums, [str(int("1" * 40) + 9), "0", "10"])
        self.assertRegex(output, r"\(\d+\.\d\d s\)\n")

    def test_a_good_line_after_bad_ones_is_answered(self):
        long = b"9" * 10_000
        bad = [b"", b"1+", b"+1", b"-1+2", b"1.5+2", "١+٢".encode(), b"1+2+3", b"x" * 30_000]
        bad += [long + b"1+1", b"1+" + long + b"1"]
        lines = [*bad, long + b"+1", b"2+2"]
        status, output, errors = self.run_inference("--stdin", stdin=b"\n".join(lines))
        *wrong, big, small = output.splitlines()
        self.assertEqual((status, big, small), (1, "1" + "0" * 10_000, "4"))
        self.assertEqual(len(wrong), len(bad))
        for line in wrong:
            self.assertRegex(line, "^error: .")
            self.assertLess(len(line), 200)
        self.assertRegex(errors, r"^\d+\.\d\d s\n$")

    def test_bad_arguments_are_one_line(self):
        for arguments, words in [
            ((), "--any-length needs problems"),
            (("1+",), "is no problem such as"),
            (("-1+2",), "unrecognized"),
            (("1" * 10_001 + "+2",), "10,001 digits: 10,000 are the most"),
            (("--exhaustive",), "--any-length needs problems"),
        ]:
            self.assert_one_line(self.run_inference(*arguments), words)

    def test_says_how_to_make_the_weights(self):
        with mock.patch.object(inference, "ANY_LENGTH", self.folder / "any_length" / "m.pth"):
            result = command(inference.main, "--any-length", "1+1")
        self.assert_one_line(result, "no checkpoint file", "python problem1/beyond any-length")

    def test_another_model_is_refused(self):
        with mock.patch.object(inference, "load_model") as load:
            load.return_value = mock.Mock(spec=["training_info"], training_info={"num_digits": 3})
            result = command(inference.main, "--any-length", "1+1", "--model-path", "m.pth")
        self.assert_one_line(result, "adds numbers of 3 digits alone")


@unittest.skipUnless(WEIGHTS.exists(), "no model is trained")
class Trained(unittest.TestCase):
    def test_adds_long_numbers(self):
        for a, b in [("9" * 3000, "1"), ("9" * 200, "0"), ("123456789" * 50, "987654321" * 3)]:
            self.assertEqual(
                inference.add_any_length(load_model(WEIGHTS), a, b), str(int(a) + int(b))
            )

    def test_the_proof_is_of_these_weights(self):
        proof = json.loads((WEIGHTS.parent / "proof.json").read_text())
        model = load_model(WEIGHTS)
        self.assertEqual(proof["weights_sha256"], weights_digest(model))
        self.assertTrue(proof["proved"])
        windows_tried = {case: entry["windows"] for case, entry in proof["cases"].items()}
        self.assertEqual(windows_tried, windows.EXPECTED)
        # A hundredth of the problems again.
        for a, b in windows.problems():
            source, target = encode_problems(a[::100], b[::100])
            target = in_order(target, ORDERS[1])
            margin = windows.margins(model(source, shift_right(target)), target)
            self.assertGreater(margin.min(), proof["smallest_margin"] - 1e-3)
