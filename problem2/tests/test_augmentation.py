"""Augmentation: what comes out is made of what went in, is labelled rightly, and stays within the lengths and
values."""

import unittest

import torch

from learning.augmentation import AUGMENTATIONS, augment, crop, labels_of, shift, swap


def batch(count=400, length=12, seed=0):
    """Half sorted, with many ties, and labels."""
    sequences = torch.randint(30, 70, (count, length), generator=torch.Generator().manual_seed(seed))
    sequences[::2] = sequences[::2].sort(dim=1).values
    return sequences, labels_of(sequences)


class Augmentation(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_labels(self):
        self.assertEqual(labels_of(torch.tensor([[1, 2, 2], [2, 1, 2], [1, 2, 1], [5, 5, 5]])).tolist(), [1, 0, 0, 1])
        sequences, labels = batch()
        self.assertEqual(labels.tolist(), [int(row == sorted(row)) for row in sequences.tolist()])

    def test_crops_are_windows_of_every_length_and_place_and_labelled_anew(self):
        sequences, labels = batch()
        lengths, starts, turned = set(), set(), 0
        for _ in range(100):
            cropped, new = crop(sequences, labels)
            n = cropped.size(1)
            windows = sequences.unfold(1, n, 1)  # [B, starts, n]
            found = (windows == cropped.unsqueeze(1)).all(dim=2)
            self.assertTrue(found.any(dim=1).all())
            self.assertTrue(torch.equal(new, labels_of(cropped)))
            lengths.add(n)
            if n == 6:
                starts |= set(found.int().argmax(dim=1).tolist())
            turned += int((new > labels).sum())
        self.assertEqual((lengths, starts), (set(range(2, 13)), set(range(7))))
        self.assertGreater(turned, 0, "a window of an unsorted sequence can be sorted")
        self.assertEqual(crop(torch.tensor([[7], [8]]), torch.tensor([1, 1]))[0].tolist(), [[7], [8]])

    def test_shifts_keep_differences_and_reach_both_ends(self):
        sequences, labels = batch()
        shifted, new = shift(sequences, labels)
        self.assertTrue(torch.equal(shifted.diff(dim=1), sequences.diff(dim=1)))
        self.assertIs(new, labels)
        self.assertTrue(0 <= shifted.min() < 3 and 96 < shifted.max() <= 99)
        whole = torch.tensor([[0, 99], [99, 0]])
        self.assertTrue(torch.equal(shift(whole, torch.tensor([1, 0]))[0], whole))

    def test_swaps_exchange_two_neighbours_that_differ_in_half_of_the_sorted(self):
        sequences, labels = batch()
        swapped, new = swap(sequences, labels)
        changed = (swapped != sequences).any(dim=1)
        self.assertTrue(torch.equal(new, labels_of(swapped)))
        self.assertTrue((labels[changed] == 1).all() and (new[changed] == 0).all())
        self.assertTrue(0.4 < changed.sum() / (labels == 1).sum() < 0.6)
        places = (swapped != sequences)[changed].nonzero()[:, 1].view(-1, 2)
        self.assertTrue((places[:, 1] - places[:, 0] == 1).all())
        self.assertEqual(set(places[:, 0].tolist()), set(range(11)))
        self.assertTrue(torch.equal(swapped.sort(dim=1).values, sequences.sort(dim=1).values))
        constant = torch.full((9, 4), 5), torch.ones(9, dtype=torch.long)
        self.assertTrue(all(map(torch.equal, swap(*constant), constant)))

    def test_together_they_keep_to_the_lengths_and_values(self):
        for name in AUGMENTATIONS:
            for seed in range(5):
                sequences, labels = augment(*batch(seed=seed), name)
                self.assertTrue(torch.equal(labels, labels_of(sequences)), name)
                self.assertTrue(sequences.size(1) <= 12 and 0 <= sequences.min() and sequences.max() <= 99)
        before, state = batch(), torch.get_rng_state()
        after = augment(*before, "none")
        self.assertTrue(after[0] is before[0] and after[1] is before[1] and torch.equal(torch.get_rng_state(), state))
