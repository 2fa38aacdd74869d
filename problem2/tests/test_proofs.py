"""What is proved or counted exactly of models of one layer: windows, counts, and the bound."""

import copy
import itertools
import json
import math
import unittest
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from beyond import certificate, counting, verification
from beyond.counting import CountedModel
from beyond.scaling import ScaledClassifier
from model import create_model
from tests.small import EXACT

VALUES = 6
MARGIN = torch.tensor([-1.0, 1.0], dtype=torch.float64)  # from logits
# One head looks at its own position, the other at the next, and where there is none too.
LOOKS = torch.zeros(2, 9)
LOOKS[:, 4], LOOKS[1, 5] = 10.0, 20.0


def tiny(encoding="relative_bias", seed=0, scaling=False, **changes):
    """A model of one layer, pooled by the lowest position, whose parameters are not as they start.

    (In float64.)
    """
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "num_heads": 4, "num_layers": 1, "d_ff": 24, "dropout": 0.0}
    arguments = {"encoding_type": encoding, "pooling": "lowest", **sizes, **changes}
    kind = ScaledClassifier if scaling else create_model
    model = kind(**arguments, **({"log_scaling": scaling} if scaling else {})).double().eval()
    for parameter in model.pos_encoding.parameters():
        nn.init.normal_(parameter)
    for name, parameter in model.named_parameters():
        if "scale_" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif "W_" in name and name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def is_sorted(sequences):
    return (sequences.diff(dim=1) >= 0).all(dim=1).long()


def every_sequence(length, values):
    return torch.tensor(list(itertools.product(range(values), repeat=length)))


class Counting(unittest.TestCase):
    @torch.no_grad()
    def test_margins_are_those_of_the_model(self):
        generator = torch.Generator().manual_seed(0)
        for encoding in counting.ENCODINGS:
            for scaling in (False, True, "learned"):
                model = tiny(encoding, scaling=scaling)
                counted = CountedModel(model)
                for length in (1, 2, 5, 9, 10, 150):
                    sequence = torch.randint(100, (length,), generator=generator)
                    for each in (sequence, sequence.sort().values):
                        expected = model.classifier(model.encode(each[None]))[0] @ MARGIN
                        with mock.patch.object(counting, "POSITIONS_AT_ONCE", 64):
                            found = counted.margins(each)
                        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)

    def test_counts_are_those_of_the_values_before_a_place(self):
        sequence, places = torch.tensor([3, 3, 5, 3, 7]), torch.tensor([-1, 0, 1, 2, 3, 4, 5, 6])
        counts = counting.counts_before(sequence, places)[:, [3, 5, 7]].tolist()
        expected = [[0, 0, 0]] * 2 + [[1, 0, 0], [2, 0, 0], [2, 1, 0], [3, 1, 0]] + [[3, 1, 1]] * 2
        self.assertEqual(counts, expected)

    def test_which_models_each_argument_is_about(self):
        local, relative = {"encoding": "local_bias"}, {"encoding": "relative_bias"}
        for arguments, decided, counted, bounded in [
            (local, True, True, False),
            (relative, False, True, False),
            ({**local, "scaling": True}, False, True, False),
            ({**relative, "scaling": True}, False, True, True),
            ({**relative, "scaling": "learned"}, False, True, False),
            ({**relative, "scaling": True, "num_layers": 2}, False, False, False),
            ({**local, "pooling": "max"}, False, False, False),
            ({"encoding": "sinusoidal"}, False, False, False),
        ]:
            model = tiny(**arguments)
            found = verification.windows_decide(model), counting.counts_suffice(model)
            found = *found, certificate.bound_holds(model)
            self.assertEqual(found, (decided, counted, bounded), arguments)


class Verification(unittest.TestCase):
    """With five values instead of a hundred, so that every sequence up to a length can be tried."""

    def setUp(self):
        self.enterContext(mock.patch.object(verification, "VALUES", 5))

    def trained(self):
        """A model that is proved right; which seed leads to one differs between machines."""
        sequences, weights = every_sequence(4, 5), torch.tensor([1.0, 8.0])
        for seed in range(10):
            model = tiny("local_bias", seed, num_heads=2).float()
            optimizer = torch.optim.Adam(model.parameters(), 0.01)
            for _ in range(120):
                parts = [sequences[:, :n].unique(dim=0) for n in (1, 2, 3, 4)]
                loss = sum(F.cross_entropy(model(part), is_sorted(part), weights) for part in parts)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if verification.judge(verification.window_margins(model))["every_sequence_right"]:
                return model
        self.fail("none of the models has learned")

    @torch.no_grad()
    def test_the_margin_of_a_sequence_is_the_lowest_of_its_windows(self):
        model = tiny("local_bias", 1)
        windows = verification.window_margins(model)
        sequences = every_sequence(4, 5)
        a, b, c, d = sequences.unbind(dim=1)
        inner, first, last = (windows[name] for name in ("inner", "first", "last"))
        margins = torch.stack([first[a, b], inner[a, b, c], inner[b, c, d], last[c, d]])
        found = model(sequences) @ MARGIN
        torch.testing.assert_close(found, margins.amin(dim=0), **EXACT)
        found = model(every_sequence(1, 5)) @ MARGIN
        torch.testing.assert_close(found, windows["single"], **EXACT)

    def test_a_model_proved_right_is_right_and_a_spoilt_one_is_not_proved(self):
        model = self.trained()
        windows = verification.window_margins(model)
        verdict = verification.judge(windows)
        found = verdict["descents"], verdict["windows_without_descent"]
        self.assertEqual(found, (10, 5 + 15 + 15 + 35))
        for length in (1, 2, 3, 6):
            sequences = every_sequence(length, 5)
            self.assertTrue(torch.equal(model.predict(sequences), is_sorted(sequences)), length)

        def spoilt(*changes):
            tables = {name: margins.clone() for name, margins in windows.items()}
            for key, place, value in changes:
                tables[key][place] = value
            return verification.judge(tables)

        for key, place, value in [
            ("single", 2, -1),
            ("inner", (1, 1, 3), -1),
            ("first", (0, 4), 0),
            ("last", (2, 2), -1),
        ]:
            verdict = spoilt((key, place, value))
            self.assertEqual(
                (verdict["called_unsorted"], verdict["every_sequence_right"]), (1, False)
            )
        # 1 3 2 4 is called sorted now, unless the 3 notices the 2 whatever comes before it.
        passes = ("inner", (1, 3, 2), 1), ("inner", (3, 2, 4), 1)
        self.assertEqual(spoilt(*passes)["not_always_noticed"], 1)
        every = slice(None), 3, 2
        notices = ("inner", every, -1), ("first", (3, 2), -1)
        self.assertEqual(spoilt(*passes, *notices)["not_always_noticed"], 0)
        for key in windows:
            with self.assertRaisesRegex(ValueError, "not a number"):
                spoilt((key, ..., math.nan))


class Certificate(unittest.TestCase):
    """With six values, so that many sequences can be tried."""

    def setUp(self):
        for module in (counting, verification):
            self.enterContext(mock.patch.object(module, "VALUES", VALUES))

    def model(self, seed, sharpness=4.0):
        """A random model whose heads prefer a neighbour or the position itself."""
        model = tiny(seed=seed, scaling=True, d_model=12, num_heads=3, d_ff=16).float()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            places = 3 + torch.randint(3, (3,), generator=generator)
            model.pos_encoding.weights[torch.arange(3), places] += sharpness
            for norm in (model.layers[0].norm1, model.layers[0].norm2, model.norm):
                norm.weight += 0.3 * torch.randn(12, generator=generator)
                norm.bias += 0.3 * torch.randn(12, generator=generator)
        return model

    def windows_of(self, sequence):
        """Name and place in the tables of the window at each position."""
        yield "first", tuple(sequence[:2])
        for place in range(1, len(sequence) - 1):
            yield "inner", tuple(sequence[place - 1 : place + 2])
        yield "last", tuple(sequence[-2:])

    def test_margins_of_random_sequences_are_within_the_bounds(self):
        generator, closest = torch.Generator().manual_seed(0), math.inf
        falls = certificate.descents(VALUES)
        for seed, length in itertools.product(range(4), (4, 40)):
            model = self.model(seed, sharpness=3.0 + seed)
            counted, (base, change) = CountedModel(model), certificate.bound_windows(model, length)
            for sorted_ in (True, False) * 8:
                n = length * int(torch.randint(1, 5, (1,), generator=generator))
                # Of two values or of any, so that all far keys can pull one way.
                size = 2 + 4 * int(torch.randint(2, (1,), generator=generator))
                pool = torch.randint(VALUES, (size,), generator=generator)
                sequence = pool[torch.randint(len(pool), (n,), generator=generator)]
                sequence = sequence.sort().values if sorted_ else sequence
                margins = counted.margins(sequence).tolist()
                for margin, (name, place) in zip(margins, self.windows_of(sequence.tolist())):
                    if sorted_ or falls[name][place]:
                        bound = change[name][place].item()
                        slack = bound - abs(margin - base[name][place].item())
                        self.assertGreaterEqual(slack, -1e-9, (seed, name, place))
                        if 1e-3 < bound < math.inf:
                            closest = min(closest, slack / bound)
        self.assertLess(closest, 0.97, "the bounds are so wide that no margin comes near them")

    @torch.no_grad()
    def test_heads_are_displaced_by_no_more_than_their_keys_shares_allow(self):
        only_near, any_place = self.model(0, sharpness=0.0), self.model(1, sharpness=5.0)
        only_near.pos_encoding.weights[:, [0, 1, 2, 6, 7, 8]] -= 20
        any_place.pos_encoding.weights[[1, 2], [1, 7]] += 9  # a near key outside the window is best
        models = only_near, any_place, self.model(1, sharpness=5.0)
        shares = [self.largest_displacement(model) for model in models]
        self.assertGreater(min(shares), 0.3, "the bound is far from what there is")

    def largest_displacement(self, model, length=30):
        """How much of the bound sequences reach: three values around one more value."""
        bounds, counted, largest = certificate.Bounds(model), CountedModel(model), 0.0
        attention, positions = counted.attention, counted.model.pos_encoding
        for v in range(VALUES):
            keep = mock.patch.object(
                certificate.Bounds, "margins", lambda _, v, best, moved: (best, moved)
            )
            with keep:
                best, moved = bounds.windows(v, length)
            for u, w, rest in every_sequence(3, VALUES).tolist():
                sequence = torch.full((length,), rest)
                sequence[14:17] = torch.tensor([u, v, w])
                if u <= v <= w and not u == rest == w:
                    continue  # the bound of a window that rises is one for sorted sequences
                h = counted.layer.norm1(counted.stream[sequence])[None]
                weights = attention(h, h, h, positions=positions)[1][0, :, 15]  # [H, L]
                found = sum(
                    (weights[head] @ outputs[sequence] - outputs[best[head, u, w]]).norm()
                    for head, outputs in enumerate(bounds.outputs)
                ).item()
                self.assertLessEqual(found, moved[u, w].item() + 1e-9)
                largest = max(largest, found / max(moved[u, w].item(), 1e-12))
        return largest

    @torch.no_grad()
    def test_the_margin_moves_by_no_more_than_the_displacement_allows(self):
        model, largest = self.model(1), 0.0
        first, second = model.layers[0].linear1, model.layers[0].linear2
        for parameter in (*first.parameters(), *second.parameters()):
            parameter.zero_()
        # One unit, always active, that stretches as far as its norms say.
        first.weight[0], first.bias[0], second.weight[:, 0] = torch.randn(12), 20.0, torch.randn(12)
        second.bias -= 20 * second.weight[:, 0]
        bounds, counted = certificate.Bounds(model), CountedModel(model)
        generator = torch.Generator().manual_seed(0)
        best = torch.randint(VALUES, (3, 7, 7), generator=generator)
        x = counted.stream[3] + counted.attention.W_o.bias
        x = x + sum(bounds.outputs[head][best[head]] for head in range(3))
        for size in (0.01, 0.1, 0.5):
            base, change = bounds.margins(3, best, torch.full((7, 7), size, dtype=torch.float64))
            most, furthest = torch.zeros(7, 7).double(), torch.zeros(7, 7, 12).double()
            for _ in range(200):
                # Half random, half along the direction that moved the margin most.
                step = F.normalize(torch.randn(7, 7, 12, generator=generator).double(), dim=-1)
                step = F.normalize(step + 2 * furthest, dim=-1)
                y = x + size * step
                y = y + counted.layer.feed_forward(counted.layer.norm2(y))
                logits = counted.model.classifier(counted.model.norm(y))
                found = (logits @ MARGIN - base).abs()
                self.assertTrue((found <= change + 1e-9).all())
                furthest = torch.where((found > most).unsqueeze(-1), step, furthest)
                most = torch.maximum(most, found)
            largest = max(largest, (most / change).max().item())
        self.assertGreater(largest, 0.25)

    def trained(self):
        """A model that compares neighbours, trained on sequences of two to thirteen values."""
        model = tiny(scaling=True, num_heads=2, d_model=12, d_ff=16).float()
        model.pos_encoding.weights.data = LOOKS.clone()
        model.pos_encoding.requires_grad_(False)
        optimizer = torch.optim.Adam(model.parameters(), 0.005)
        for step in range(300):
            sequences = torch.randint(VALUES, (64, 2 + step % 12)).sort(dim=1).values
            sequences[::4] = torch.randint(VALUES, sequences[::4].shape)
            left = torch.randint(sequences.size(1) - 1, (32, 1))
            pair = torch.cat([left, left + 1], dim=1)
            exchanged = sequences[1::2].gather(1, pair.flip(1))
            sequences[1::2] = sequences[1::2].scatter(1, pair, exchanged)
            optimizer.zero_grad()
            F.cross_entropy(model(sequences), is_sorted(sequences)).backward()
            optimizer.step()
        return model

    def test_a_model_proved_right_is_right_and_a_spoilt_one_is_not_proved(self):
        model = self.trained()
        found = certificate.prove(model)
        self.assertTrue(found["every_sequence_right"], found)
        self.assertLess(found["looseness"], 1)
        shortest = found["length"]
        half = certificate.certify(model, shortest // 2)["every_sequence_right"]
        self.assertFalse(shortest > 2 and half)
        self.assertLess(certificate.certify(model, 8 * shortest)["looseness"], found["looseness"])
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            rising = torch.randint(VALUES, (1, shortest), generator=generator).sort().values
            place = int(torch.randint(shortest - 1, (1,), generator=generator))
            falling = rising.clone()
            falling[:, [place, place + 1]] = rising[:, [place + 1, place]]
            for sequence in (rising, falling):
                self.assertTrue(torch.equal(model.predict(sequence), is_sorted(sequence)))
        spoilt = copy.deepcopy(model)
        spoilt.classifier.bias.data[0] += 100
        found = certificate.prove(spoilt)
        verdict = found["every_sequence_right"], found["length"], found["looseness"]
        self.assertEqual(verdict, (False, certificate.LENGTHS[-1], None))
        self.assertNotIn("Infinity", json.dumps(found))

    @torch.no_grad()
    def test_base_margins_of_many_heads_are_those_of_their_best_keys(self):
        # Of so many heads that a number for each choice of best keys would not fit an integer.
        model = tiny(scaling=True, d_model=60, num_heads=30)
        model.pos_encoding.weights[:, 3:6] += 40 * torch.eye(3)[torch.randint(3, (30,))]
        base, change = certificate.bound_windows(model, 64)
        sequence = torch.arange(VALUES).repeat_interleave(20)
        margins = CountedModel(model).margins(sequence)
        for place in (19, 20, 50):
            window = tuple(sequence[place - 1 : place + 2].tolist())
            self.assertLess(change["inner"][window], 1e-6)
            self.assertAlmostEqual(base["inner"][window].item(), margins[place].item(), places=6)
