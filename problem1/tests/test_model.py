"""The model against PyTorch's own layers, and the properties that decoding and training rely on."""

import inspect
import math
import unittest

import torch
from torch import nn

from attention import MultiHeadAttention, create_causal_mask, scaled_dot_product_attention
from dataset import (PAD_TOKEN, START_TOKEN, VOCAB_SIZE, AdditionDataset, create_dataloaders, encode_problems,
                     padding_mask, shift_right)
from model import ORDERS, DecoderCache, DecoderLayer, EncoderLayer, FeedForward, PositionalEncoding, Seq2SeqTransformer
from positions.columns import ColumnBias, digits, source_columns
from positions.learned import LearnedPositions

TOLERANCE = dict(rtol=0, atol=1e-12)


def small_model(**changes):
    torch.manual_seed(0)
    return Seq2SeqTransformer(VOCAB_SIZE, **{"d_model": 24, "num_heads": 3, "d_ff": 40, "dropout": 0.0,
                                             **changes}).double().eval()


def problems():
    source, target = encode_problems(torch.tensor([123, 999, 657]), torch.tensor([456, 999, 348]), 3)
    return source, target


def copy_attention(ours, theirs):
    theirs.in_proj_weight.data = torch.cat([ours.W_q.weight, ours.W_k.weight, ours.W_v.weight]).data
    theirs.in_proj_bias.data = torch.cat([ours.W_q.bias, ours.W_k.bias, ours.W_v.bias]).data
    theirs.out_proj.load_state_dict(ours.W_o.state_dict())


class AgainstPyTorch(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.options = dict(dropout=0.0, batch_first=True, norm_first=True, dtype=torch.float64)
        self.x, self.memory = torch.randn(2, 4, 24, dtype=torch.float64), torch.randn(2, 7, 24, dtype=torch.float64)

    def copy_rest(self, ours, theirs):
        theirs.linear1.load_state_dict(ours.feed_forward.linear1.state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward.linear2.state_dict())

    def test_encoder_layer(self):
        ours, theirs = EncoderLayer(24, 3, 40, 0.0).double(), nn.TransformerEncoderLayer(24, 3, 40, **self.options)
        copy_attention(ours.self_attn, theirs.self_attn)
        self.copy_rest(ours, theirs)
        padding = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
        torch.testing.assert_close(ours(self.x, padding[:, None, None]), theirs(self.x, src_key_padding_mask=~padding),
                                   **TOLERANCE)

    def test_decoder_layer(self):
        ours, theirs = DecoderLayer(24, 3, 40, 0.0).double(), nn.TransformerDecoderLayer(24, 3, 40, **self.options)
        copy_attention(ours.self_attn, theirs.self_attn)
        copy_attention(ours.cross_attn, theirs.multihead_attn)
        self.copy_rest(ours, theirs)
        causal = create_causal_mask(4)
        torch.testing.assert_close(ours(self.x, self.memory, None, causal),
                                   theirs(self.x, self.memory, tgt_mask=~causal[0, 0]),
                                   **TOLERANCE)


class Parts(unittest.TestCase):
    def test_positional_encoding_is_the_formula(self):
        table = PositionalEncoding(6, 11)(torch.zeros(1, 11, 6))
        for pos in range(11):
            for i in range(3):
                angle = pos / 10000 ** (2 * i / 6)
                self.assertAlmostEqual(table[0, pos, 2 * i].item(), math.sin(angle), places=5)
                self.assertAlmostEqual(table[0, pos, 2 * i + 1].item(), math.cos(angle), places=5)

    def test_positional_encoding_of_odd_width_and_past_its_end(self):
        self.assertEqual(PositionalEncoding(5, 4)(torch.zeros(2, 4, 5)).shape, (2, 4, 5))
        with self.assertRaisesRegex(ValueError, "max_len"):
            PositionalEncoding(6, 4)(torch.zeros(1, 5, 6))

    def test_learned_positions_are_the_rows(self):
        positions = LearnedPositions(4, 5)
        x = torch.randn(2, 3, 4)
        self.assertTrue(torch.equal(positions(x, 2), x + positions.rows[2:5]))
        with self.assertRaisesRegex(ValueError, "max_len"):
            positions(x, 3)
        before = small_model(positions="learned")(*problems())
        self.assertGreater((before - small_model(positions="columns")(*problems())).abs().max(), 1e-4)

    def test_feed_forward_acts_on_each_position_alone(self):
        torch.manual_seed(0)
        layer, x = FeedForward(8, 16).eval(), torch.randn(2, 5, 8)
        torch.testing.assert_close(layer(x)[:, 2:3], layer(x[:, 2:3]))

    def test_signatures_are_those_of_the_course(self):
        def starts(function, *names):
            self.assertEqual(list(inspect.signature(function).parameters)[:len(names)], list(names))
        starts(Seq2SeqTransformer, "vocab_size", "d_model", "num_heads", "num_encoder_layers", "num_decoder_layers",
               "d_ff", "dropout", "max_len")
        starts(Seq2SeqTransformer.forward, "self", "src", "tgt", "src_mask", "tgt_mask")
        starts(Seq2SeqTransformer.encode, "self", "src", "src_mask")
        starts(Seq2SeqTransformer.decode, "self", "tgt", "encoder_output", "src_mask", "tgt_mask")
        starts(Seq2SeqTransformer.generate, "self", "src", "max_len", "start_token")
        starts(DecoderLayer.forward, "self", "x", "encoder_output", "src_mask", "tgt_mask")
        starts(EncoderLayer.forward, "self", "x", "mask")
        starts(MultiHeadAttention.forward, "self", "query", "key", "value", "mask")
        starts(scaled_dot_product_attention, "Q", "K", "V", "mask")
        starts(create_causal_mask, "seq_len", "device")
        starts(AdditionDataset, "data_path", "pad_token")
        starts(create_dataloaders, "data_dir", "batch_size", "num_workers")
        starts(PositionalEncoding, "d_model", "max_len")
        starts(FeedForward, "d_model", "d_ff", "dropout")
        self.assertEqual(inspect.signature(Seq2SeqTransformer.generate).parameters["max_len"].default, 20)
        defaults = {name: p.default for name, p in inspect.signature(Seq2SeqTransformer).parameters.items()}
        self.assertEqual(list(defaults.values())[1:], [128, 4, 2, 2, 512, 0.1, 100, "left-to-right", "sinusoidal"])


def column_model(order, **changes):
    """A small model whose places are columns, with biases that matter."""
    model = small_model(positions="columns", order=order, **changes)
    for parameter in model.columns.parameters():
        nn.init.normal_(parameter)
    return model


class Columns(unittest.TestCase):
    def test_columns_of_sources_of_several_lengths(self):
        n = digits(torch.zeros(2, 7, 4), torch.tensor([[1] * 7, [1] * 5 + [0] * 2])[:, None, None])
        self.assertEqual(n.tolist(), [[3], [2]])
        self.assertEqual(source_columns(7, n)[0].tolist(), [2, 1, 0, 2, 2, 1, 0])
        self.assertEqual(source_columns(7, n)[1, :5].tolist(), [1, 0, 1, 1, 0])
        self.assertEqual(digits(torch.zeros(2, 7, 4), None).tolist(), [[3]])

    def test_a_bias_is_the_weight_of_the_clipped_distance(self):
        bias = ColumnBias(2)
        bias.weights.data = torch.arange(14.0).view(2, 7)
        scores = bias(torch.tensor([[0, 2]]), torch.tensor([[2, 1, 0, 9]]))
        self.assertEqual((scores / bias.GAIN)[0, 1].tolist(), [[12, 11, 10, 13], [10, 9, 8, 13]])

    def test_padding_changes_nothing_and_cached_decoding_equals_decoding_at_once(self):
        source, target = problems()
        for order in ORDERS:
            model = column_model(order)
            padded = torch.cat([source, torch.full((3, 4), PAD_TOKEN)], dim=1)
            mask = padding_mask(padded)
            written = shift_right(model.written(target))
            torch.testing.assert_close(model(padded, written, mask), model(source, written), **TOLERANCE)
            self.assertTrue(torch.equal(model.generate(padded, 4, src_mask=mask), model.generate(source, 4)))
            memory, caches = model.encode(source), [DecoderCache() for _ in model.decoder_layers]
            stepwise = torch.cat([model.decode(written[:, t:t + 1], memory, caches=caches) for t in range(4)], dim=1)
            torch.testing.assert_close(stepwise, model.decode(written, memory), **TOLERANCE)

    def test_numbers_of_several_lengths_in_one_batch_are_read_as_each_alone(self):
        model, short = column_model("left-to-right"), torch.tensor([[1, 2, 10, 3, 4]])
        batch = torch.cat([problems()[0][:1], nn.functional.pad(short, (0, 2), value=PAD_TOKEN)])
        alone = model.encode(short)
        torch.testing.assert_close(model.encode(batch, padding_mask(batch))[1:, :5], alone, **TOLERANCE)

    def test_the_operands_can_change_places_digit_by_digit(self):
        source, target = problems()
        swapped = source.clone()
        swapped[:, 1], swapped[:, 5] = source[:, 5], source[:, 1]
        for order in ORDERS:
            model = column_model(order)
            torch.testing.assert_close(model(swapped, target), model(source, target), **TOLERANCE)
        self.assertGreater((small_model()(swapped, target) - small_model()(source, target)).abs().max(), 1e-4)

    def test_the_units_of_a_longer_number_are_answered_by_the_columns_around_them(self):
        """What is farther off than REACH is shut out here; then the number of columns makes no difference."""
        model = column_model("right-to-left", num_encoder_layers=1, num_decoder_layers=1)
        for biases in (model.columns.encoder, model.columns.decoder, model.columns.cross):
            biases[0].weights.data[:, [0, -1]] = -1e9
        a, b = torch.tensor([12345678, 98765432]), torch.tensor([11111111, 22222222])
        long, short = (encode_problems(a % 10 ** n, b % 10 ** n, n)[0] for n in (8, 7))
        start = torch.full((2, 1), START_TOKEN)
        torch.testing.assert_close(model(long, start), model(short, start), **TOLERANCE)


class Hooks(unittest.TestCase):
    """Every attention is reached through `forward`, so that PyTorch's hooks fire."""

    def hooked(self, model):
        """Hook and pre-hook all attentions; returns the lists of what they will see: `(queries, weights)`, by
        attention."""
        seen = {}
        for name, module in model.named_modules():
            if isinstance(module, MultiHeadAttention):
                seen[name] = queries, weights = [], []
                module.register_forward_pre_hook(lambda module, arguments,
                                                 queries=queries: queries.append(arguments[0].shape))
                module.register_forward_hook(lambda module, arguments, output,
                                             weights=weights: weights.append(output[1].shape))
        self.assertEqual(len(seen), 6)
        return seen

    def test_in_a_full_pass(self):
        model, (source, target) = small_model(), problems()
        seen = self.hooked(model)
        model(source, shift_right(target))
        for name, (queries, weights) in seen.items():
            T, S = (7 if "encoder" in name else 4), (4 if "decoder" in name and "self" in name else 7)
            self.assertEqual((queries, weights), ([(3, T, 24)], [(3, 3, T, S)]), name)

    def test_in_decoding_once_a_token(self):
        model, (source, _) = small_model(), problems()
        seen = self.hooked(model)
        model.generate(source, 4)
        for name, (queries, weights) in seen.items():
            if "encoder" in name:
                self.assertEqual(weights, [(3, 3, 7, 7)])
            else:
                self.assertEqual(queries, [(3, 1, 24)] * 4)
                self.assertEqual(weights, [(3, 3, 1, 7 if "cross" in name else t + 1) for t in range(4)], name)

    def test_a_hook_can_change_what_a_head_says_while_decoding(self):
        model, (source, _) = small_model(), problems()
        before = model.generate(source, 6)
        for layer in model.decoder_layers:
            layer.cross_attn.W_o.register_forward_pre_hook(lambda module, inputs: (100 * inputs[0].roll(1, dims=0),))
        self.assertFalse(torch.equal(model.generate(source, 6), before))


class WholeModel(unittest.TestCase):
    def test_a_later_target_token_leaves_earlier_logits_as_they_were(self):
        model, (source, target) = small_model(), problems()
        before = model(source, shift_right(target))
        for position in range(1, 4):
            changed = shift_right(target)
            changed[:, position] = (changed[:, position] + 1) % 10
            after = model(source, changed)
            torch.testing.assert_close(after[:, :position], before[:, :position], **TOLERANCE)
            self.assertGreater((after[:, position:] - before[:, position:]).abs().max(), 1e-3)

    def test_every_source_token_matters(self):
        model, (source, target) = small_model(), problems()
        before = model(source, shift_right(target))
        for position in (0, 1, 2, 4, 5, 6):
            changed = source.clone()
            changed[:, position] = (changed[:, position] + 1) % 10
            self.assertGreater((model(changed, shift_right(target)) - before).abs().max(), 1e-4)

    def test_padding_changes_nothing(self):
        model, (source, target) = small_model(), problems()
        padded = torch.cat([source, torch.full((3, 4), PAD_TOKEN)], dim=1)
        mask = padding_mask(padded)
        torch.testing.assert_close(model(padded, shift_right(target), mask), model(source, shift_right(target)),
                                   **TOLERANCE)
        self.assertTrue(torch.equal(model.generate(padded, 4, src_mask=mask), model.generate(source, 4)))
        self.assertGreater((model(padded, shift_right(target)) - model(source, shift_right(target))).abs().max(), 1e-4)

    def test_cached_decoding_equals_decoding_without_a_cache(self):
        model, (source, _) = small_model(), problems()
        tokens = torch.full((3, 1), START_TOKEN)
        for _ in range(6):
            logits = model(source, tokens)
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        self.assertTrue(torch.equal(model.generate(source, 6), tokens[:, 1:]))

    def test_cached_hidden_states_equal_those_without_a_cache(self):
        model, (source, target) = small_model(), problems()
        memory, inputs = model.encode(source), shift_right(target)
        caches = [DecoderCache() for _ in model.decoder_layers]
        stepwise = torch.cat([model.decode(inputs[:, t:t + 1], memory, caches=caches) for t in range(4)], dim=1)
        torch.testing.assert_close(stepwise, model.decode(inputs, memory), **TOLERANCE)

    def test_caches_take_one_token_at_a_time(self):
        model, (source, target) = small_model(), problems()
        with self.assertRaisesRegex(ValueError, "one at a time"):
            model.decode(target, model.encode(source), caches=[DecoderCache() for _ in model.decoder_layers])

    def test_an_answer_written_right_to_left_is_the_same_one_reversed(self):
        source, target = problems()
        forward, backward = small_model(), small_model(order="right-to-left")
        self.assertTrue(torch.equal(forward.generate(source, 6).flip(1), backward.generate(source, 6)))
        self.assertFalse(torch.equal(forward.generate(source, 6), backward.generate(source, 6)))
        with self.assertRaisesRegex(ValueError, "left-to-right, right-to-left"):
            small_model(order="inside-out")

    def test_targets_in_the_order_of_writing(self):
        target = torch.tensor([[0, 5, 0, 6], [0, 3, PAD_TOKEN, PAD_TOKEN]])
        backward = small_model(order="right-to-left")
        self.assertTrue(torch.equal(small_model().written(target), target))
        self.assertEqual(backward.written(target).tolist(), [[6, 0, 5, 0], [3, 0, PAD_TOKEN, PAD_TOKEN]])
        self.assertTrue(torch.equal(backward.written(backward.written(target)), target))

    def test_generating_nothing(self):
        self.assertEqual(small_model().generate(problems()[0], 0).shape, (3, 0))

    def test_batch_of_one_and_length_one(self):
        logits = small_model()(torch.tensor([[3]]), torch.tensor([[START_TOKEN]]))
        self.assertEqual(logits.shape, (1, 1, VOCAB_SIZE))
        self.assertTrue(torch.isfinite(logits).all())

    def test_special_tokens_are_not_digits(self):
        self.assertEqual(len({*range(10), 10, PAD_TOKEN, START_TOKEN}), VOCAB_SIZE)
