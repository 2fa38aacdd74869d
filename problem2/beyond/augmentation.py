"""New training sequences from the training sequences alone, a batch of one length at a time.

No sequence becomes longer, and no value leaves 0 to 99. Each function takes and returns
`sequences [B, L]` and `labels [B]`. Shapes in comments: B batch, L length.
"""

from itertools import combinations

import torch

from dataset import LARGEST_VALUE
from train import AUGMENTATIONS

SHORTEST_CROP = 2


def crop(sequences, labels):
    """A random window of each sequence, labelled anew: part of an unsorted one can be sorted.

    One length from 2 to L is drawn for the whole batch; each window has its own start.
    """
    length = sequences.size(1)
    n = int(torch.randint(min(SHORTEST_CROP, length), length + 1, ()))
    starts = torch.randint(length - n + 1, (len(sequences), 1))  # [B, 1]
    sequences = sequences.gather(1, starts + torch.arange(n))  # [B, n]
    return sequences, (sequences[:, :-1] <= sequences[:, 1:]).all(dim=1).long()


def shift(sequences, labels):
    """A random constant added to all values of each sequence, within 0 to 99."""
    lowest, highest = sequences.amin(dim=1, keepdim=True), sequences.amax(dim=1, keepdim=True)
    room = LARGEST_VALUE - highest + lowest  # the new lowest value is drawn from 0 to this
    new = (torch.rand(room.shape) * (room + 1)).long().clamp(max=room)
    return sequences - lowest + new, labels


def swap(sequences, labels):
    """Two different neighbours exchanged in half of the sorted sequences: the least unsorted.

    A sequence whose values are all the same stays as it is.
    """
    ascents = (sequences[:, :-1] < sequences[:, 1:]).float()  # [B, L - 1]
    chosen = (labels == 1) & (ascents.sum(dim=1) > 0) & (torch.rand(len(labels)) < 0.5)
    if not chosen.any():
        return sequences, labels
    left = torch.multinomial(ascents[chosen], 1)
    pair = torch.cat([left, left + 1], dim=1)
    sequences, labels = sequences.clone(), labels.clone()
    exchanged = sequences[chosen].gather(1, pair.flip(1))
    sequences[chosen] = sequences[chosen].scatter(1, pair, exchanged)
    labels[chosen] = 0
    return sequences, labels


def compose(steps):
    """One augmentation that does several, one after the other."""

    def augment(sequences, labels):
        for step in steps:
            sequences, labels = step(sequences, labels)
        return sequences, labels

    return augment


# All combinations, such as "crop+shift", are made known to `train.fit`.
for count in (1, 2, 3):
    for steps in combinations((crop, shift, swap), count):
        AUGMENTATIONS["+".join(step.__name__ for step in steps)] = compose(steps)
