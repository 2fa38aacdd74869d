"""Attention against PyTorch's own, in value and gradient, and its properties."""

import unittest

import torch
from torch import nn
from torch.nn import functional as F

from attention import MultiHeadAttention, create_causal_mask, scaled_dot_product_attention

TOLERANCE = dict(rtol=0, atol=1e-12)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def masks(T, S):
    padding = torch.ones(2, 1, 1, S, dtype=torch.bool)
    padding[1, ..., max(1, S - 2):] = False
    yield "none", None
    yield "padding", padding
    if T == S:
        yield "causal", create_causal_mask(T)
        yield "causal and padding", create_causal_mask(T) & padding


class ScaledDotProductAttention(unittest.TestCase):
    def test_equals_pytorch_in_value_and_gradient(self):
        for T, S, d_k, d_v in [(5, 5, 8, 8), (4, 7, 8, 3), (1, 1, 1, 1), (3, 9, 5, 2), (1, 6, 7, 7)]:
            for name, mask in masks(T, S):
                with self.subTest(T=T, S=S, mask=name):
                    inputs = [random(2, 3, T, d_k, seed=1), random(2, 3, S, d_k, seed=2), random(2, 3, S, d_v, seed=3)]
                    ours = [x.clone().requires_grad_() for x in inputs]
                    theirs = [x.clone().requires_grad_() for x in inputs]
                    output, weights = scaled_dot_product_attention(*ours, mask)
                    expected = F.scaled_dot_product_attention(*theirs, attn_mask=mask)
                    torch.testing.assert_close(output, expected, **TOLERANCE)
                    torch.testing.assert_close(weights @ inputs[2], expected, **TOLERANCE)
                    direction = random(*output.shape, seed=4)
                    output.backward(direction)
                    expected.backward(direction)
                    for mine, reference in zip(ours, theirs):
                        torch.testing.assert_close(mine.grad, reference.grad, **TOLERANCE)

    def test_any_number_of_leading_dimensions(self):
        Q, K, V = random(2, 5, 4), random(2, 6, 4, seed=1), random(2, 6, 4, seed=2)
        flat, _ = scaled_dot_product_attention(Q, K, V)
        deep, _ = scaled_dot_product_attention(Q[:, None, None], K[:, None, None], V[:, None, None])
        torch.testing.assert_close(deep[:, 0, 0], flat, **TOLERANCE)

    def test_weights_sum_to_one_and_masked_keys_get_none(self):
        for dtype in (torch.bool, torch.long, torch.float64):
            mask = create_causal_mask(6).to(dtype)
            _, weights = scaled_dot_product_attention(random(2, 1, 6, 4), random(2, 1, 6, 4, seed=1),
                                                      random(2, 1, 6, 4), mask)
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 6, dtype=torch.float64), **TOLERANCE)
            self.assertEqual(weights.triu(1).abs().max(), 0)

    def test_a_query_without_keys_gives_zero_and_no_nan_in_the_gradient(self):
        Q, K, V = (random(1, 3, 4, seed=seed).requires_grad_() for seed in range(3))
        mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
        output, weights = scaled_dot_product_attention(Q, K, V, mask)
        self.assertEqual(output[0, 1].abs().sum(), 0)
        self.assertEqual(weights[0, 1].abs().sum(), 0)
        self.assertGreater(output[0, 0].abs().sum(), 0)
        output.square().sum().backward()
        self.assertTrue(all(torch.isfinite(x.grad).all() for x in (Q, K, V)))
        self.assertEqual(Q.grad[0, 1].abs().sum(), 0)

    def test_permuting_keys_with_their_values_changes_nothing(self):
        Q, K, V = random(1, 4, 8), random(1, 6, 8, seed=1), random(1, 6, 8, seed=2)
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        torch.testing.assert_close(scaled_dot_product_attention(Q, K[:, order], V[:, order])[0],
                                   scaled_dot_product_attention(Q, K, V)[0], **TOLERANCE)


class MultiHead(unittest.TestCase):
    def reference(self, ours):
        """PyTorch's module with the same weights."""
        theirs = nn.MultiheadAttention(ours.W_q.in_features, ours.num_heads, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.cat([ours.W_q.weight, ours.W_k.weight, ours.W_v.weight]))
            theirs.in_proj_bias.copy_(torch.cat([ours.W_q.bias, ours.W_k.bias, ours.W_v.bias]))
            theirs.out_proj.load_state_dict(ours.W_o.state_dict())
        return theirs

    def test_equals_pytorch_in_value_weights_and_gradient(self):
        for d_model, num_heads, T, S in [(12, 4, 5, 5), (12, 3, 4, 7), (10, 1, 1, 3), (6, 6, 3, 3)]:
            for name, mask in masks(T, S):
                with self.subTest(d_model=d_model, heads=num_heads, T=T, S=S, mask=name):
                    torch.manual_seed(0)
                    ours = MultiHeadAttention(d_model, num_heads).double()
                    theirs = self.reference(ours)
                    query = random(2, T, d_model, seed=1)
                    key, value = random(2, S, d_model, seed=2), random(2, S, d_model, seed=3)
                    blocked = None if mask is None else ~mask.expand(2, num_heads, T, S).reshape(-1, T, S)
                    output, weights = ours(query, key, value, mask)
                    expected, expected_weights = theirs(query, key, value, attn_mask=blocked,
                                                        average_attn_weights=False)
                    torch.testing.assert_close(output, expected, **TOLERANCE)
                    torch.testing.assert_close(weights, expected_weights, **TOLERANCE)
                    direction = random(*output.shape, seed=4)
                    output.backward(direction)
                    expected.backward(direction)
                    gradient = torch.cat([ours.W_q.weight.grad, ours.W_k.weight.grad, ours.W_v.weight.grad])
                    torch.testing.assert_close(gradient, theirs.in_proj_weight.grad, **TOLERANCE)
                    torch.testing.assert_close(ours.W_o.weight.grad, theirs.out_proj.weight.grad, **TOLERANCE)

    def test_combine_heads_inverts_split_heads(self):
        attention = MultiHeadAttention(12, 4)
        x = torch.randn(2, 5, 12)
        self.assertEqual(attention.split_heads(x).shape, (2, 4, 5, 3))
        self.assertTrue(torch.equal(attention.combine_heads(attention.split_heads(x)), x))

    def test_width_that_heads_do_not_divide_is_refused(self):
        for d_model, num_heads in [(10, 4), (4, 8), (0, 1), (8, 0)]:
            with self.assertRaisesRegex(ValueError, "multiple"):
                MultiHeadAttention(d_model, num_heads)


class CausalMask(unittest.TestCase):
    def test_is_lower_triangular(self):
        self.assertEqual(create_causal_mask(3).tolist(),
                         [[[[True, False, False], [True, True, False], [True, True, True]]]])
