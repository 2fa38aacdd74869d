"""The model against PyTorch's own layers, and what decoding, masks, hooks and training rely on."""

import importlib
import inspect
import math
import unittest
import warnings

import torch
from torch import nn

from attention import MultiHeadAttention, create_causal_mask
from dataset import PAD_TOKEN, START_TOKEN, VOCAB_SIZE, encode_problems, padding_mask, shift_right
from model import (
    DecoderLayer,
    EncoderLayer,
    PositionalEncoding,
    evaluating,
)
from tests.small import TOLERANCE, digits, small_model
from tests.test_attention import copy_attention

CONTRACT = """
    attention.scaled_dot_product_attention(Q, K, V, mask=None)
    attention.MultiHeadAttention(d_model, num_heads)
    attention.MultiHeadAttention.forward(self, query, key, value, mask=None)
    attention.create_causal_mask(seq_len, device=None)
    model.PositionalEncoding(d_model, max_len=5000)
    model.FeedForward(d_model, d_ff, dropout=0.1)
    model.EncoderLayer(d_model, num_heads, d_ff, dropout=0.1)
    model.EncoderLayer.forward(self, x, mask=None)
    model.DecoderLayer(d_model, num_heads, d_ff, dropout=0.1)
    model.DecoderLayer.forward(self, x, encoder_output, src_mask=None, tgt_mask=None)
    model.Seq2SeqTransformer(vocab_size, d_model=128, num_heads=4, num_encoder_layers=2,
        num_decoder_layers=2, d_ff=512, dropout=0.1, max_len=100)
    model.Seq2SeqTransformer.encode(self, src, src_mask=None)
    model.Seq2SeqTransformer.decode(self, tgt, encoder_output, src_mask=None, tgt_mask=None)
    model.Seq2SeqTransformer.forward(self, src, tgt, src_mask=None, tgt_mask=None)
    model.Seq2SeqTransformer.generate(self, src, max_len=20, start_token=12)
    dataset.AdditionDataset(data_path, pad_token=11)
    dataset.collate_fn(batch)
    dataset.create_dataloaders(data_dir, batch_size=32, num_workers=0)
    dataset.get_vocab_size(num_digits=3)
    generate_data.generate_dataset(num_samples, num_digits, seed=None)
"""


def a_model(**sizes):
    return small_model(**{"d_model": 24, "num_heads": 3, "d_ff": 40} | sizes).double()


def problems():
    return encode_problems(digits(123, 999, 657), digits(456, 999, 348))


class AgainstPyTorch(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        options = {"batch_first": True, "norm_first": True, "dtype": torch.float64}
        self.encoder = nn.TransformerEncoderLayer(24, 3, 40, 0.0, **options)
        self.decoder = nn.TransformerDecoderLayer(24, 3, 40, 0.0, **options)
        self.x = torch.randn(2, 4, 24, dtype=torch.float64)
        self.memory = torch.randn(2, 7, 24, dtype=torch.float64)

    def copy(self, ours, theirs):
        copy_attention(ours.self_attn, theirs.self_attn)
        theirs.linear1.load_state_dict(ours.feed_forward.linear1.state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward.linear2.state_dict())

    def test_encoder_layer(self):
        ours = EncoderLayer(24, 3, 40, 0.0).double()
        self.copy(ours, self.encoder)
        real = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
        expected = self.encoder(self.x, src_key_padding_mask=~real)
        torch.testing.assert_close(ours(self.x, real[:, None, None]), expected, **TOLERANCE)

    def test_decoder_layer(self):
        ours = DecoderLayer(24, 3, 40, 0.0).double()
        self.copy(ours, self.decoder)
        copy_attention(ours.cross_attn, self.decoder.multihead_attn)
        causal, real = create_causal_mask(4), torch.ones(2, 7, dtype=torch.bool)
        real[1, 5:] = False
        expected = self.decoder(
            self.x, self.memory, tgt_mask=~causal[0, 0], memory_key_padding_mask=~real
        )
        output = ours(self.x, self.memory, real[:, None, None], causal)
        torch.testing.assert_close(output, expected, **TOLERANCE)


class Parts(unittest.TestCase):
    def test_signatures_are_those_of_the_course(self):
        for line in CONTRACT.replace(",\n", ",").split("\n")[1:-1]:
            name, wanted = line.strip().removesuffix(")").split("(")
            module, *path = name.split(".")
            function = importlib.import_module(module)
            for part in path:
                function = getattr(function, part)
            given = str(inspect.signature(function))[1:-1].replace(" ", "").split(",")
            wanted = wanted.replace(" ", "").split(",")
            self.assertEqual(given[: len(wanted)], wanted, name)

    def test_positional_encoding_is_the_formula(self):
        table = PositionalEncoding(6, 11)(torch.zeros(1, 11, 6))
        for pos in range(11):
            for i in range(3):
                angle = pos / 10000 ** (2 * i / 6)
                self.assertAlmostEqual(table[0, pos, 2 * i].item(), math.sin(angle), places=5)
                self.assertAlmostEqual(table[0, pos, 2 * i + 1].item(), math.cos(angle), places=5)

    def test_positional_encoding_of_odd_width_and_past_its_end(self):
        with self.assertRaisesRegex(ValueError, "5 tokens do not fit max_len = 4"):
            PositionalEncoding(5, 4)(torch.zeros(1, 5, 5))


class WholeModel(unittest.TestCase):
    def setUp(self):
        self.model, (self.source, target) = a_model(), problems()
        self.given = shift_right(target)

    def test_a_later_target_token_leaves_earlier_logits_as_they_were(self):
        before = self.model(self.source, self.given)
        for position in range(1, 4):
            changed = self.given.clone()
            changed[:, position] = (changed[:, position] + 1) % 10
            after = self.model(self.source, changed)
            torch.testing.assert_close(after[:, :position], before[:, :position], **TOLERANCE)
            self.assertGreater((after[:, position:] - before[:, position:]).abs().max(), 1e-3)

    def test_every_source_token_matters(self):
        before = self.model(self.source, self.given)
        for position in (0, 1, 2, 4, 5, 6):
            changed = self.source.clone()
            changed[:, position] = (changed[:, position] + 1) % 10
            self.assertGreater((self.model(changed, self.given) - before).abs().max(), 1e-4)

    def test_padding_changes_nothing(self):
        padded = torch.cat([self.source, torch.full((3, 4), PAD_TOKEN)], dim=1)
        mask = padding_mask(padded)
        expected = self.model(self.source, self.given)
        torch.testing.assert_close(self.model(padded, self.given, mask), expected, **TOLERANCE)
        answers = self.model.generate(padded, 4, src_mask=mask)
        self.assertTrue(torch.equal(answers, self.model.generate(self.source, 4)))
        self.assertGreater((self.model(padded, self.given) - expected).abs().max(), 1e-4)

    def test_a_mask_of_source_tokens_is_one_of_keys_in_any_form(self):
        """Seven problems of seven tokens: a `[B, S]` mask must not be read as `[T, S]`."""
        source, target = encode_problems(digits(*range(100, 107)), digits(*range(200, 207)))
        mask = torch.rand(7, 7, generator=torch.Generator().manual_seed(0)) < 0.6
        mask[:, 0] = True
        given = shift_right(target)
        expected = self.model(source, given, mask[:, None, None])
        for form in (mask, mask.long(), mask.double(), mask[:, None]):
            torch.testing.assert_close(self.model(source, given, form), expected, **TOLERANCE)
        alone = self.model(source[2:3], given[2:3], mask[2:3])
        torch.testing.assert_close(alone, expected[2:3], **TOLERANCE)

    def test_a_target_mask_of_two_dimensions_is_one_of_queries_and_keys(self):
        expected = self.model(self.source, self.given)
        causal = create_causal_mask(4)
        for mask in (causal, causal[0, 0], causal[0].long()):
            output = self.model(self.source, self.given, None, mask)
            torch.testing.assert_close(output, expected, **TOLERANCE)

    def test_masks_that_do_not_fit_or_are_additive_are_refused(self):
        additive = torch.zeros(4, 4).masked_fill(~create_causal_mask(4)[0, 0], float("-inf"))
        for masks, words in [
            ((None, additive), "1 .attend. and 0 .masked. alone"),
            ((None, torch.ones(5, 5)), "does not fit"),
            ((torch.ones(2, 7), None), "does not fit"),
            ((torch.ones(3, 6), None), "does not fit"),
            ((torch.ones(7), None), "a dimension for queries"),
        ]:
            with self.assertRaisesRegex(ValueError, words):
                self.model(self.source, self.given, *masks)

    def test_batch_of_one_and_length_one(self):
        logits = self.model(torch.tensor([[3]]), torch.tensor([[START_TOKEN]]))
        self.assertEqual(logits.shape, (1, 1, VOCAB_SIZE))
        self.assertTrue(torch.isfinite(logits).all())

    def test_special_tokens_are_not_digits(self):
        self.assertEqual(len({*range(10), 10, PAD_TOKEN, START_TOKEN}), VOCAB_SIZE)


class Generate(unittest.TestCase):
    def setUp(self):
        self.model, (self.source, _) = a_model(), problems()

    def test_is_greedy_from_the_start_token(self):
        tokens = torch.full((3, 1), START_TOKEN)
        for _ in range(6):
            logits = self.model(self.source, tokens)
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        self.assertTrue(torch.equal(self.model.generate(self.source, 6), tokens[:, 1:]))
        self.assertEqual(self.model.generate(self.source, 0).shape, (3, 0))

    def test_is_done_in_evaluation_mode_which_is_given_back(self):
        model = a_model(dropout=0.5)
        expected = model.generate(self.source, 6)
        model.train()
        model.encoder_layers.eval()
        for _ in range(3):
            self.assertTrue(torch.equal(model.generate(self.source, 6), expected))
        modes = model.training, model.encoder_layers[0].training, model.decoder_layers[0].training
        self.assertEqual(modes, (True, False, True))
        with self.assertRaises(ZeroDivisionError), evaluating(model):
            self.assertFalse(any(module.training for module in model.modules()))
            raise ZeroDivisionError
        self.assertEqual((model.training, model.encoder_layers[0].training), (True, False))

    def test_another_start_token_is_warned_of(self):
        for token in (0, 9, PAD_TOKEN):
            with self.assertWarnsRegex(UserWarning, f"starts from token {token}, .* from 12"):
                self.model.generate(self.source, 2, start_token=token)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.model.generate(self.source, 2, start_token=START_TOKEN)


class Hooks(unittest.TestCase):
    """Every attention is reached through `forward`, so that PyTorch's hooks fire."""

    def setUp(self):
        self.model, (self.source, self.target) = a_model(), problems()

    def hooked(self):
        """Hook all attentions; the lists get the queries and weights that the hooks see."""
        seen = {}
        for name, module in self.model.named_modules():
            if isinstance(module, MultiHeadAttention):
                seen[name] = queries, weights = [], []
                module.register_forward_pre_hook(
                    lambda _, arguments, queries=queries: queries.append(arguments[0].shape)
                )
                module.register_forward_hook(
                    lambda _, __, output, weights=weights: weights.append(output[1].shape)
                )
        self.assertEqual(len(seen), 6)
        return seen

    def test_in_decoding_once_a_token(self):
        seen = self.hooked()
        self.model.generate(self.source, 4)
        for name, (queries, weights) in seen.items():
            lengths = [7] if "encoder" in name else [1, 2, 3, 4]  # it decodes from the start
            self.assertEqual(queries, [(3, T, 24) for T in lengths])
            keys = [T if name.endswith("self_attn") else 7 for T in lengths]
            self.assertEqual(weights, [(3, 3, T, S) for T, S in zip(lengths, keys)], name)

    def test_a_hook_on_the_output_matrix_can_change_what_a_head_says(self):
        before = self.model.generate(self.source, 6)
        for layer in self.model.decoder_layers:
            layer.cross_attn.W_o.register_forward_pre_hook(
                lambda _, inputs: (100 * inputs[0].roll(1, dims=0),)
            )
        self.assertFalse(torch.equal(self.model.generate(self.source, 6), before))
