"""The model against PyTorch's own layers, and its properties: permutation, padding, positions, untrained rows."""

import inspect
import math
import unittest
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from dataset import PAD_VALUE, ExtrapolationDataset, SortingDataset, create_dataloaders, create_extrapolation_loader
from learning.loop import TrainingConfig, make_optimizer
from model import (POOLINGS, MultiHeadAttention, SortingClassifier, TransformerEncoderLayer, attention_scores,
                   create_model, scaled_dot_product_attention)
from positional_encoding import (ENCODINGS, REQUIRED, LearnedPositionalEncoding, NoPositionalEncoding,
                                 SinusoidalPositionalEncoding, get_positional_encoding, visualize_positional_encoding)

TOLERANCE = dict(rtol=0, atol=1e-12)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small_model(encoding, **changes):
    torch.manual_seed(0)
    model = create_model(encoding, **{"d_model": 24, "num_heads": 3, "num_layers": 2, "d_ff": 40, "dropout": 0.0,
                                      **changes}).double().eval()
    for parameter in model.pos_encoding.parameters():  # some start from zero, as if there were no positions
        nn.init.normal_(parameter)
    return model


class Attention(unittest.TestCase):
    def test_equals_pytorch_in_value_and_gradient(self):
        padding = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]).bool()[:, None, None]
        bias = random(1, 3, 4, 7, seed=9)
        for mask, given in [(None, None), (padding, None), (None, bias), (padding, bias)]:
            inputs = [random(2, 3, 4, 8, seed=1), random(2, 3, 7, 8, seed=2), random(2, 3, 7, 5, seed=3)]
            ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
            output, weights = scaled_dot_product_attention(*ours, mask, given)
            added = torch.zeros(2, 3, 4, 7, dtype=torch.float64) if given is None else given.expand(2, 3, 4, 7)
            expected = F.scaled_dot_product_attention(*theirs, added if mask is None
                                                      else added.masked_fill(~mask, -math.inf))
            torch.testing.assert_close(output, expected, **TOLERANCE)
            torch.testing.assert_close(weights @ inputs[2], expected, **TOLERANCE)
            output.square().sum().backward()
            expected.square().sum().backward()
            for mine, reference in zip(ours, theirs):
                torch.testing.assert_close(mine.grad, reference.grad, **TOLERANCE)

    def test_a_query_without_keys_gives_zero_and_no_nan_in_the_gradient(self):
        Q, K, V = (random(1, 3, 4, seed=seed).requires_grad_() for seed in range(3))
        output, weights = scaled_dot_product_attention(Q, K, V, torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]]))
        self.assertEqual((output[0, 1].abs().sum(), weights[0, 1].abs().sum()), (0, 0))
        self.assertGreater(output[0, 0].abs().sum(), 0)
        output.square().sum().backward()
        self.assertTrue(all(torch.isfinite(x.grad).all() for x in (Q, K, V)))

    def test_layer_equals_pytorch(self):
        torch.manual_seed(0)
        ours = TransformerEncoderLayer(24, 3, 40, 0.0).double()
        theirs = nn.TransformerEncoderLayer(24, 3, 40, dropout=0.0, batch_first=True, norm_first=True,
                                            dtype=torch.float64)
        attention = ours.self_attn
        theirs.self_attn.in_proj_weight.data = torch.cat([attention.W_q.weight, attention.W_k.weight,
                                                          attention.W_v.weight]).data
        theirs.self_attn.in_proj_bias.data = torch.cat([attention.W_q.bias, attention.W_k.bias,
                                                        attention.W_v.bias]).data
        theirs.self_attn.out_proj.load_state_dict(attention.W_o.state_dict())
        for name in ("linear1", "linear2", "norm1", "norm2"):
            getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
        x, real = random(2, 5, 24), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
        for mask in (None, real):
            torch.testing.assert_close(ours(x, None if mask is None else mask[:, None, None]),
                                       theirs(x, src_key_padding_mask=None if mask is None else ~mask), **TOLERANCE)

    def test_scores_are_those_that_forward_uses(self):
        attention, x = MultiHeadAttention(24, 3).double(), random(2, 5, 24)
        torch.testing.assert_close(attention.scores(x, x, NoPositionalEncoding(24)).softmax(-1), attention(x, x, x)[1],
                                   **TOLERANCE)
        torch.testing.assert_close(attention_scores(x, x, bias=1.0), attention_scores(x, x) + 1, **TOLERANCE)

    def test_width_that_heads_do_not_divide_is_refused(self):
        for d_model, num_heads in [(10, 4), (4, 8), (0, 1), (8, 0)]:
            with self.assertRaisesRegex(ValueError, "multiple"):
                SortingClassifier(d_model=d_model, num_heads=num_heads)


class Encodings(unittest.TestCase):
    def test_sinusoidal_is_the_formula_at_any_length_and_width(self):
        for d_model in (6, 5):
            encoding = SinusoidalPositionalEncoding(d_model, max_len=4)
            table = visualize_positional_encoding(encoding, 1000, d_model)
            self.assertEqual(table.shape, (1000, d_model))
            for pos in (0, 1, 3, 4, 999):
                for i in range(d_model):
                    angle = pos / 10000 ** (2 * (i // 2) / d_model)
                    self.assertAlmostEqual(float(table[pos, i]), math.cos(angle) if i % 2 else math.sin(angle),
                                           places=5)

    def test_sinusoidal_grows_in_the_module_s_dtype(self):
        for dtype in (torch.bfloat16, torch.float64):
            model = create_model("sinusoidal", d_model=16, num_heads=2, num_layers=1, d_ff=16).eval().to(dtype)
            for length in (301, 5):
                self.assertTrue(torch.isfinite(model(torch.zeros(1, length, dtype=torch.long))).all())
            self.assertEqual((model.pos_encoding.table.dtype, len(model.pos_encoding.table)), (dtype, 301))

    def test_worked_matrix_of_the_docstring(self):
        expected = torch.tensor([[0, 1, 0, 1], [0.8415, 0.5403, 0.0100, 0.9999], [0.9093, -0.4161, 0.0200, 0.9998]])
        torch.testing.assert_close(SinusoidalPositionalEncoding(4).rows(3), expected, rtol=0, atol=6e-5)

    def test_shift_is_linear(self):
        encoding = SinusoidalPositionalEncoding(16)
        table = encoding.rows(300, torch.float64)
        for k in (0, 1, 7, 100):
            torch.testing.assert_close(table[:200] @ encoding.shift_matrix(k).T, table[k:200 + k], rtol=0, atol=1e-10)

    def test_learned_adds_its_rows_and_ends_where_they_end(self):
        encoding = LearnedPositionalEncoding(6, max_len=9)
        x = torch.randn(2, 9, 6)
        for pos in range(9):
            self.assertTrue(torch.equal(encoding(x)[:, pos], x[:, pos] + encoding.position_embeddings.weight[pos]))
        with self.assertRaisesRegex(ValueError, "longer than the 9 positions"):
            encoding(torch.zeros(1, 10, 6))

    def test_none_and_the_neutral_methods_change_nothing(self):
        x, Q, K = torch.randn(2, 3, 8), torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
        self.assertIs(NoPositionalEncoding(8)(x), x)
        for name in REQUIRED:
            encoding = get_positional_encoding(name, 8)
            self.assertEqual([a is b for a, b in zip(encoding.rotate(Q, K), (Q, K))], [True, True])
            self.assertIsNone(encoding.bias(Q))

    def test_an_encoding_can_rotate_and_bias(self):
        class Both(NoPositionalEncoding):
            def rotate(self, Q, K):
                return 2 * Q, 3 * K

            def bias(self, Q):
                return -torch.arange(Q.size(2), dtype=torch.float64)
        attention, x = MultiHeadAttention(24, 3).double(), random(2, 5, 24)
        expected = 6 * attention.scores(x, x, NoPositionalEncoding(24)) - torch.arange(5)
        torch.testing.assert_close(attention(x, x, x, positions=Both(24))[1], expected.softmax(-1), **TOLERANCE)

    def test_an_unknown_name_is_refused(self):
        with self.assertRaisesRegex(ValueError, "sinusoidal, learned, none"):
            get_positional_encoding("alphabetical", 8)


class Model(unittest.TestCase):
    x = torch.randint(100, (4, 9), generator=torch.Generator().manual_seed(0))

    def test_without_positions_a_permutation_changes_nothing_and_with_them_it_does(self):
        order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
        for name in ENCODINGS:
            model = small_model(name)
            change = (model(self.x[:, order]) - model(self.x)).abs().max().item()
            if name == "none":
                self.assertLess(change, 1e-12)
            else:
                self.assertGreater(change, 1e-4, name)

    def test_where_padding_stands_and_how_much_changes_nothing(self):
        for name, changes in ([(name, {}) for name in ENCODINGS if name != "random_positions"]
                              + [("sinusoidal", {"pooling": pooling}) for pooling in POOLINGS]
                              + [(name, {"log_scaling": scaling, "pooling": "attention"})
                                 for scaling in (True, "learned") for name in ("none", "relative_bias", "local_bias")]):
            model = small_model(name, **changes)
            for parameter in model.pooling.parameters():
                nn.init.normal_(parameter)
            expected = model(self.x)
            self.assertTrue(torch.equal(model(self.x, torch.ones(4, 9)), expected) or
                            (model(self.x, torch.ones(4, 9)) - expected).abs().max() < 1e-12)
            for before, between, after in [(0, 0, 1), (0, 0, 20), (3, 0, 0), (0, 5, 0), (2, 1, 4)]:
                pad = [torch.full((4, n), PAD_VALUE) for n in (before, between, after)]
                padded = torch.cat([pad[0], self.x[:, :4], pad[1], self.x[:, 4:], pad[2]], dim=1)
                for dtype in (torch.bool, torch.long, torch.float64):
                    torch.testing.assert_close(model(padded, (padded != PAD_VALUE).to(dtype)), expected, **TOLERANCE)
            self.assertGreater((model(padded) - expected).abs().max(), 1e-4, "padding without a mask is read")

    def test_length_one_batch_of_one_and_no_real_value(self):
        for name in ENCODINGS:
            for pooling in POOLINGS:
                for log_scaling in (False, True, "learned"):
                    model = small_model(name, pooling=pooling, log_scaling=log_scaling)
                    self.assertEqual(model(torch.tensor([[5]])).shape, (1, 2))
                    self.assertTrue(torch.isfinite(model(torch.tensor([[100, 100], [5, 100]]),
                                                         torch.tensor([[0, 0], [1, 0]]))).all())
                    empty = model(torch.tensor([[100, 100]]), torch.zeros(1, 2))
                    torch.testing.assert_close(empty[0], model.classifier.bias, **TOLERANCE)

    def test_a_sequence_of_no_values_is_one_without_any_real_value(self):
        for pooling in POOLINGS:
            model = small_model("sinusoidal", pooling=pooling)
            for mask in (None, torch.ones(2, 0)):
                torch.testing.assert_close(model(torch.zeros(2, 0, dtype=torch.long), mask),
                                           model.classifier.bias.expand(2, 2), **TOLERANCE)

    @torch.no_grad()
    def test_a_traced_model_takes_batches_of_any_size(self):
        model = small_model("local_bias", pooling="lowest", num_layers=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model, self.x)
        for count in (1, 4, 6):
            x = torch.randint(100, (count, 9), generator=torch.Generator().manual_seed(count))
            torch.testing.assert_close(traced(x), model(x), **TOLERANCE)

    def test_what_starter_kit_scripts_read(self):
        model = create_model("learned", d_model=24, num_heads=3)
        self.assertIs(type(model.pos_encoding), LearnedPositionalEncoding)
        for layer in model.layers:
            self.assertEqual((layer.self_attn.d_model, layer.self_attn.d_k, layer.self_attn.num_heads), (24, 8, 3))

    def test_hooks_on_attention_see_output_and_weights(self):
        model, seen = small_model("relative_bias"), []
        for layer in model.layers:
            layer.self_attn.register_forward_hook(lambda module, args, output: seen.append(output))
        model(self.x)
        self.assertEqual([(output.shape, weights.shape) for output, weights in seen], [((4, 9, 24), (4, 3, 9, 9))] * 2)

    def test_extra_state_holds_plain_values_that_rebuild_the_model(self):
        model = create_model("learned", d_model=24, num_heads=3)
        model.about = {"train_sha256": "x"}
        state = model.state_dict()
        self.assertEqual(state["_extra_state"], {"config": vars(model.config), "about": {"train_sha256": "x"}})
        other = SortingClassifier(**state["_extra_state"]["config"])
        other.load_state_dict(state)
        self.assertEqual((other.about, other.config), (model.about, model.config))

    def test_weights_of_other_arguments_than_the_model_s_are_refused(self):
        state = create_model("none", d_model=24, num_heads=3).state_dict()
        for name, value in (("num_heads", 4), ("encoding_type", "sinusoidal"), ("pooling", "max"),
                            ("log_scaling", True)):
            other = SortingClassifier(**state["_extra_state"]["config"] | {name: value})
            with self.assertRaisesRegex(ValueError, f"weights of a model with {name} = .* has {value!r}"):
                other.load_state_dict(state)

    def test_predict_is_the_likelier_class(self):
        model = small_model("sinusoidal")
        self.assertTrue(torch.equal(model.predict(self.x), model(self.x).argmax(1)))

    def test_a_learned_row_that_no_sequence_reaches_keeps_its_first_value(self):
        torch.manual_seed(0)
        model = create_model("learned", d_model=16, num_heads=2, num_layers=1, d_ff=16)
        before = model.pos_encoding.position_embeddings.weight.detach().clone()
        optimizer = make_optimizer(model, TrainingConfig(weight_decay=0.5))
        for step in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(self.x), torch.tensor([0, 1, 0, 1])).backward()
            optimizer.step()
        after = model.pos_encoding.position_embeddings.weight.detach()
        self.assertTrue(torch.equal(after[9:], before[9:]))
        self.assertTrue((after[:9] != before[:9]).any(dim=1).all())

    def test_signatures_are_those_of_the_course(self):
        def starts(function, *names):
            self.assertEqual(list(inspect.signature(function).parameters)[:len(names)], list(names))
        starts(SortingClassifier, "vocab_size", "d_model", "num_heads", "num_layers", "d_ff", "dropout", "max_len",
               "encoding_type")
        self.assertEqual([p.default for p in inspect.signature(SortingClassifier).parameters.values()],
                         [101, 128, 4, 4, 512, 0.1, 300, "sinusoidal", "mean", False])
        starts(SortingClassifier.forward, "self", "x", "mask")
        starts(SortingClassifier.predict, "self", "x", "mask")
        starts(create_model, "encoding_type")
        starts(get_positional_encoding, "encoding_type", "d_model", "max_len")
        starts(visualize_positional_encoding, "encoding_module", "max_len", "d_model")
        for encoding in ENCODINGS.values():
            starts(encoding, "d_model", "max_len")
            self.assertEqual(encoding(8).max_len, 5000)
        starts(SortingDataset, "data_path", "max_len", "pad_value")
        starts(ExtrapolationDataset, "data_dir", "target_length", "pad_value")
        starts(create_dataloaders, "data_dir", "batch_size", "num_workers")
        starts(create_extrapolation_loader, "data_dir", "target_length", "batch_size")
