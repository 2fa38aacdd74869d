"""The encodings beside the required three, poolings and scaling: against slow loops, at four lengths, and what they
claim."""

import math
import unittest

import torch
from torch import nn

from learning.loop import TrainingConfig, make_optimizer
from model import POOLINGS, AttentionPooling, LowestPooling, MaxPooling, MeanPooling, MultiHeadAttention
from positional_encoding import ENCODINGS, LearnedPositionalEncoding, get_positional_encoding
from positions.base import NoPositionalEncoding
from positions.relative import LocalBias, RelativeBias, slopes
from tests.test_model import TOLERANCE, random, small_model

H, D = 4, 6
ADDED = ("sinusoidal_offset", "learned_offset", "random_positions")
RELATIVE = ("rotary", "alibi_symmetric", "alibi_directed", "relative_bias", "relative_keys", "local_bias", "causal")


def encoding(name, max_len=1000):
    """An encoding for H heads of width D in float64, evaluation mode, with parameters that are not zero."""
    torch.manual_seed(0)
    made = get_positional_encoding(name, H * D, max_len, H).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def scores(made, Q, K):
    """The scores that attention takes the softmax of, with positions worked in."""
    Q, K = made.rotate(Q, K)
    bias = made.bias(Q)
    return Q @ K.transpose(2, 3) / math.sqrt(D) + (0 if bias is None else bias)


def one_score(name, made, head, q, k, t, s):
    """One score by its formula: head, query vector q at position t, key vector k at position s."""
    clip = max(-4, min(4, s - t))
    product = sum(a * b for a, b in zip(q, k))
    if name == "rotary":
        def turned(x, position):
            result = []
            for i in range(0, D, 2):
                angle = position / 10000 ** (i / D)
                result += [x[i] * math.cos(angle) - x[i + 1] * math.sin(angle), x[i] * math.sin(angle) + x[i + 1]
                           * math.cos(angle)]
            return result
        product = sum(a * b for a, b in zip(turned(q, t), turned(k, s)))
    if name == "relative_keys":
        product += sum(a * b for a, b in zip(q, made.vectors[clip + 4].tolist()))
    score = product / math.sqrt(D)
    if name == "relative_bias":
        score += made.weights[head, clip + 4].item()
    if name == "local_bias":
        score = score + made.weights[head, s - t + 1].item() if abs(s - t) <= 1 else -math.inf
    if name.startswith("alibi"):
        score -= 2 ** (-8 * (head + 1) / H) * abs(s - t)
    if name == "alibi_directed" and (s < t if head % 2 == 0 else s > t) or name == "causal" and s > t:
        score = -math.inf
    return score


class Relative(unittest.TestCase):
    def test_every_score_is_that_of_the_formula(self):
        Q, K = random(2, H, 11, D, seed=1), random(2, H, 11, D, seed=2)
        for name in RELATIVE:
            made = encoding(name)
            expected = torch.tensor(
                [[[[one_score(name, made, h, Q[b, h, t].tolist(), K[b, h, s].tolist(), t, s) for s in range(11)]
                                       for t in range(11)] for h in range(H)] for b in range(2)], dtype=torch.float64)
            torch.testing.assert_close(scores(made, Q, K).expand_as(expected), expected, **TOLERANCE, msg=name)
        self.assertEqual(slopes(4).tolist(), [1 / 4, 1 / 16, 1 / 64, 1 / 256])

    def test_shapes_at_any_length(self):
        for name in ENCODINGS:
            made = encoding(name)
            for length in (8, 16, 256, 1000):
                Q = torch.zeros(1, H, length, D, dtype=torch.float64)
                self.assertEqual(made(torch.zeros(1, length, H * D)).shape, (1, length, H * D), name)
                self.assertEqual([x.shape for x in made.rotate(Q, Q)], [Q.shape, Q.shape], name)
                bias = made.bias(Q)
                if bias is not None:
                    self.assertEqual(torch.broadcast_shapes(bias.shape, (1, H, length, length)), (1, H, length, length),
                                     name)
                    self.assertTrue((bias > -math.inf).any(dim=-1).all(), "every query has a key")

    def test_shifting_changes_nothing(self):
        Q, K = random(2, H, 40, D, seed=1), random(2, H, 40, D, seed=2)
        for name in RELATIVE:
            made = encoding(name)
            for k in (1, 7, 25):
                torch.testing.assert_close(scores(made, Q, K)[:, :, k:, k:], scores(made, Q[:, :, k:], K[:, :, k:]),
                                           **TOLERANCE, msg=name)
                self.assertIs(made(Q), Q)
        for name in ("sinusoidal", "learned"):  # these do know where a value stands
            x = torch.zeros(1, 40, H * D, dtype=torch.float64)
            self.assertGreater((encoding(name)(x)[:, 7:] - encoding(name)(x[:, 7:])).abs().max(), 0.1)

    def test_local_attention_computes_the_same_in_a_sequence_of_any_length(self):
        model = small_model("local_bias", num_layers=2)
        x = torch.randint(100, (3, 60), generator=torch.Generator().manual_seed(0))
        whole, part = model.encode(x), model.encode(x[:, 20:40])
        torch.testing.assert_close(part[:, 2:-2], whole[:, 22:38], **TOLERANCE)
        self.assertGreater((part - whole[:, 20:40]).abs().amax(dim=(0, 2))[[0, -1]].min(), 1e-3)

    def test_symmetric_alibi_cannot_tell_ascending_from_descending_and_directed_can(self):
        x = torch.randint(100, (5, 12), generator=torch.Generator().manual_seed(0)).sort(dim=1).values
        for pooling in POOLINGS:
            change = {name: (small_model(name, pooling=pooling)(x)
                             - small_model(name, pooling=pooling)(x.flip(1))).abs().max().item()
                      for name in ("alibi_symmetric", "alibi_directed")}
            self.assertLess(change["alibi_symmetric"], 1e-12)
            self.assertGreater(change["alibi_directed"], 1e-4)

    def test_heads_of_odd_width_cannot_be_turned(self):
        with self.assertRaisesRegex(ValueError, "a head has 3"):
            small_model("rotary", d_model=9)

    def test_a_relative_bias_learns_faster_than_the_weights_and_is_not_decayed(self):
        model = small_model("relative_bias")
        optimizer = make_optimizer(model, TrainingConfig())
        groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        self.assertEqual(len(groups), len(list(model.parameters())))
        for parameter in model.parameters():
            own = parameter is model.pos_encoding.weights
            self.assertEqual((groups[id(parameter)]["lr_scale"], groups[id(parameter)]["weight_decay"] > 0),
                             (100.0 if own else 1.0, parameter.dim() > 1 and not own))
        self.assertEqual((LocalBias.lr_scale, NoPositionalEncoding.lr_scale), (RelativeBias.lr_scale, 1.0))


class RandomInTraining(unittest.TestCase):
    x = torch.zeros(1, 10, H * D, dtype=torch.float64)

    def rows(self, made):
        """Which rows of the table were added to each position."""
        learned = isinstance(made, LearnedPositionalEncoding)
        table = made.position_embeddings.weight if learned else made.rows(300, torch.float64).float().double()
        return [(table - row).abs().sum(dim=1).argmin().item() for row in made(self.x)[0]]

    def test_offsets_are_runs_that_reach_every_row(self):
        for name in ("sinusoidal_offset", "learned_offset"):
            made = encoding(name, max_len=20).train()
            drawn = [self.rows(made) for _ in range(200)]
            self.assertTrue(all(rows == list(range(rows[0], rows[0] + 10)) for rows in drawn))
            self.assertEqual({rows[0] for rows in drawn}, set(range(11)))
            self.assertEqual(self.rows(made.eval()), list(range(10)))

    def test_random_positions_are_in_order_and_spread_evenly_in_evaluation(self):
        made = encoding("random_positions", max_len=300).train()
        drawn = [self.rows(made) for _ in range(200)]
        self.assertTrue(all(rows == sorted(set(rows)) and len(rows) == 10 for rows in drawn))
        self.assertTrue(min(map(min, drawn)) < 5 and max(map(max, drawn)) > 294 and max(map(max, drawn)) < 300)
        self.assertGreater(len({tuple(rows) for rows in drawn}), 190)
        self.assertEqual(self.rows(made.eval()), list(range(0, 300, 30)))
        self.assertEqual(made.places(400).tolist(), list(range(400)))

    def test_the_bounded_ones_say_so(self):
        for name in ENCODINGS:
            made = encoding(name, max_len=9)
            self.assertEqual(made.bounded, "learned" in name)
            if made.bounded:
                with self.assertRaisesRegex(ValueError, "longer than"):
                    made(self.x)
            else:
                made.train()(self.x)


class Pooling(unittest.TestCase):
    def test_poolings_are_what_they_are_called_over_the_real_positions(self):
        h, lengths = random(3, 7, 5) - 3, (7, 4, 0)
        mask = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
        attention, classifier = AttentionPooling(5).double(), nn.Linear(5, 2).double()
        torch.testing.assert_close(attention(h, classifier, mask), MeanPooling(5)(h, classifier, mask), **TOLERANCE)
        nn.init.normal_(attention.query)
        for b, n in enumerate(lengths):
            real = [h[b, i] for i in range(n)]
            shares = [math.exp(attention.query.detach() @ x) for x in real]
            expected = {MeanPooling: sum(real) / max(n, 1), MaxPooling: torch.stack(real).max(dim=0).values if n else 0,
                        LowestPooling: min(real, key=lambda x: (classifier(x)[1] - classifier(x)[0]).item()) if n
                        else 0,
                        AttentionPooling: sum(share * x for share, x in zip(shares, real)) / sum(shares) if n else 0}
            for pooling in (MeanPooling(5), MaxPooling(5), LowestPooling(5), attention):
                value = torch.zeros(5, dtype=torch.float64) + expected[type(pooling)]
                torch.testing.assert_close(pooling(h, classifier, mask)[b], value, **TOLERANCE)
                if n == 7:
                    torch.testing.assert_close(pooling(h, classifier)[b], value, **TOLERANCE)

    def test_one_value_of_many_moves_the_mean_less_and_the_maximum_not_less(self):
        def moved(pooling, length):
            h = torch.zeros(1, length, 1)
            h[0, 3] = 1
            return pooling(h, lambda h: torch.cat([h, -h], dim=-1)).item()
        self.assertAlmostEqual(moved(MeanPooling(1), 10) / moved(MeanPooling(1), 1000), 100, places=3)
        for pooling in (MaxPooling(1), LowestPooling(1)):
            self.assertEqual([moved(pooling, 10), moved(pooling, 1000)], [1, 1])


class LogScaling(unittest.TestCase):
    def test_scores_are_multiplied_by_the_logarithm_of_the_number_of_keys(self):
        for name in ("none", "relative_bias", "local_bias"):
            made = encoding(name)
            plain, scaled = MultiHeadAttention(H * D, H).double(), MultiHeadAttention(H * D, H,
                                                                                      log_scaling=True).double()
            scaled.load_state_dict(plain.state_dict())
            x = random(2, 9, H * D)
            torch.testing.assert_close(scaled(x, x, x, positions=made)[1],
                                       (plain.scores(x, x, made) * math.log(9)).softmax(-1), **TOLERANCE)
            mask = (torch.arange(9) < 5).view(1, 1, 1, 9)
            torch.testing.assert_close(scaled(x, x, x, mask, made)[1][:, :, :5, :5],
                                       (plain.scores(x[:, :5], x[:, :5], made) * math.log(5)).softmax(-1), **TOLERANCE)

    def test_a_learned_scale_is_a_line_in_the_logarithm_for_each_head_and_starts_as_the_logarithm(self):
        made = encoding("relative_bias")
        plain, learned = (MultiHeadAttention(H * D, H, log_scaling=scaling).double() for scaling in (False, "learned"))
        learned.load_state_dict(plain.state_dict(), strict=False)
        x = random(2, 9, H * D)
        scores = plain.scores(x, x, made)
        torch.testing.assert_close(learned(x, x, x, positions=made)[1], (scores * math.log(9)).softmax(-1), **TOLERANCE)
        learned.scale_slope.data, learned.scale_offset.data = random(H).exp(), random(H).exp()
        for n in (9, 5):
            scale = (learned.scale_slope * math.log(n) + learned.scale_offset)[:, None, None]
            mask = (torch.arange(9) < n).view(1, 1, 1, 9)
            torch.testing.assert_close(learned(x, x, x, mask, made)[1][..., :n, :n],
                                       (scores[..., :n, :n] * scale).softmax(-1), **TOLERANCE)
        learned.scale_slope.data.fill_(-1.0)
        self.assertTrue(torch.isfinite(learned(x, x, x, positions=encoding("local_bias"))[0]).all())

    def test_the_scores_of_attention_pooling_are_multiplied_by_the_logarithm_of_the_real_positions(self):
        h, query = random(2, 6, D), random(D, seed=1)
        pooling = AttentionPooling(D, log_scaling=True).double()
        pooling.query.data = query
        for n in (6, 4, 1):
            expected = (h[:, :n] @ query * math.log(n)).softmax(1).unsqueeze(1) @ h[:, :n]
            mask = (torch.arange(6) < n).expand(2, 6)
            torch.testing.assert_close(pooling(h, None, mask), expected.squeeze(1), **TOLERANCE)
        torch.testing.assert_close(pooling(h, None), pooling(h, None, torch.ones(2, 6, dtype=torch.bool)), **TOLERANCE)
