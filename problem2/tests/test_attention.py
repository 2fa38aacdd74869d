"""Attention and its masks, against PyTorch's own."""

import math
import unittest

import torch
from torch import nn
from torch.nn import functional as F

from model import (
    MultiHeadAttention,
    SortingClassifier,
    TransformerEncoderLayer,
    scaled_dot_product_attention,
)
from positional_encoding import PositionalEncoding
from tests.small import EXACT, random


def copy_layer(ours, theirs):
    """Give `nn.TransformerEncoderLayer` the weights of our layer."""
    attention = ours.self_attn
    projections = attention.W_q, attention.W_k, attention.W_v
    theirs.self_attn.in_proj_weight.data = torch.cat([each.weight for each in projections]).data
    theirs.self_attn.in_proj_bias.data = torch.cat([each.bias for each in projections]).data
    theirs.self_attn.out_proj.load_state_dict(attention.W_o.state_dict())
    for name in ("linear1", "linear2", "norm1", "norm2"):
        getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())


class Attention(unittest.TestCase):
    def test_equals_pytorch_in_value_and_gradient(self):
        padding = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None]  # [2, 1, 1, 7]
        bias = random(1, 3, 4, 7, seed=9)
        for mask, given in [(None, None), (padding, None), (None, bias), (padding, bias)]:
            shapes = (2, 3, 4, 8), (2, 3, 7, 8), (2, 3, 7, 5)
            inputs = [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
            ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
            output, weights = scaled_dot_product_attention(*ours, mask, given)
            added = torch.zeros(2, 3, 4, 7, dtype=torch.float64) + (0 if given is None else given)
            if mask is not None:
                added = added.masked_fill(~mask, -math.inf)
            expected = F.scaled_dot_product_attention(*theirs, added)
            torch.testing.assert_close(output, expected, **EXACT)
            torch.testing.assert_close(weights @ inputs[2], expected, **EXACT)
            output.square().sum().backward()
            expected.square().sum().backward()
            for mine, reference in zip(ours, theirs):
                torch.testing.assert_close(mine.grad, reference.grad, **EXACT)

    def test_module_equals_pytorch(self):
        layer = TransformerEncoderLayer(24, 3, 40).double()
        theirs = nn.TransformerEncoderLayer(24, 3, 40, 0.0, batch_first=True).double()
        copy_layer(layer, theirs)
        x, memory = random(2, 5, 24), random(2, 7, 24, seed=1)
        mask = torch.arange(7) < torch.tensor([[7], [4]])
        output, weights = layer.self_attn(x, memory, memory, mask[:, None, None])
        expected = theirs.self_attn(
            x, memory, memory, key_padding_mask=~mask, average_attn_weights=False
        )
        torch.testing.assert_close(output, expected[0], **EXACT)
        torch.testing.assert_close(weights, expected[1], **EXACT)

    def test_layer_equals_pytorch(self):
        torch.manual_seed(0)
        ours = TransformerEncoderLayer(24, 3, 40, 0.0).double()
        options = {"batch_first": True, "norm_first": True}
        theirs = nn.TransformerEncoderLayer(24, 3, 40, 0.0, **options).double()
        copy_layer(ours, theirs)
        x, real = random(2, 5, 24), torch.arange(5) < torch.tensor([[5], [3]])
        torch.testing.assert_close(ours(x), theirs(x), **EXACT)
        expected = theirs(x, src_key_padding_mask=~real)
        torch.testing.assert_close(ours(x, real[:, None, None]), expected, **EXACT)

    def test_a_query_without_keys_gives_zeros_and_a_finite_gradient(self):
        Q, K, V = (random(1, 3, 4, seed=seed).requires_grad_() for seed in range(3))
        mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
        output, weights = scaled_dot_product_attention(Q, K, V, mask)
        self.assertEqual((output[0, 1].abs().sum(), weights[0, 1].abs().sum()), (0, 0))
        self.assertGreater(output[0, 0].abs().sum(), 0)
        output.square().sum().backward()
        self.assertTrue(all(torch.isfinite(x.grad).all() for x in (Q, K, V)))

    def test_scores_are_those_that_forward_uses(self):
        attention, x = MultiHeadAttention(24, 3).double(), random(2, 5, 24)
        weights = attention.scores(x, x).softmax(dim=-1)
        torch.testing.assert_close(attention(x, x, x)[1], weights, **EXACT)

    def test_an_encoding_can_rotate_and_bias_even_if_its_length_is_zero(self):
        class Both(PositionalEncoding):
            def __len__(self):
                return 0

            def rotate(self, Q, K):
                return 2 * Q, 3 * K

            def bias(self, Q):
                return -torch.arange(Q.size(2), dtype=torch.float64)

        attention, x = MultiHeadAttention(24, 3).double(), random(2, 5, 24)
        expected = (6 * attention.scores(x, x) - torch.arange(5)).softmax(dim=-1)
        weights = attention(x, x, x, positions=Both(24))[1]
        torch.testing.assert_close(weights, expected, **EXACT)

    def test_width_that_heads_do_not_divide_is_refused(self):
        for d_model, num_heads in [(10, 4), (4, 8), (0, 1), (8, 0)]:
            with self.assertRaisesRegex(ValueError, "must be a multiple"):
                SortingClassifier(d_model=d_model, num_heads=num_heads)


class Masks(unittest.TestCase):
    def attend(self, q_shape, k_shape, mask):
        Q, K = random(*q_shape), random(*k_shape, seed=1)
        return Q, K, scaled_dot_product_attention(Q, K, K, mask)

    def test_a_mask_is_broadcast_to_the_scores(self):
        causal = torch.ones(4, 4).tril()
        for mask in (causal, causal.bool(), causal.long(), causal.view(1, 1, 4, 4), causal[None]):
            Q, K, (output, weights) = self.attend((2, 4, 8), (2, 4, 8), mask)
            self.assertEqual((output.shape, weights.shape), ((2, 4, 8), (2, 4, 4)))
            expected = F.scaled_dot_product_attention(Q, K, K, causal.bool())
            torch.testing.assert_close(output, expected, **EXACT)

    def test_a_mask_never_enlarges_the_scores(self):
        for q_shape, k_shape, shape in [
            ((2, 1, 8), (2, 5, 8), (5, 5)),
            ((1, 4, 8), (1, 4, 8), (3, 4, 4)),
            ((2, 4, 8), (2, 4, 8), (2, 1, 4, 4)),
            ((2, 4, 8), (2, 4, 8), (4, 5)),
            ((1, 1, 4, 8), (1, 1, 4, 8), (1, 3, 4, 4)),
        ]:
            scores = (*q_shape[:-1], k_shape[-2])
            words = f"mask {shape} does not fit {scores}".replace("(", r"\(").replace(")", r"\)")
            with self.subTest(words), self.assertRaisesRegex(ValueError, words):
                self.attend(q_shape, k_shape, torch.ones(shape))

    def test_three_dimensions_hold_for_every_head(self):
        attention, x = MultiHeadAttention(24, 3).double(), random(3, 5, 24)
        mask = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.7
        weights = attention(x, x, x, mask)[1]  # as many sequences as heads: B, not H
        torch.testing.assert_close(weights, attention(x, x, x, mask[:, None])[1], **EXACT)
        self.assertTrue((weights[~mask[:, None].expand(3, 3, 5, 5)] == 0).all())

    def test_masks_of_other_kinds_are_refused(self):
        additive = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -math.inf)
        for mask in (additive, torch.full((4, 4), 0.5), torch.full((4, 4), 2)):
            with self.assertRaisesRegex(ValueError, "1 .attend. and 0 .masked. alone"):
                self.attend((2, 4, 8), (2, 4, 8), mask)
        with self.assertRaisesRegex(ValueError, "at least two dimensions"):
            self.attend((2, 4, 8), (2, 4, 8), torch.ones(4))
