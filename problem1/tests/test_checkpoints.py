"""Checkpoints: they hold tensors alone, load strictly by hand, and are refused if damaged."""

import json
from unittest import mock

from support.cli import UserError
from support.files import checkpoint_bytes, weights_digest

import torch

import model as model_module
from model import EXTRA_STATE, Seq2SeqTransformer, decode_extra_state, load_model
from tests.helpers import RESULTS, TemporaryFolder
from tests.small import info, save, small_model


class StateDict(TemporaryFolder):
    def test_its_values_are_tensors_alone(self):
        state = small_model().state_dict()
        self.assertIn(EXTRA_STATE, state)
        self.assertTrue(all(isinstance(value, torch.Tensor) for value in state.values()))

    def test_loads_strictly_with_and_without_the_extra_state(self):
        model = small_model()
        model.training_info = info(7)
        state = model.state_dict()
        weights = {name: value for name, value in state.items() if name != EXTRA_STATE}
        for given, expected in [(state, info(7)), (weights, info(5))]:
            other = small_model(seed=1)
            other.training_info = info(5)
            other.load_state_dict(given)
            self.assertEqual(weights_digest(other), weights_digest(model))
            self.assertEqual(other.training_info, expected)
        with self.assertRaisesRegex(RuntimeError, "Missing key"):
            small_model(num_encoder_layers=3).load_state_dict(state)
        with self.assertRaisesRegex(RuntimeError, "Unexpected key"):
            small_model().load_state_dict(weights | {"more": torch.zeros(1)})

    def test_may_be_averaged_and_cast(self):
        model = small_model()
        state = model.state_dict()
        average = {name: (value + value) / 2 for name, value in state.items()}
        other = small_model(seed=1)
        other.load_state_dict(average)
        self.assertEqual(weights_digest(other), weights_digest(model))
        half = {name: value.half() for name, value in state.items()}
        self.assertEqual(decode_extra_state(half[EXTRA_STATE])["training_info"], info())
        other.load_state_dict(half)
        self.assertEqual(other.training_info, info())

    def test_weights_of_another_model_of_the_same_shapes_are_refused(self):
        with self.assertRaisesRegex(ValueError, "with 4 heads, .* with 2: load them with model"):
            small_model(num_heads=2).load_state_dict(small_model().state_dict())

    def test_the_committed_file_is_that_of_a_model_made_by_hand(self):
        state = torch.load(RESULTS / "best_model.pth", weights_only=True)
        config = decode_extra_state(state[EXTRA_STATE])["config"]
        model = Seq2SeqTransformer(**config)
        model.load_state_dict(state)
        self.assertEqual(
            weights_digest(model), weights_digest(load_model(RESULTS / "best_model.pth"))
        )


class Load(TemporaryFolder):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "m.pth"

    def refused(self, words=""):
        remedy = f"m.pth .*{words}.*: train the model with python train.py"
        with self.assertRaisesRegex(UserError, remedy) as raised:
            load_model(self.path)
        self.assertLess(len(str(raised.exception)), 500)

    def test_round_trip(self):
        model = small_model(d_model=16, num_encoder_layers=1, num_decoder_layers=3)
        save(self.path, model.train(), num_digits=3, order="right-to-left")
        loaded = load_model(self.path)
        self.assertEqual((loaded.config, loaded.training), (model.config, False))
        self.assertEqual(loaded.training_info, info(3, "right-to-left"))
        self.assertEqual(weights_digest(loaded), weights_digest(model))

    def write(self, weights, **changes):
        """Save weights with what their extra state says, in which entries are changed."""
        state = {
            "model": "Seq2SeqTransformer",
            "config": vars(self.model.config),
            "training_info": info(),
        }
        text = json.dumps(state | changes)
        extra = torch.tensor(list(text.encode()), dtype=torch.uint8)
        torch.save(weights | {EXTRA_STATE: extra}, self.path)

    def test_what_is_no_model_is_one_line(self):
        self.model = small_model()
        weights = dict(self.model.named_parameters())
        weights = {name: value.detach() for name, value in weights.items()}
        self.write(weights)
        self.assertEqual(weights_digest(load_model(self.path)), weights_digest(small_model()))
        config = vars(self.model.config)
        bad = {"d_model": (64, 10**9), "num_heads": (3,), "num_encoder_layers": (10**5,)}
        bad |= {"d_ff": (-1,), "extra": (1,), "dropout": ("x", float("nan")), "vocab_size": (5,)}
        bad |= {"max_len": (4, 10**5 + 1)}
        changed = [{"config": config | {key: value}} for key in bad for value in bad[key]]
        bad = {"num_digits": ("3", 11, True), "order": ("inside-out",), "train_sha256": (None,)}
        changed += [{"training_info": info() | {key: value}} for key in bad for value in bad[key]]
        changed += [{"model": "x"}, {"model": []}, {"config": 3}, {"training_info": {}}]
        for changes in changed:
            with self.subTest(**changes):
                self.write(weights, **changes)
                self.refused()
        name = "embedding.weight"
        values = [weights[name][:5], weights[name] * float("nan"), weights[name].to_sparse()]
        values += [weights[name].to(dtype) for dtype in (torch.complex64, torch.int32)]
        for value in [*values, torch.zeros(1).expand(10**5, 10**5)]:
            with self.subTest(str(value.shape), dtype=value.dtype):
                self.write(weights | {name: value})
                self.refused()
        self.write(weights | {"more.weight": torch.zeros(1)})
        self.refused("more.weight")
        for state in (weights, {}, weights | {EXTRA_STATE: torch.zeros(3)}):
            torch.save(state, self.path)
            self.refused()

    def test_weights_larger_than_their_file_are_refused_before_they_are_made(self):
        model = small_model()
        weights = {
            name: torch.zeros(1).expand(value.shape) for name, value in model.named_parameters()
        }
        state = weights | {EXTRA_STATE: model.get_extra_state()}
        self.path.write_bytes(checkpoint_bytes(state))
        self.refused("larger than the file")

    def test_impossible_sizes_are_refused_before_a_model_is_made(self):
        self.model = small_model()
        weights = {name: value.detach() for name, value in self.model.named_parameters()}
        for size in ("d_model", "d_ff", "num_decoder_layers"):
            config = vars(self.model.config)
            self.write(weights, config=config | {size: 50 * config[size]})
            made = mock.Mock(side_effect=AssertionError)
            with mock.patch.dict(model_module.MODELS, {"Seq2SeqTransformer": made}):
                self.refused("not those of a model of these sizes")
