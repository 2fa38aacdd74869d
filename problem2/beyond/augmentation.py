"""New training sequences from the training sequences alone, a batch of one length at a time.

Nothing becomes longer, and no value leaves 0 to 99. Shapes in comments: B batch, L length.
"""

import torch

from dataset import LARGEST_VALUE

SHORTEST_CROP = 2


def labels_of(sequences):
    """1 for each of `sequences [B, L]` that is sorted, else 0: `[B]`."""
    return (sequences[:, :-1] <= sequences[:, 1:]).all(dim=1).long()


def crop(sequences, labels):
    """A random window of each of `sequences [B, L]`, labelled anew: a window of an unsorted sequence can be sorted.

    One length n from 2 to L is drawn for the whole batch, so that it stays a batch of one length; each window has its
    own start.
    """
    length = sequences.size(1)
    n = int(torch.randint(min(SHORTEST_CROP, length), length + 1, ()))
    starts = torch.randint(length - n + 1, (len(sequences), 1))
    sequences = sequences.gather(1, starts + torch.arange(n))
    return sequences, labels_of(sequences)


def shift(sequences, labels):
    """A constant added to all values of each of `sequences [B, L]`: any that keeps them within 0 to 99. Labels stay."""
    lowest, highest = sequences.amin(dim=1, keepdim=True), sequences.amax(dim=1, keepdim=True)
    room = LARGEST_VALUE - highest + lowest  # the new lowest value is drawn from 0 to this
    return sequences - lowest + (torch.rand(room.shape) * (room + 1)).long().clamp(max=room), labels


def swap(sequences, labels):
    """In half of the sorted ones of `sequences [B, L]` two neighbours that differ exchanged: unsorted by the least
    there is.

    A sequence all of whose values are the same stays as it is.
    """
    ascents = (sequences[:, :-1] < sequences[:, 1:]).float()
    chosen = (labels == 1) & (ascents.sum(dim=1) > 0) & (torch.rand(len(labels)) < 0.5)
    if not chosen.any():
        return sequences, labels
    left = torch.multinomial(ascents[chosen], 1)
    pair = torch.cat([left, left + 1], dim=1)
    sequences, labels = sequences.clone(), labels.clone()
    sequences[chosen] = sequences[chosen].scatter(1, pair, sequences[chosen].gather(1, pair.flip(1)))
    labels[chosen] = 0
    return sequences, labels


AUGMENTATIONS = {"none": (), "crop": (crop,), "shift": (shift,), "swap": (swap,), "crop+shift": (crop, shift),
                 "crop+swap": (crop, swap), "shift+swap": (shift, swap), "crop+shift+swap": (crop, shift, swap)}


def augment(sequences, labels, augmentation):
    """Apply an augmentation of `AUGMENTATIONS` to `sequences [B, L]` with labels `[B]`; returns the new two, on the
    CPU.

    Draws from torch's global random numbers; "none" draws nothing and changes nothing.
    """
    for step in AUGMENTATIONS[augmentation]:
        sequences, labels = step(sequences, labels)
    return sequences, labels
