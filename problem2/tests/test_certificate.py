"""The certificate for unrestricted attention: its bounds hold for whatever stands beyond the neighbours. With few
values, so that many sequences can be tried."""

import copy
import json
import math
import unittest
from unittest import mock

import torch
from torch import nn

from extrapolation import certificate, counting, verification
from extrapolation.counting import CountedModel
from model import create_model
from tests.test_counting import tiny

VALUES = 6


class Certificate(unittest.TestCase):
    def setUp(self):
        for module in (counting, verification):
            self.enterContext(mock.patch.object(module, "VALUES", VALUES))

    def model(self, seed, sharpness=4.0):
        """A random model whose heads prefer one of the neighbours or the position itself, one more than another."""
        model = tiny(seed=seed, log_scaling=True, d_model=12, num_heads=3, d_ff=16)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            model.pos_encoding.weights[torch.arange(3), 3 + torch.randint(3, (3,), generator=generator)] += sharpness
            for norm in (model.layers[0].norm1, model.layers[0].norm2, model.norm):
                norm.weight += 0.3 * torch.randn(12, generator=generator)
                norm.bias += 0.3 * torch.randn(12, generator=generator)
        return model

    def windows_of(self, sequence):
        """Name and place in the tables of the window at each position of a list of two values or more."""
        yield "first", tuple(sequence[:2])
        for place in range(1, len(sequence) - 1):
            yield "inner", tuple(sequence[place - 1:place + 2])
        yield "last", tuple(sequence[-2:])

    def test_margins_of_random_sequences_are_within_the_bounds(self):
        generator, closest = torch.Generator().manual_seed(0), math.inf
        for seed in range(6):
            model = self.model(seed, sharpness=3.0 + seed)
            counted = CountedModel(model)
            for length in (4, 40):
                base, change = certificate.bound_windows(model, length)
                falls = certificate.descents(VALUES)
                for sorted_ in (True, False) * 12:
                    n = length * int(torch.randint(1, 5, (1,), generator=generator))
                    # Of two values or of any, so that all that is far can pull one way.
                    pool = torch.randint(VALUES, (2 + 4 * (n % 2),), generator=generator)
                    sequence = pool[torch.randint(len(pool), (n,), generator=generator)]
                    sequence = sequence.sort().values if sorted_ else sequence
                    for margin, (name, place) in zip(counted.margins(sequence).tolist(),
                                                     self.windows_of(sequence.tolist())):
                        if sorted_ or falls[name][place]:
                            slack = change[name][place].item() - abs(margin - base[name][place].item())
                            self.assertGreaterEqual(slack, -1e-9, (seed, name, place))
                            if change[name][place] < math.inf and change[name][place] > 1e-3:
                                closest = min(closest, slack / change[name][place].item())
        self.assertLess(closest, 0.97, "the bounds are so wide that no margin comes near them")

    @torch.no_grad()
    def test_heads_are_displaced_by_no_more_than_their_keys_shares_allow(self):
        only_near, any_place = self.model(0, sharpness=0.0), self.model(1, sharpness=5.0)
        only_near.pos_encoding.weights[:, [0, 1, 2, 6, 7, 8]] -= 20  # of the window's keys none is far ahead
        any_place.pos_encoding.weights[[1, 2], [1, 7]] += 9  # here a near key outside the window is
        largest = [self.largest_displacement(model) for model in (only_near, any_place, self.model(1, sharpness=5.0))]
        self.assertGreater(min(largest), 0.3, "the bound is far from what there is")

    def largest_displacement(self, model, length=30):
        """How much of the bound on a displacement sequences of three values around one more value reach."""
        bounds, counted, largest = certificate.Bounds(model), CountedModel(model), 0.0
        for v in range(VALUES):
            with mock.patch.object(certificate.Bounds, "margins", lambda self, v, best, moved: (best, moved)):
                best, moved = bounds.windows(v, length)
            for u, w, rest in torch.cartesian_prod(*[torch.arange(VALUES)] * 3).tolist():
                sequence = torch.full((length,), rest)
                sequence[14:17] = torch.tensor([u, v, w])
                if u <= v <= w and not u == rest == w:
                    continue  # the bound of a window that rises is one for sorted sequences
                h = counted.layer.norm1(counted.stream[sequence])[None]
                weights = counted.attention(h, h, h, positions=counted.model.pos_encoding)[1][0, :, 15]  # [H, n]
                found = sum((weights[head] @ bounds.outputs[head][sequence]
                             - bounds.outputs[head][best[head, u, w]]).norm() for head in range(3)).item()
                self.assertLessEqual(found, moved[u, w].item() + 1e-9)
                largest = max(largest, found / max(moved[u, w].item(), 1e-12))
        return largest

    @torch.no_grad()
    def test_the_margin_moves_by_no_more_than_the_displacement_allows(self):
        model, largest = self.model(2), 0.0
        first, second = model.layers[0].linear1, model.layers[0].linear2
        for parameter in (*first.parameters(), *second.parameters()):
            parameter.zero_()
        first.weight[0], first.bias[0], second.weight[:, 0] = torch.randn(12), 20.0, torch.randn(12)
        second.bias -= 20 * second.weight[:, 0]  # one unit, always active, that stretches as far as its norms say
        bounds, counted = certificate.Bounds(model), CountedModel(model)
        generator = torch.Generator().manual_seed(0)
        best = torch.randint(VALUES, (3, 7, 7), generator=generator)
        for size in (0.01, 0.1, 0.5):
            base, change = bounds.margins(3, best, torch.full((7, 7), size, dtype=torch.float64))
            x = counted.stream[3] + counted.attention.W_o.bias + sum(bounds.outputs[h][best[h]] for h in range(3))
            for step in range(200):
                moved = torch.randn(7, 7, 12, generator=generator).double()
                if step:  # half random, half along the direction that moved the margin most
                    moved = moved / moved.norm(dim=-1, keepdim=True) + 2 * furthest
                moved = size * moved / moved.norm(dim=-1, keepdim=True)
                y = x + moved
                y = y + counted.layer.linear2(counted.layer.linear1(counted.layer.norm2(y)).relu())
                logits = counted.model.classifier(counted.model.norm(y))
                found = (logits[..., 1] - logits[..., 0] - base).abs()
                self.assertTrue((found <= change + 1e-9).all())
                better = found > most if step else found >= 0
                most = torch.where(better, found, most) if step else found
                furthest = torch.where(better.unsqueeze(-1), moved / size, furthest) if step else moved / size
            largest = max(largest, (most / change).max().item())
        self.assertGreater(largest, 0.25)

    def trained(self):
        """A model that compares neighbours: trained on sequences of two to thirteen values."""
        torch.manual_seed(0)
        model = create_model("relative_bias", d_model=12, num_heads=2, num_layers=1, d_ff=16, dropout=0.0,
                             pooling="lowest", log_scaling=True)
        with torch.no_grad():  # one head looks at its own position, the other at the next, and where there is none too
            model.pos_encoding.weights[:, 4] = 10.0
            model.pos_encoding.weights[1, 5] = 20.0
        model.pos_encoding.requires_grad_(False)
        optimizer = torch.optim.Adam(model.parameters(), 0.005)
        for step in range(300):
            sequences = torch.randint(VALUES, (64, 2 + step % 12)).sort(dim=1).values
            sequences[::4] = torch.randint(VALUES, sequences[::4].shape)
            left = torch.randint(sequences.size(1) - 1, (32, 1))
            pair = torch.cat([left, left + 1], dim=1)
            sequences[1::2] = sequences[1::2].scatter(1, pair, sequences[1::2].gather(1, pair.flip(1)))
            labels = (sequences.diff(dim=1) >= 0).all(dim=1).long()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(sequences), labels).backward()
            optimizer.step()
        return model.eval()

    def test_a_model_proved_right_is_right_and_a_spoilt_one_is_not_proved(self):
        model = self.trained()
        found = certificate.prove(model)
        self.assertTrue(found["every_sequence_right"], found)
        self.assertLess(found["looseness"], 1)
        shortest = found["length"]
        self.assertFalse(shortest > 2 and certificate.certify(model, shortest // 2)["every_sequence_right"])
        self.assertLess(certificate.certify(model, 8 * shortest)["looseness"], found["looseness"])
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            sequence = torch.randint(VALUES, (shortest,), generator=generator).sort().values
            place = int(torch.randint(shortest - 1, (1,), generator=generator))
            self.assertEqual(model.predict(sequence[None]).item(), 1)
            sequence[[place, place + 1]] = sequence[[place + 1, place]].clone()
            self.assertEqual(model.predict(sequence[None]).item(), int(bool((sequence.diff() >= 0).all())))
        spoilt = copy.deepcopy(model)
        with torch.no_grad():
            spoilt.classifier.bias[0] += 100
        found = certificate.prove(spoilt)
        self.assertEqual((found["every_sequence_right"], found["length"], found["looseness"]),
                         (False, certificate.LENGTHS[-1], None))
        self.assertNotIn("Infinity", json.dumps(found))

    @torch.no_grad()
    def test_base_margins_of_many_heads_are_those_of_their_best_keys(self):
        """Of so many that a number for each choice of best keys would not fit an integer."""
        model = tiny(log_scaling=True, d_model=60, num_heads=30)
        model.pos_encoding.weights[:, 3:6] += 40 * torch.eye(3)[torch.randint(3, (30,))]
        base, change = certificate.bound_windows(model, 64)
        sequence = torch.arange(VALUES).repeat_interleave(20)
        margins = CountedModel(model).margins(sequence)
        for place in (19, 20, 50):
            window = tuple(sequence[place - 1:place + 2].tolist())
            self.assertLess(change["inner"][window], 1e-6)
            self.assertAlmostEqual(base["inner"][window].item(), margins[place].item(), places=6)

    def test_it_applies_to_scores_multiplied_by_log_n_alone(self):
        self.assertTrue(certificate.applies(tiny(log_scaling=True)))
        for changes in ({"log_scaling": False}, {"log_scaling": "learned"}, {"num_layers": 2, "log_scaling": True},
                        {"encoding": "local_bias", "log_scaling": True}, {"pooling": "max", "log_scaling": True}):
            self.assertFalse(certificate.applies(tiny(**changes)))


if __name__ == "__main__":
    unittest.main()
