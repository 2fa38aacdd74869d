"""Attention against PyTorch's own, in value and gradient, and what it takes for a mask."""

import unittest

import torch
from torch import nn
from torch.nn import functional as F

from attention import MultiHeadAttention, create_causal_mask, scaled_dot_product_attention
from tests.small import TOLERANCE


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def masks(T, S):
    padding = torch.ones(2, 1, 1, S, dtype=torch.bool)
    padding[1, ..., max(1, S - 2) :] = False
    yield "none", None
    yield "padding", padding
    if T == S:
        yield "causal", create_causal_mask(T)
        yield "causal and padding", create_causal_mask(T) & padding


def copy_attention(ours, theirs):
    """Put the weights of our module into PyTorch's."""
    theirs.in_proj_weight.data = torch.cat([ours.W_q.weight, ours.W_k.weight, ours.W_v.weight]).data
    theirs.in_proj_bias.data = torch.cat([ours.W_q.bias, ours.W_k.bias, ours.W_v.bias]).data
    theirs.out_proj.load_state_dict(ours.W_o.state_dict())


class AgainstPyTorch(unittest.TestCase):
    def test_scaled_dot_product_attention_in_value_and_gradient(self):
        for T, S, d_k, d_v in [(5, 5, 8, 8), (4, 7, 8, 3), (1, 1, 1, 1), (3, 9, 5, 2)]:
            for name, mask in masks(T, S):
                with self.subTest(T=T, S=S, mask=name):
                    shapes = (2, 3, T, d_k), (2, 3, S, d_k), (2, 3, S, d_v)
                    inputs = [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
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

    def test_multi_head_attention_in_value_weights_and_gradient(self):
        for d_model, num_heads, T, S in [(12, 4, 5, 5), (12, 3, 4, 7), (10, 1, 1, 3), (6, 6, 3, 3)]:
            for name, mask in masks(T, S):
                with self.subTest(d_model=d_model, heads=num_heads, T=T, S=S, mask=name):
                    torch.manual_seed(0)
                    ours = MultiHeadAttention(d_model, num_heads).double()
                    theirs = nn.MultiheadAttention(
                        d_model, num_heads, batch_first=True, dtype=torch.float64
                    )
                    copy_attention(ours, theirs)
                    query = random(2, T, d_model, seed=1)
                    key, value = random(2, S, d_model, seed=2), random(2, S, d_model, seed=3)
                    blocked = None
                    if mask is not None:
                        blocked = ~mask.expand(2, num_heads, T, S).reshape(-1, T, S)
                    output, weights = ours(query, key, value, mask)
                    expected, expected_weights = theirs(
                        query, key, value, attn_mask=blocked, average_attn_weights=False
                    )
                    torch.testing.assert_close(output, expected, **TOLERANCE)
                    torch.testing.assert_close(weights, expected_weights, **TOLERANCE)
                    direction = random(*output.shape, seed=4)
                    output.backward(direction)
                    expected.backward(direction)
                    projections = ours.W_q, ours.W_k, ours.W_v
                    gradient = torch.cat([linear.weight.grad for linear in projections])
                    torch.testing.assert_close(gradient, theirs.in_proj_weight.grad, **TOLERANCE)
                    torch.testing.assert_close(
                        ours.W_o.weight.grad, theirs.out_proj.weight.grad, **TOLERANCE
                    )


class Properties(unittest.TestCase):
    def test_permuting_keys_with_their_values_changes_nothing(self):
        Q, K, V = random(1, 4, 8), random(1, 6, 8, seed=1), random(1, 6, 8, seed=2)
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        permuted, _ = scaled_dot_product_attention(Q, K[:, order], V[:, order])
        torch.testing.assert_close(permuted, scaled_dot_product_attention(Q, K, V)[0], **TOLERANCE)

    def test_combine_heads_inverts_split_heads(self):
        attention = MultiHeadAttention(12, 4)
        x = torch.randn(2, 5, 12)
        self.assertEqual(attention.split_heads(x).shape, (2, 4, 5, 3))
        self.assertTrue(torch.equal(attention.split_heads(x)[:, 1], x[..., 3:6]))
        self.assertTrue(torch.equal(attention.combine_heads(attention.split_heads(x)), x))

    def test_width_that_heads_do_not_divide_is_refused(self):
        for d_model, num_heads in [(10, 4), (4, 8), (0, 1), (8, 0)]:
            with self.assertRaisesRegex(ValueError, "multiple"):
                MultiHeadAttention(d_model, num_heads)

    def test_the_causal_mask_is_lower_triangular(self):
        rows = [[True, False, False], [True, True, False], [True, True, True]]
        self.assertEqual(create_causal_mask(3).tolist(), [[rows]])


class Masks(unittest.TestCase):
    def attend(self, shape, mask):
        """Output and weights for queries and keys of this shape."""
        Q, K, V = (random(*shape, seed=seed) for seed in range(3))
        return scaled_dot_product_attention(Q, K, V, mask)

    def test_masked_keys_get_no_weight_whatever_the_type_of_the_mask(self):
        for dtype in (torch.bool, torch.long, torch.uint8, torch.float16, torch.float64):
            _, weights = self.attend((2, 1, 6, 4), create_causal_mask(6).to(dtype))
            total = torch.ones(2, 1, 6, dtype=torch.float64)
            torch.testing.assert_close(weights.sum(-1), total, **TOLERANCE)
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

    def test_a_mask_never_enlarges_the_scores(self):
        for shape, mask in [
            ((1, 4, 8), (3, 4, 4)),
            ((2, 4, 8), (3, 1, 4, 4)),
            ((2, 1, 8), (5, 1)),
            ((2, 3, 4, 8), (1, 2, 3, 4, 5)),
            ((2, 4, 8), (4, 5)),
            ((2, 4, 8), (2, 2, 4, 4)),
        ]:
            scores = (*shape[:-1], shape[-2])
            with self.assertRaises(ValueError) as raised:
                self.attend(shape, torch.ones(mask))
            self.assertIn(f"{mask} does not fit scores {scores}", str(raised.exception))
        Q, K = random(2, 1, 8), random(2, 5, 8)
        with self.assertRaisesRegex(ValueError, "does not fit"):
            scaled_dot_product_attention(Q, K, K, torch.ones(5, 5))

    def test_leading_dimensions_of_one_are_dropped(self):
        causal = create_causal_mask(4)
        output, weights = self.attend((2, 4, 8), causal)
        self.assertEqual((output.shape, weights.shape), ((2, 4, 8), (2, 4, 4)))
        expected, _ = self.attend((2, 4, 8), causal[0, 0])
        torch.testing.assert_close(output, expected, **TOLERANCE)

    def test_masks_of_other_conventions_are_refused(self):
        additive = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1) == 1, float("-inf"))
        for mask in (
            additive,
            torch.full((4, 4), -1e9),
            2 * torch.ones(4, 4),
            torch.ones(4, 4) / 2,
        ):
            with self.assertRaisesRegex(ValueError, "1 .attend. and 0 .masked. alone"):
                self.attend((2, 4, 8), mask)
        with self.assertRaisesRegex(ValueError, "a dimension for queries and one for keys"):
            self.attend((2, 4, 8), torch.ones(4))

    def test_three_dimensions_hold_for_every_head(self):
        attention, x = MultiHeadAttention(8, 2).double(), random(2, 5, 8)
        mask = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.7
        per_head = mask.unsqueeze(1).expand(2, 2, 5, 5)
        torch.testing.assert_close(
            attention(x, x, x, mask)[1], attention(x, x, x, per_head)[1], **TOLERANCE
        )
