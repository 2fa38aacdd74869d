"""The model: permutations, padding, masks, its state dict, and the course's signatures."""

import inspect
import json
import unittest

import torch
from torch.nn import functional as F

from dataset import (
    PAD_VALUE,
    ExtrapolationDataset,
    SortingDataset,
    create_dataloaders,
    create_extrapolation_loader,
)
from generate_data import generate_dataset
from model import (
    EXTRA_STATE,
    MultiHeadAttention,
    SortingClassifier,
    TransformerEncoderLayer,
    create_model,
    evaluating,
    scaled_dot_product_attention,
)
from positional_encoding import (
    REQUIRED,
    LearnedPositionalEncoding,
    NoPositionalEncoding,
    SinusoidalPositionalEncoding,
    get_positional_encoding,
    visualize_positional_encoding,
)
from tests.small import EXACT, SIZES, small_model
from train import TrainingConfig, make_optimizer

# What the course's starter kit fixed: names and defaults, in this order.
SIGNATURES = {
    scaled_dot_product_attention: "Q, K, V, mask=None",
    MultiHeadAttention: "d_model, num_heads",
    MultiHeadAttention.forward: "self, query, key, value, mask=None",
    TransformerEncoderLayer: "d_model, num_heads, d_ff, dropout=0.1",
    TransformerEncoderLayer.forward: "self, x, mask=None",
    SortingClassifier: "vocab_size=101, d_model=128, num_heads=4, num_layers=4, d_ff=512, "
    "dropout=0.1, max_len=300, encoding_type='sinusoidal'",
    SortingClassifier.forward: "self, x, mask=None",
    SortingClassifier.predict: "self, x, mask=None",
    create_model: "encoding_type='sinusoidal', **kwargs",
    SinusoidalPositionalEncoding: "d_model, max_len=5000",
    LearnedPositionalEncoding: "d_model, max_len=5000",
    NoPositionalEncoding: "d_model, max_len=5000",
    get_positional_encoding: "encoding_type, d_model, max_len=5000",
    visualize_positional_encoding: "encoding_module, max_len=128, d_model=128",
    SortingDataset: "data_path, max_len=None, pad_value=100",
    ExtrapolationDataset: "data_dir, target_length, pad_value=100",
    create_dataloaders: "data_dir, batch_size=32, num_workers=0",
    create_extrapolation_loader: "data_dir, target_length, batch_size=32",
    generate_dataset: "num_samples, min_len, max_len, sorted_prob=0.5, seed=None",
}


class Model(unittest.TestCase):
    x = torch.randint(100, (4, 9), generator=torch.Generator().manual_seed(0))

    def test_only_without_positions_a_permutation_changes_nothing(self):
        order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
        for name in REQUIRED:
            model = small_model(name)
            change = (model(self.x[:, order]) - model(self.x)).abs().max().item()
            self.assertEqual(change < 1e-12, name == "none")
            self.assertEqual(change > 1e-4, name != "none")

    def test_padding_changes_nothing_wherever_it_stands(self):
        for name in REQUIRED:
            model = small_model(name)
            expected = model(self.x)
            for before, between, after in [(0, 0, 0), (0, 0, 20), (3, 0, 0), (0, 5, 0), (2, 1, 4)]:
                pads = [torch.full((4, n), PAD_VALUE) for n in (before, between, after)]
                parts = pads[0], self.x[:, :4], pads[1], self.x[:, 4:], pads[2]
                padded = torch.cat(parts, dim=1)
                for dtype in (torch.bool, torch.long, torch.float64):
                    mask = (padded != PAD_VALUE).to(dtype)
                    torch.testing.assert_close(model(padded, mask), expected, **EXACT)
            change = (model(padded) - expected).abs().max()
            self.assertGreater(change, 1e-4, "padding without a mask is read")

    def test_a_mask_of_one_row_holds_for_the_batch(self):
        model, mask = small_model("sinusoidal"), torch.arange(9) < 6
        expected = model(self.x, mask.expand(4, 9))
        torch.testing.assert_close(expected, model(self.x[:, :6]), **EXACT)
        torch.testing.assert_close(model(self.x, mask[None]), expected, **EXACT)
        self.assertTrue(torch.equal(model.predict(self.x, mask[None]), expected.argmax(dim=1)))

    def test_other_masks_are_refused(self):
        model = small_model("sinusoidal")
        for shape in [(2, 9), (4, 8), (5, 9), (1, 8), (9, 4), (2, 4, 9), (4, 1, 1, 9)]:
            words = rf"mask \({', '.join(map(str, shape))}\) does not fit \(4, 9\)"
            with self.subTest(shape), self.assertRaisesRegex(ValueError, words):
                model(self.x, torch.ones(shape))
        for mask, words in [
            (torch.ones(9), "two dimensions"),
            (torch.zeros(4, 9).fill_(-torch.inf), "other values"),
            (torch.full((4, 9), 0.5), "other values"),
        ]:
            with self.subTest(words), self.assertRaisesRegex(ValueError, words):
                model(self.x, mask)

    def test_few_values_and_none(self):
        for name in REQUIRED:
            model = small_model(name)
            self.assertEqual(model(torch.tensor([[5]])).shape, (1, 2))
            mixed = torch.tensor([[100, 100], [5, 100]]), torch.tensor([[0, 0], [1, 0]])
            empty = torch.zeros(2, 0, dtype=torch.long)
            bias = model.classifier.bias.expand(2, 2)
            torch.testing.assert_close(model(*mixed)[:1], bias[:1], **EXACT)
            for mask in (None, torch.ones(2, 0)):
                torch.testing.assert_close(model(empty, mask), bias, **EXACT)

    def test_hooks_on_attention_see_output_and_weights(self):
        model, seen = small_model("sinusoidal"), []
        for layer in model.encoder_layers:
            layer.self_attn.register_forward_hook(
                lambda module, inputs, output: seen.append(output)
            )
        model(self.x)
        shapes = [(output.shape, weights.shape) for output, weights in seen]
        self.assertEqual(shapes, [((4, 9, 24), (4, 3, 9, 9))] * 2)

    def test_each_module_has_its_own_mode_again(self):
        model = create_model("none", **SIZES | {"num_layers": 2})
        model.layers[0].eval()
        modes = [module.training for module in model.modules()]
        with self.assertRaises(ZeroDivisionError), evaluating(model):
            self.assertFalse(any(module.training for module in model.modules()))
            raise ZeroDivisionError
        self.assertEqual([module.training for module in model.modules()], modes)

    def test_a_learned_row_that_no_sequence_reaches_keeps_its_first_value(self):
        torch.manual_seed(0)
        model = create_model("learned", **SIZES)
        before = model.pos_encoding.position_embeddings.weight.detach().clone()
        optimizer = make_optimizer(model, TrainingConfig(weight_decay=0.5))
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(self.x), torch.tensor([0, 1, 0, 1])).backward()
            optimizer.step()
        after = model.pos_encoding.position_embeddings.weight.detach()
        self.assertTrue(torch.equal(after[9:], before[9:]))
        self.assertTrue((after[:9] != before[:9]).any(dim=1).all())

    def test_signatures_are_those_of_the_course(self):
        for function, expected in SIGNATURES.items():
            found = list(inspect.signature(function).parameters.values())
            start = [str(parameter) for parameter in found[: expected.count(", ") + 1]]
            self.assertEqual(", ".join(start), expected, function)


class State(unittest.TestCase):
    def test_its_values_are_tensors_that_rebuild_the_model(self):
        model = small_model("learned")
        model.training_info = {"train_sha256": "x"}
        state = model.state_dict()
        self.assertTrue(all(isinstance(value, torch.Tensor) for value in state.values()))
        content = json.loads(bytes(state[EXTRA_STATE].tolist()))
        other = SortingClassifier(**content["config"]).double().eval()
        other.load_state_dict(state)
        self.assertEqual((other.training_info, other.config), (model.training_info, model.config))
        torch.testing.assert_close(other(Model.x), model(Model.x), **EXACT)

    def test_loads_strictly_with_and_without_its_extra_state(self):
        model, other = small_model("sinusoidal"), small_model("sinusoidal", seed=1)
        self.assertFalse(torch.equal(model(Model.x), other(Model.x)))
        state = model.state_dict()
        averaged = {name: (value + value) / 2 for name, value in state.items()}
        halved = {name: value.half() for name, value in state.items()}
        weights = {name: value for name, value in state.items() if name != EXTRA_STATE}
        self.assertEqual(len(weights), len(state) - 1)
        for given, tolerance in [(weights, 0), (state, 0), (averaged, 0), (halved, 0.1)]:
            other = small_model("sinusoidal", seed=1)
            result = other.load_state_dict(given)  # strict
            self.assertEqual((result.missing_keys, result.unexpected_keys), ([], []))
            torch.testing.assert_close(other(Model.x), model(Model.x), rtol=0, atol=tolerance)
        with self.assertRaisesRegex(RuntimeError, "Missing key.*norm.weight"):
            other.load_state_dict({k: v for k, v in weights.items() if k != "norm.weight"})

    def test_weights_of_another_model_are_refused(self):
        state = create_model("none", **SIZES).state_dict()
        for changes in ({"num_heads": 4}, {"encoding_type": "sinusoidal"}):
            other = create_model(**{"encoding_type": "none"} | SIZES | changes)
            with self.assertRaisesRegex(ValueError, "weights of another model.*load_model"):
                other.load_state_dict(state)
