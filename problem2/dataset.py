"""Integer sequences, sorted or not: files, and batches of sequences of one length.

Shapes in comments: B batch, L length.
"""

import warnings
from pathlib import Path

from support.cli import UserError
from support.files import read_json

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

LARGEST_VALUE = 99
PAD_VALUE = 100
VOCAB_SIZE = 101
SPLITS = ("train", "val", "test")


def data_file(length, kind="swap", gap_source=None):
    """Name of an extrapolation set: sequences of `length` with one kind of negatives.

    With `gap_source` it is the gap control: windows of sorted sequences of that many values.
    """
    name = f"test_len_{length}" if gap_source is None else f"gap_control_{gap_source}"
    return f"{name}.json" if kind == "swap" else f"{name}_{kind}.json"


def read_sequences(path):
    """The entries of a data file, checked.

    Raises:
        UserError: if the file is missing, damaged, or not a list of labelled sequences; the message
            names the first sequence that is wrong.
    """
    folder = path.parent.parent if path.parent.name == "extrapolation" else path.parent
    remedy = f"make the data again with python generate_data.py --output-dir {folder}"
    entries = read_json(path, remedy)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} is not a list of sequences: {remedy}")
    for number, entry in enumerate(entries):
        fault = find_fault(entry)
        if fault:
            raise UserError(f"{path}, sequence {number}: {fault}; {remedy}")
    return entries


def find_fault(entry):
    """What is wrong with one entry of a data file, or None."""
    if not isinstance(entry, dict) or not {"sequence", "is_sorted", "length"} <= entry.keys():
        return 'needs the keys "sequence", "is_sorted" and "length"'
    sequence, label = entry["sequence"], entry["is_sorted"]
    if not isinstance(sequence, list) or not sequence:
        return '"sequence" must be a list of values'
    if not all(type(value) is int and 0 <= value <= LARGEST_VALUE for value in sequence):
        return f"values must be whole numbers from 0 to {LARGEST_VALUE}"
    if type(entry["length"]) is not int or entry["length"] != len(sequence):
        return f'"length" is {entry["length"]}, but there are {len(sequence)} values'
    if type(label) not in (int, bool) or label != (sequence == sorted(sequence)):
        return f'"is_sorted" is {label}, which is wrong'
    return None


class SortingDataset(Dataset):
    """The sequences of one data file.

    Args:
        data_path: JSON, a list of `{"sequence": [3, 15, 27], "is_sorted": 1, "length": 3}`.
        max_len: leave out sequences longer than this; None keeps all.
        pad_value: what fills up the shorter sequences; not one of the values 0 to 99.

    An integer index gives one sequence without padding; a list or tensor of B indices gives a
    batch, padded at the end to the longest of the B. Both are dicts `sequence, label, length, mask`
    (mask: True = real) of tensors that may be written into.

    Raises:
        UserError: if the file is missing or damaged.
        ValueError: if `pad_value` is a value, or nothing is left.
    """

    def __init__(self, data_path, max_len=None, pad_value=PAD_VALUE):
        if 0 <= pad_value <= LARGEST_VALUE:
            raise ValueError(f"pad_value {pad_value} is a value of the sequences")
        entries = read_sequences(Path(data_path))
        if max_len is not None:
            entries = [entry for entry in entries if entry["length"] <= max_len]
        if not entries:
            raise ValueError(f"{data_path} holds no sequence of at most {max_len} values")
        self.pad_value = pad_value
        self.labels = torch.tensor([int(entry["is_sorted"]) for entry in entries])
        self.lengths = torch.tensor([entry["length"] for entry in entries])
        sequences = [torch.tensor(entry["sequence"]) for entry in entries]
        self.sequences = pad_sequence(sequences, batch_first=True, padding_value=pad_value)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        lengths = self.lengths[index].clone()
        sequences = self.sequences[index][..., : lengths.max()].clone()
        return {
            "sequence": sequences,
            "label": self.labels[index].clone(),
            "length": lengths,
            "mask": torch.arange(sequences.size(-1)) < lengths.unsqueeze(-1),
        }


class ExtrapolationDataset(SortingDataset):
    """An extrapolation set of `data_dir`: one length, one kind of negatives."""

    def __init__(self, data_dir, target_length, pad_value=PAD_VALUE, kind="swap", gap_source=None):
        path = Path(data_dir) / "extrapolation" / data_file(target_length, kind, gap_source)
        super().__init__(path, pad_value=pad_value)


def collate_fn(batch):
    """Batch a list of single items; the shorter ones are padded at the end with PAD_VALUE."""
    result = {}
    for key, padding in (("sequence", PAD_VALUE), ("mask", False)):
        items = [item[key] for item in batch]
        result[key] = pad_sequence(items, batch_first=True, padding_value=padding)
    for key in ("label", "length"):
        result[key] = torch.stack([item[key] for item in batch])
    return result


class LengthBatches:
    """Sampler of whole batches of indices, each of sequences of one length: nothing is padded.

    Shuffled anew at each pass if asked: which sequences share a batch, and the order of batches.

    Raises:
        ValueError: if `batch_size` is below 1.
    """

    def __init__(self, lengths, batch_size, shuffle):
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        self.groups = [(lengths == length).nonzero().flatten() for length in lengths.unique()]
        self.batch_size, self.shuffle = batch_size, shuffle

    def __len__(self):
        return sum(-(-len(group) // self.batch_size) for group in self.groups)

    def __iter__(self):
        # Drawn when the first batch is asked for: a loader with workers calls iter() twice.
        groups = self.groups
        if self.shuffle:
            groups = [group[torch.randperm(len(group))] for group in groups]
        batches = [batch for group in groups for batch in group.split(self.batch_size)]
        order = torch.randperm(len(batches)) if self.shuffle else torch.arange(len(batches))
        if self.shuffle:
            # One draw more keeps the augmentation's draws those of the committed weights.
            torch.empty((), dtype=torch.int64).random_()
        yield from (batches[i] for i in order.tolist())


def make_loader(dataset, batch_size, shuffle=False, num_workers=0):
    """Batches of sequences of one length."""
    sampler = LengthBatches(dataset.lengths, batch_size, shuffle)
    # With a generator of its own, the loader draws nothing that training would miss.
    own = torch.Generator()
    return DataLoader(dataset, None, sampler=sampler, num_workers=num_workers, generator=own)


def create_dataloaders(data_dir, batch_size=32, num_workers=0):
    """Loaders of the train (shuffled), validation and test sequences in `data_dir`.

    Warns if a sequence is in two splits.

    Raises:
        UserError: if a file is missing or damaged.
        ValueError: if `batch_size` is below 1.
    """
    datasets = [SortingDataset(Path(data_dir) / f"{split}.json") for split in SPLITS]
    distinct = []
    for dataset in datasets:
        rows = zip(dataset.sequences.tolist(), dataset.lengths.tolist())
        distinct.append({tuple(row[:length]) for row, length in rows})
    shared = sum(map(len, distinct)) - len(set().union(*distinct))
    if shared:
        warnings.warn(
            f"{shared} sequence(s) in {data_dir} are in two splits: accuracies are flattered",
            stacklevel=2,
        )
    return tuple(
        make_loader(dataset, batch_size, split == "train", num_workers)
        for dataset, split in zip(datasets, SPLITS)
    )


def create_extrapolation_loader(data_dir, target_length, batch_size=32):
    """Batches of the extrapolation set of one length, with the course's swap negatives."""
    return make_loader(ExtrapolationDataset(data_dir, target_length), batch_size)
