"""Carry chains: what is drawn is of its class, and sums of any length are right."""

import unittest

import torch

from dataset import encode_problems
from learning.chains import NINES, draw_chain, draw_nines, draw_random, encode_digits, longest_chain, problem_classes


def as_number(digits):
    return int("".join(map(str, digits)))


class Chains(unittest.TestCase):
    def test_sums_of_any_length_are_right(self):
        for n in (1, 3, 25):
            a, b = draw_random(n, 50, torch.Generator().manual_seed(0))
            source, target = encode_digits(a, b)
            for x, y, total in zip(a.tolist(), b.tolist(), target.tolist()):
                self.assertEqual(as_number(x) + as_number(y), as_number(total))
                self.assertTrue(x[0] and y[0])
        numbers = torch.tensor([123, 657]), torch.tensor([456, 348])
        digits = torch.tensor([[1, 2, 3], [6, 5, 7]]), torch.tensor([[4, 5, 6], [3, 4, 8]])
        for ours, known in zip(encode_digits(*digits), encode_problems(*numbers, 3)):
            self.assertTrue(torch.equal(ours, known))

    def test_the_longest_chain_of_known_problems(self):
        for a, b, length in [("123", "456", 0), ("657", "348", 3), ("905", "805", 1), ("999", "999", 1),
                             ("899", "101", 3),
                             ("900900", "100100", 1), ("190990", "809110", 4), ("444", "555", 0)]:
            digits = (torch.tensor([list(map(int, text))]) for text in (a, b))
            self.assertEqual(longest_chain(*digits).tolist(), [length], (a, b))

    def test_drawn_problems_are_of_their_class_and_differ(self):
        generator = torch.Generator().manual_seed(0)
        for n in (1, 2, 6, 20):
            for length in {0, 1, n // 2, n}:
                a, b = draw_chain(n, length, 200, generator)
                self.assertEqual(longest_chain(a, b).unique().tolist(), [length])
                self.assertTrue((a[:, 0] > 0).all() and (b[:, 0] > 0).all())
                self.assertGreater(len(torch.cat([a, b], dim=1).unique(dim=0)), 150 if n > 2 else 20)
            a, b = draw_nines(n, 100, generator)
            self.assertTrue((a + b == 9).all() and (a[:, 0] > 0).all() and (b[:, 0] > 0).all())

    def test_a_chain_may_stand_at_any_place(self):
        a, b = draw_chain(6, 2, 2000, torch.Generator().manual_seed(0))
        starts = ((a + b >= 10)[:, 1:] & (a + b == 9)[:, :-1]).float().mean(dim=0)
        self.assertTrue((starts > 0.1).all(), starts)

    def test_every_class_is_there(self):
        classes = problem_classes(4, 30, seed=0)
        self.assertEqual(list(classes), ["random", *(f"chain {length}" for length in range(5)), NINES])
        self.assertEqual({(len(source), len(target)) for source, target in classes.values()}, {(30, 30)})
        again = problem_classes(4, 30, seed=0)
        self.assertTrue(all(torch.equal(classes[name][0], again[name][0]) for name in classes))


if __name__ == "__main__":
    unittest.main()
