"""Encodings, poolings, scaled scores and augmentations of beyond/, against slow loops."""

import math
import unittest
from itertools import product

import torch
from torch import nn

import beyond.augmentation as augmentation
from beyond.poolings import (
    AttentionPooling,
    DifferencesPooling,
    FiveFeaturesPooling,
    LowestPooling,
    MaxPooling,
)
from beyond.scaling import LearnedScaledAttention, ScaledAttention, ScaledClassifier
from beyond.variants import NEIGHBOUR_POOLINGS
from model import POOLINGS, MeanPooling, MultiHeadAttention, load_model
from positional_encoding import (
    ENCODINGS,
    REQUIRED,
    LearnedPositionalEncoding,
    get_positional_encoding,
)
from tests.helpers import TemporaryFolder
from tests.small import EXACT, random, save, small_model
from train import AUGMENTATIONS

H, D = 4, 6
ADDED = ["sinusoidal_offset", "learned_offset", "random_positions"]
RELATIVE = ["rotary", "alibi_symmetric", "alibi_directed", "relative_bias", "relative_keys"]
RELATIVE += ["local_bias", "causal"]
X = torch.randint(100, (4, 9), generator=torch.Generator().manual_seed(0))


def encoding(name, max_len=1000):
    """An encoding for H heads of width D in float64, whose parameters are not zero."""
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


def turned(x, position):
    """A vector that rotary positions have turned."""
    result = []
    for i in range(0, D, 2):
        angle = position / 10000 ** (i / D)
        cos, sin = math.cos(angle), math.sin(angle)
        result += [x[i] * cos - x[i + 1] * sin, x[i] * sin + x[i + 1] * cos]
    return result


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def one_score(name, made, head, q, k, t, s):
    """One score by its formula: query vector q at position t, key vector k at position s."""
    clip = max(-4, min(4, s - t))
    score = dot(q, k)
    if name == "rotary":
        score = dot(turned(q, t), turned(k, s))
    if name == "relative_keys":
        score += dot(q, made.vectors[clip + 4].tolist())
    score = score / math.sqrt(D)
    if name == "relative_bias":
        score += made.weights[head, clip + 4].item()
    if name == "local_bias":
        near = abs(s - t) <= 1
        score = score + made.weights[head, s - t + 1].item() if near else -math.inf
    if name.startswith("alibi"):
        score -= 2 ** (-8 * (head + 1) / H) * abs(s - t)
    hidden = s < t if head % 2 == 0 else s > t
    if (name == "alibi_directed" and hidden) or (name == "causal" and s > t):
        score = -math.inf
    return score


class Encodings(unittest.TestCase):
    def test_the_table(self):
        self.assertEqual(list(ENCODINGS), [*REQUIRED, *ADDED, *RELATIVE])

    def test_every_score_is_that_of_the_formula(self):
        Q, K = random(1, H, 11, D, seed=1), random(1, H, 11, D, seed=2)
        for name in RELATIVE:
            made = encoding(name)
            q, k = Q[0].tolist(), K[0].tolist()
            expected = [
                one_score(name, made, h, q[h][t], k[h][s], t, s)
                for h, t, s in product(range(H), range(11), range(11))
            ]
            expected = torch.tensor(expected, dtype=torch.float64).view(H, 11, 11)
            found = scores(made, Q, K)[0].expand_as(expected)
            torch.testing.assert_close(found, expected, **EXACT, msg=name)

    def test_every_query_has_a_key_at_any_length(self):
        for name in ENCODINGS:
            made = encoding(name)
            for length in (1, 8, 1000):
                Q = torch.zeros(1, H, length, D, dtype=torch.float64)
                self.assertEqual(made(torch.zeros(1, length, H * D)).shape, (1, length, H * D))
                found = scores(made, Q, Q)
                self.assertEqual(found.shape, (1, H, length, length), name)
                self.assertTrue((found > -math.inf).any(dim=-1).all(), name)

    def test_shifting_changes_nothing_where_positions_are_relative(self):
        Q, K = random(2, H, 40, D, seed=1), random(2, H, 40, D, seed=2)
        for name in RELATIVE:
            made = encoding(name)
            self.assertIs(made(Q), Q)
            for k in (1, 25):
                later = scores(made, Q[:, :, k:], K[:, :, k:])
                torch.testing.assert_close(scores(made, Q, K)[:, :, k:, k:], later, **EXACT)

    def test_local_attention_computes_the_same_in_a_sequence_of_any_length(self):
        model = small_model("local_bias")
        x = torch.randint(100, (3, 60), generator=torch.Generator().manual_seed(0))
        whole, part = model.encode(x), model.encode(x[:, 20:40])
        torch.testing.assert_close(part[:, 2:-2], whole[:, 22:38], **EXACT)
        ends = (part - whole[:, 20:40]).abs().amax(dim=(0, 2))[[0, -1]]
        self.assertGreater(ends.min(), 1e-3)

    def test_only_directed_alibi_can_tell_ascending_from_descending(self):
        x = X.sort(dim=1).values
        for pooling in POOLINGS:
            change = []
            for name in ("none", "alibi_symmetric", "alibi_directed"):
                model = small_model(name, pooling=pooling)
                change.append((model(x) - model(x.flip(1))).abs().max().item() > 1e-4)
            # Unless order enters in the pooling.
            self.assertEqual(change, [pooling in NEIGHBOUR_POOLINGS] * 2 + [True], pooling)

    def test_heads_of_odd_width_cannot_be_turned(self):
        with self.assertRaisesRegex(ValueError, "a head has 3"):
            small_model("rotary", d_model=9)

    def rows(self, made):
        """Which rows of the table are added to ten positions."""
        learned = isinstance(made, LearnedPositionalEncoding)
        table = made.position_embeddings.weight if learned else made.rows(300).double()
        added = made(torch.zeros(1, 10, H * D, dtype=torch.float64))[0]
        return [(table - row).abs().sum(dim=1).argmin().item() for row in added]

    def test_offsets_are_runs_that_reach_every_row(self):
        for name in ("sinusoidal_offset", "learned_offset"):
            made = encoding(name, max_len=20).train()
            drawn = [self.rows(made) for _ in range(200)]
            for rows in drawn:
                self.assertEqual(rows, list(range(rows[0], rows[0] + 10)))
            self.assertEqual({rows[0] for rows in drawn}, set(range(11)))
            self.assertEqual(self.rows(made.eval()), list(range(10)))

    def test_random_positions_are_in_order_and_spread_evenly_in_evaluation(self):
        made = encoding("random_positions", max_len=300).train()
        drawn = [self.rows(made) for _ in range(200)]
        for rows in drawn:
            self.assertEqual((rows, len(rows)), (sorted(set(rows)), 10))
        lowest, highest = min(map(min, drawn)), max(map(max, drawn))
        self.assertTrue(lowest < 5 and 294 < highest < 300)
        self.assertGreater(len(set(map(tuple, drawn))), 190)
        self.assertEqual(self.rows(made.eval()), list(range(0, 300, 30)))
        self.assertEqual(made.places(400).tolist(), list(range(400)))

    def test_the_bounded_ones_say_so(self):
        x = torch.zeros(1, 10, H * D, dtype=torch.float64)
        for name in ENCODINGS:
            made = encoding(name, max_len=9).train()
            self.assertEqual(made.bounded, "learned" in name)
            if made.bounded:
                with self.assertRaisesRegex(ValueError, "longer than"):
                    made(x)
            else:
                self.assertEqual(made(x).shape, x.shape)


class Pooling(unittest.TestCase):
    def test_poolings_are_what_they_are_called_over_the_real_positions(self):
        h, lengths = random(3, 7, 5) - 3, (7, 4, 0)
        mask = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
        attention, classifier = AttentionPooling(5).double(), nn.Linear(5, 2).double()
        mean = MeanPooling(5)(h, classifier, mask)
        torch.testing.assert_close(attention(h, classifier, mask), mean, **EXACT)
        nn.init.normal_(attention.query)
        zeros = torch.zeros(5, dtype=torch.float64)
        for b, n in enumerate(lengths):
            real = [h[b, i] for i in range(n)]
            shares = [math.exp(attention.query.detach() @ x) for x in real]
            logits = [classifier(x).tolist() for x in real]
            margins = [after - before for before, after in logits]
            expected = {
                MeanPooling(5): sum(real) / n if n else zeros,
                MaxPooling(5): torch.stack(real).max(dim=0).values if n else zeros,
                LowestPooling(5): real[margins.index(min(margins))] if n else zeros,
                attention: sum(w * x for w, x in zip(shares, real)) / sum(shares) if n else zeros,
            }
            for pooling, value in expected.items():
                torch.testing.assert_close(pooling(h, classifier, mask)[b], value, **EXACT)
                if n == 7:
                    torch.testing.assert_close(pooling(h, classifier)[b], value, **EXACT)

    def test_padding_changes_nothing_with_any_encoding_and_pooling(self):
        cases = [("sinusoidal", {"pooling": pooling}) for pooling in POOLINGS]
        cases += [(name, {}) for name in RELATIVE]
        for scaling in (True, "learned"):
            scaled = {"make": ScaledClassifier, "log_scaling": scaling, "pooling": "attention"}
            cases += [(name, scaled) for name in ("none", "relative_bias", "local_bias")]
        pads = torch.full((4, 3), 100)
        padded = torch.cat([pads, X[:, :4], pads[:, :1], X[:, 4:], pads], dim=1)
        for name, changes in cases:
            with self.subTest(name, **changes):
                model = small_model(name, **changes)
                for parameter in model.pooling.parameters():
                    nn.init.normal_(parameter)
                torch.testing.assert_close(model(padded, padded != 100), model(X), **EXACT)
                empty = model(pads, torch.zeros(4, 3))
                torch.testing.assert_close(empty, model.classifier.bias.expand(4, 2), **EXACT)

    def test_differences_are_between_neighbouring_real_positions(self):
        h = random(4, 7, 5)
        mask = torch.arange(7) < torch.tensor((7, 4, 1, 0)).unsqueeze(1)
        five, zeros = FiveFeaturesPooling(5).double(), torch.zeros(5, dtype=torch.float64)
        for b, n in enumerate((7, 4, 1, 0)):
            real = [h[b, i] for i in range(n)]
            between = [after - before for before, after in zip(real, real[1:])]
            lowest = torch.stack(between).min(dim=0).values if between else zeros
            mean = sum(between) / len(between) if between else zeros
            ends = [real[0], real[-1]] if real else [zeros, zeros]
            minimum = torch.stack(real).min(dim=0).values if real else zeros
            together = five.linear.weight @ torch.cat([minimum, lowest, mean, *ends])
            for pooling, value in [(DifferencesPooling(5), lowest), (five, together)]:
                torch.testing.assert_close(pooling(h, None, mask)[b], value, **EXACT)
                if n:
                    alone = pooling(h[b : b + 1, :n], None)[0]
                    torch.testing.assert_close(alone, value, **EXACT)


class Scaling(TemporaryFolder):
    def test_scores_are_multiplied_by_a_line_in_the_logarithm_of_the_number_of_keys(self):
        x = random(2, 9, H * D)
        for name in ("none", "relative_bias", "local_bias"):
            made = encoding(name)
            plain = MultiHeadAttention(H * D, H).double()
            for kind in (ScaledAttention, LearnedScaledAttention):
                scaled = kind(H * D, H).double()
                scaled.load_state_dict(plain.state_dict(), strict=False)
                slope, offset = torch.ones(H).double(), torch.zeros(H)
                for _ in range(2):
                    for n in (9, 5):
                        mask = (torch.arange(9) < n).view(1, 1, 1, 9)
                        factor = (slope * math.log(n) + offset)[:, None, None]
                        bare = plain.scores(x[:, :n], x[:, :n], made)
                        found = scaled(x, x, x, mask, made)[1][..., :n, :n]
                        torch.testing.assert_close(found, (bare * factor).softmax(-1), **EXACT)
                    if kind is LearnedScaledAttention:
                        slope, offset = random(H).exp(), random(H, seed=1).exp()
                        scaled.scale_slope.data, scaled.scale_offset.data = slope, offset
        scaled.scale_slope.data.fill_(-1.0)
        self.assertTrue(torch.isfinite(scaled(x, x, x, positions=encoding("local_bias"))[0]).all())

    def test_attention_pooling_is_scaled_too(self):
        h, pooling = random(2, 6, D), AttentionPooling(D, scaled=True).double()
        pooling.query.data = query = random(D, seed=1)
        for n in (6, 4, 1):
            weights = (h[:, :n] @ query * math.log(n)).softmax(1).unsqueeze(1)
            mask = (torch.arange(6) < n).expand(2, 6)
            found = pooling(h, None, mask)
            torch.testing.assert_close(found, (weights @ h[:, :n]).squeeze(1), **EXACT)
        made = small_model("none", make=ScaledClassifier, pooling="attention").pooling
        self.assertTrue(made.scaled)

    def test_round_trip_of_every_kind(self):
        path = self.folder / "model.pth"
        for name in ENCODINGS:
            sizes = {"pooling": "attention", "log_scaling": "learned"}
            model = small_model(name, make=ScaledClassifier, **sizes).float()
            save(path, model)
            loaded = load_model(path)
            self.assertIs(type(loaded), ScaledClassifier)
            self.assertEqual((loaded.config, loaded.training), (model.config, False))
            self.assertTrue(torch.equal(loaded(X), model(X)), name)
        with self.assertRaisesRegex(ValueError, "another model"):
            small_model(name, pooling="attention").load_state_dict(model.state_dict())
        with self.assertRaisesRegex(ValueError, "log_scaling is True or 'learned', not 'x'"):
            ScaledClassifier(log_scaling="x")


class Augmentation(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def batch(self, seed=0):
        """Half sorted, with many ties, and labels."""
        generator = torch.Generator().manual_seed(seed)
        sequences = torch.randint(30, 70, (400, 12), generator=generator)
        sequences[::2] = sequences[::2].sort(dim=1).values
        return sequences, self.labels(sequences)

    def labels(self, sequences):
        return torch.tensor([int(row == sorted(row)) for row in sequences.tolist()])

    def test_crops_are_windows_of_every_length_and_place_and_labelled_anew(self):
        sequences, labels = self.batch()
        lengths, starts, turned = set(), set(), 0
        for _ in range(100):
            cropped, new = augmentation.crop(sequences, labels)
            n = cropped.size(1)
            windows = sequences.unfold(1, n, 1)  # [B, starts, n]
            found = (windows == cropped.unsqueeze(1)).all(dim=2)
            self.assertTrue(found.any(dim=1).all())
            self.assertTrue(torch.equal(new, self.labels(cropped)))
            lengths.add(n)
            if n == 6:
                starts |= set(found.int().argmax(dim=1).tolist())
            turned += int((new > labels).sum())
        self.assertEqual((lengths, starts), (set(range(2, 13)), set(range(7))))
        self.assertGreater(turned, 0, "a window of an unsorted sequence can be sorted")

    def test_shifts_keep_differences_and_reach_both_ends(self):
        sequences, labels = self.batch()
        shifted, new = augmentation.shift(sequences, labels)
        self.assertTrue(torch.equal(shifted.diff(dim=1), sequences.diff(dim=1)))
        self.assertTrue(torch.equal(new, labels))
        self.assertTrue(0 <= shifted.min() < 3 and 96 < shifted.max() <= 99)
        whole = torch.tensor([[0, 99], [99, 0]])
        self.assertTrue(torch.equal(augmentation.shift(whole, torch.tensor([1, 0]))[0], whole))

    def test_swaps_exchange_two_neighbours_in_half_of_the_sorted(self):
        sequences, labels = self.batch()
        swapped, new = augmentation.swap(sequences, labels)
        changed = (swapped != sequences).any(dim=1)
        self.assertTrue(torch.equal(new, self.labels(swapped)))
        self.assertTrue((labels[changed] == 1).all() and (new[changed] == 0).all())
        self.assertTrue(0.4 < changed.sum() / labels.sum() < 0.6)
        places = (swapped != sequences)[changed].nonzero()[:, 1].view(-1, 2)
        self.assertTrue((places[:, 1] - places[:, 0] == 1).all())
        self.assertEqual(set(places[:, 0].tolist()), set(range(11)))
        constant = torch.full((9, 4), 5), torch.ones(9, dtype=torch.long)
        self.assertTrue(all(map(torch.equal, augmentation.swap(*constant), constant)))

    def test_together_they_keep_to_the_lengths_and_values(self):
        self.assertEqual(len(AUGMENTATIONS), 8)
        for name, augment in AUGMENTATIONS.items():
            for seed in range(3):
                before, state = self.batch(seed), torch.get_rng_state()
                sequences, labels = augment(*before)
                self.assertTrue(torch.equal(labels, self.labels(sequences)), name)
                self.assertTrue(sequences.min() >= 0 and sequences.max() <= 99)
                self.assertLessEqual(sequences.size(1), 12)
                same = torch.equal(torch.get_rng_state(), state)
                self.assertEqual(same, name == "none")
