"""Models beyond the assignment: positions by columns, learned rows, and their training command."""

import subprocess
import sys
import unittest
from unittest import mock

from support import cli
from support.files import weights_digest

import torch
from torch import nn

import inference
import model as model_module
from beyond import POSITIONS, recipes
from beyond import train as beyond_train
from beyond.columns import ColumnBias, ColumnTransformer, count_digits, source_columns
from beyond.learned import LearnedPositions, LearnedTransformer
from dataset import (
    ORDERS,
    PAD_TOKEN,
    VOCAB_SIZE,
    encode_problems,
    in_order,
    padding_mask,
    shift_right,
)
from heads.examination import Examination
from model import Seq2SeqTransformer, load_model
from tests.helpers import HOME, command, without_pictures
from tests.small import (
    TINY,
    TOLERANCE,
    SmallData,
    digits,
    info,
    save,
    small_model,
    some_problems,
)


def column_model(order, **sizes):
    """A small model whose positions are columns, with biases that matter."""
    torch.manual_seed(0)
    sizes = {"d_model": 24, "num_heads": 3, "d_ff": 40, "dropout": 0.0} | sizes
    model = ColumnTransformer(VOCAB_SIZE, **sizes, order=order).double().eval()
    for parameter in model.columns.parameters():
        nn.init.normal_(parameter)
    return model


def problems(order):
    source, target = encode_problems(digits(123, 999, 657), digits(456, 999, 348))
    return source, shift_right(in_order(target, order))


class Columns(unittest.TestCase):
    def test_columns_of_sources_of_several_lengths(self):
        mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
        for form in (mask, mask[:, None, None]):
            n = count_digits(torch.zeros(2, 7, 4), form)
            self.assertEqual(n.tolist(), [[3], [2]])
        self.assertEqual(source_columns(7, n)[0].tolist(), [2, 1, 0, 2, 2, 1, 0])
        self.assertEqual(source_columns(7, n)[1, :5].tolist(), [1, 0, 1, 1, 0])
        self.assertEqual(count_digits(torch.zeros(2, 7, 4), None).tolist(), [[3]])

    def test_a_bias_is_the_weight_of_the_clipped_distance(self):
        bias = ColumnBias(2)
        bias.weights.data = torch.arange(14.0).view(2, 7)
        scores = bias(torch.tensor([[0, 2]]), torch.tensor([[2, 1, 0, 9]]))
        rows = (scores / bias.GAIN)[0, 1].tolist()
        self.assertEqual(rows, [[12, 11, 10, 13], [10, 9, 8, 13]])

    def test_columns_of_the_answer_follow_the_order_of_writing(self):
        for order, columns in zip(ORDERS, ([3, 2, 1, 0], [0, 1, 2, 3])):
            model, (source, given) = column_model(order), problems(order)
            model(source, given)
            target = torch.tensor([columns])
            cross = model.columns["cross"][0](target, source_columns(7, torch.tensor([[3]])))
            layer = model.decoder_layers[0]
            self.assertTrue(torch.equal(layer.cross_attn.bias(), cross))
            own = model.columns["decoder"][0](target, target)
            self.assertTrue(torch.equal(layer.self_attn.bias(), own))

    def test_padding_changes_nothing(self):
        for order in ORDERS:
            model, (source, given) = column_model(order), problems(order)
            padded = torch.cat([source, torch.full((3, 4), PAD_TOKEN)], dim=1)
            mask = padding_mask(padded)
            expected = model(source, given)
            torch.testing.assert_close(model(padded, given, mask), expected, **TOLERANCE)
            answers = model.generate(padded, 4, src_mask=mask)
            self.assertTrue(torch.equal(answers, model.generate(source, 4)))

    def test_numbers_of_several_lengths_in_one_batch_are_read_as_each_alone(self):
        model, short = column_model(ORDERS[0]), torch.tensor([[1, 2, 10, 3, 4]])
        padded = nn.functional.pad(short, (0, 2), value=PAD_TOKEN)
        batch = torch.cat([problems(ORDERS[0])[0][:1], padded])
        together = model.encode(batch, padding_mask(batch))
        torch.testing.assert_close(together[1:, :5], model.encode(short), **TOLERANCE)

    def test_the_operands_can_change_places_digit_by_digit(self):
        for order in ORDERS:
            source, given = problems(order)
            swapped = source.clone()
            swapped[:, 1], swapped[:, 5] = source[:, 5], source[:, 1]
            model, plain = column_model(order), small_model().double()
            torch.testing.assert_close(model(swapped, given), model(source, given), **TOLERANCE)
            self.assertGreater((plain(swapped, given) - plain(source, given)).abs().max(), 1e-4)


class Models(SmallData):
    def test_learned_positions_are_the_rows(self):
        positions, x = LearnedPositions(4, 5), torch.randn(2, 3, 4)
        self.assertTrue(torch.equal(positions(x), x + positions.rows[:3]))
        with self.assertRaisesRegex(ValueError, "6 tokens do not fit max_len = 5"):
            positions(torch.zeros(1, 6, 4))

    def test_checkpoints_are_found_without_importing_beyond(self):
        for kind, model in [
            (LearnedTransformer, small_model(LearnedTransformer)),
            (ColumnTransformer, column_model(ORDERS[1]).float()),
        ]:
            save(self.folder / "m.pth", model, order=ORDERS[1])
            core = {"Seq2SeqTransformer": Seq2SeqTransformer}
            with (
                mock.patch.dict(model_module.MODELS, core, clear=True),
                mock.patch.dict(sys.modules),
            ):
                for name in [name for name in sys.modules if name.split(".")[0] == "beyond"]:
                    del sys.modules[name]
                loaded = load_model(self.folder / "m.pth")
            self.assertEqual(type(loaded).__name__, kind.__name__)
            self.assertEqual(weights_digest(loaded), weights_digest(model))
            self.assertEqual(vars(loaded.config), vars(model.config))
        with self.assertRaisesRegex(ValueError, "weights of a ColumnTransformer with 3 heads"):
            small_model(d_model=24, num_heads=3).load_state_dict(model.state_dict())

    def test_threads_do_not_share_what_a_model_notes_of_its_pass(self):
        model, pairs = column_model(ORDERS[1]).float(), [(a, 1099 - a) for a in range(100, 1000)]
        model.training_info = info(3, ORDERS[1])
        one = inference.answer(model, pairs)
        torch.set_num_threads(3)
        try:
            self.assertEqual(inference.answer(model, pairs), one)
        finally:
            torch.set_num_threads(1)
        with self.assertRaisesRegex(cli.UserError, "layers of a ColumnTransformer cannot be run"):
            Examination(model, *some_problems(4, 3, order=ORDERS[1]))


class Train(SmallData):
    def train(self, *options, epochs=1):
        with without_pictures(), mock.patch.object(recipes.cli, "HERE", self.folder):
            data = "--data-dir", self.small_data()
            return command(beyond_train.main, *data, "--epochs", epochs, *TINY, *options)

    def test_each_kind_of_positions_in_each_order(self):
        for positions, kind in POSITIONS.items():
            for order in ORDERS:
                folder = self.folder / positions / order
                options = "--positions", positions, "--order", order, "--output-dir", folder
                status, output, errors = self.train(*options)
                self.assertEqual((status, errors), (0, ""), output)
                self.assertIn("warning: there are only 81 problems of one digit", output)
                model = load_model(folder / "best_model.pth")
                self.assertIs(type(model), kind)
                self.assertEqual(model.training_info["order"], order)

    def test_committed_models_have_their_folder_and_all_others_runs(self):
        with mock.patch.object(cli, "RESULTS_DIR", self.folder / "results"):
            self.train()
            self.train("--positions", "columns", "--order", ORDERS[0])
        for folder in ("results/beyond/right_to_left", "runs/left_to_right_columns"):
            self.assertTrue((self.folder / folder / "best_model.pth").exists(), folder)

    def test_a_size_that_may_not_be_learned_is_warned_of(self):
        def warning(n, positions, order):
            return beyond_train.size_warning(n, order, positions) or ""

        silent = [(3, "sinusoidal", ORDERS[0]), (10, "columns", ORDERS[1])]
        self.assertEqual([warning(*size) for size in silent], ["", ""])
        self.assertIn("--positions columns", warning(10, "sinusoidal", ORDERS[1]))
        self.assertIn("--order right-to-left", warning(10, "columns", ORDERS[0]))


class Door(unittest.TestCase):
    def beyond(self, *arguments):
        script = [sys.executable, HOME / "beyond", *arguments]
        done = subprocess.run(script, cwd="/", capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def test_commands_are_run_by_name_from_anywhere(self):
        status, listed, errors = self.beyond()
        self.assertEqual(
            (status, listed.strip()), (0, (HOME / "beyond/README.md").read_text().strip())
        )
        status, _, errors = self.beyond("nothing")
        self.assertEqual((status, errors.count("\n")), (2, 1))
        self.assertIn("there is no command nothing: choose from train, ", errors)
        status, output, errors = self.beyond("sizes", "--help")
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("--digits", output)
