"""Addition problems as tokens: `[3, 4, 7, +, 1, 5, 9] -> [0, 5, 0, 6]`.

Digits are tokens 0-9 and `+` is 10. Padding and the start token are tokens of their own, so that
the digit 0 is trained and scored like any other.
Shapes in comments: B batch, N problems, n digits of a number, T tokens.
"""

import warnings
from pathlib import Path

from support.cli import UserError
from support.files import read_json

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

PLUS_TOKEN, PAD_TOKEN, START_TOKEN = 10, 11, 12
VOCAB_SIZE = 13
MAX_DIGITS = 10
SPLITS = ("train", "val", "test")
ORDERS = ("left-to-right", "right-to-left")  # in which the digits of an answer are written


def get_vocab_size(num_digits=3):
    """Number of tokens: ten digits, `+`, padding, start; the same for any number of digits."""
    return VOCAB_SIZE


def number_range(num_digits):
    """The smallest and the largest number of `num_digits` digits, without leading zeros."""
    return 10 ** (num_digits - 1), 10**num_digits - 1


def to_digits(numbers, count):
    """The last `count` digits of `numbers [N]`, the highest first: `[N, count]`."""
    powers = 10 ** torch.arange(count - 1, -1, -1, device=numbers.device)
    return numbers.unsqueeze(1) // powers % 10


def to_numbers(digits):
    """Digits `[N, count]`, the highest first -> numbers `[N]`."""
    powers = 10 ** torch.arange(digits.size(1) - 1, -1, -1, device=digits.device)
    return (digits * powers).sum(dim=1)


def encode_problems(a, b):
    """Source `[N, 2n + 1]` and target `[N, n + 1]` of the sums of digits `a [N, n]`, `b [N, n]`.

    The digits are added column by column, so that numbers of any length are possible.
    """
    carry, digits = torch.zeros_like(a[:, 0]), []
    for column in (a + b).flip(1).unbind(1):  # [N], units first
        digits.append((column + carry) % 10)
        carry = (column + carry) // 10
    plus = torch.full_like(a[:, :1], PLUS_TOKEN)
    return torch.cat([a, plus, b], dim=1), torch.stack([*digits, carry], dim=1).flip(1)


def decode_problems(source):
    """The digits `a [N, n]`, `b [N, n]` of sources `[N, 2n + 1]`."""
    n = source.size(1) // 2
    return source[:, :n], source[:, n + 1 :]


def in_order(digits, order):
    """Digits `[N, T]`, the highest first, in the order of writing; twice is the identity."""
    return digits if order == ORDERS[0] else digits.flip(1)


def shift_right(target):
    """Decoder input for teacher forcing: a start token, then the target `[B, T]` but its last."""
    return torch.cat([torch.full_like(target[:, :1], START_TOKEN), target[:, :-1]], dim=1)


def padding_mask(tokens):
    """Mask `[B, S]` of the real tokens in `tokens [B, S]`, or None if none of them is padding."""
    real = tokens != PAD_TOKEN
    return None if real.all() else real


def read_problems(path):
    """Source tokens `[N, 2n + 1]` and target tokens `[N, n + 1]` of a data file.

    Raises:
        UserError: if the file is missing, damaged, or not a list of problems of one size; the
            message names the first problem that is wrong.
    """
    remedy = f"make the data again with python generate_data.py --output-dir {path.parent}"
    problems = read_json(path, remedy)
    try:
        source = torch.tensor([problem["input"] for problem in problems])
        target = torch.tensor([problem["target"] for problem in problems])
        n = source.size(1) // 2
        whole = source.dtype == target.dtype == torch.int64
        if not whole or source.size(1) != 2 * n + 1 or not 1 <= n <= MAX_DIGITS:
            raise ValueError
        # The same problems made anew from their digits: they have the `+` and the right sum.
        digits = torch.stack(decode_problems(source))  # [2, N, n]
        right_source, right_target = encode_problems(*digits)
        right = (digits >= 0) & (digits <= 9)
        right = right.all(dim=2).all(dim=0) & (digits[:, :, 0] > 0).all(dim=0)  # [N]
        right &= (source == right_source).all(dim=1) & (target == right_target).all(dim=1)
    except (TypeError, KeyError, ValueError, IndexError, RuntimeError):
        raise UserError(
            f'{path} is not a list of problems such as {{"input": [4, 10, 9], "target": [1, 3]}}, '
            f"all of one size: {remedy}"
        ) from None
    if not right.all():
        number = int((~right).nonzero()[0])
        raise UserError(
            f"{path}, problem {number}: {problems[number]} is not the sum of two numbers of {n} "
            f"digit(s) without leading zeros; {remedy}"
        )
    return source, target


class AdditionDataset(Dataset):
    """The problems of one data file.

    Args:
        data_path: JSON, a list of `{"input": [3, 4, 7, 10, 1, 5, 9], "target": [0, 5, 0, 6]}`.
        pad_token: for callers who pad items themselves (`collate_fn` pads with PAD_TOKEN).
        order: in which order targets are given; in the file the highest digit is first.

    An integer index gives one problem; a list or tensor of B indices gives a batch, assembled by
    indexing alone. Both are dicts `input, target, input_len, target_len`.

    Raises:
        UserError: if the file is missing or damaged.
        ValueError: if `pad_token` is a digit, `+` or the start token.
    """

    def __init__(self, data_path, pad_token=PAD_TOKEN, order=ORDERS[0]):
        if pad_token in {*range(10), PLUS_TOKEN, START_TOKEN}:
            raise ValueError(f"pad_token {pad_token} already means something else")
        self.pad_token = pad_token
        self.inputs, targets = read_problems(Path(data_path))
        self.targets = in_order(targets, order)

    @property
    def num_digits(self):
        """Digits of each of the two numbers."""
        return self.inputs.size(1) // 2

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        source, target = self.inputs[index].clone(), self.targets[index].clone()
        shape = source.shape[:-1]
        return {
            "input": source,
            "target": target,
            "input_len": torch.full(shape, source.size(-1)),
            "target_len": torch.full(shape, target.size(-1)),
        }


def collate_fn(batch):
    """Batch a list of single items; the shorter ones are padded at the end with PAD_TOKEN."""
    result = {}
    for key in ("input", "target"):
        items = [item[key] for item in batch]
        result[key] = pad_sequence(items, batch_first=True, padding_value=PAD_TOKEN)
    for key in ("input_len", "target_len"):
        result[key] = torch.stack([item[key] for item in batch])
    return result


class BatchIndices:
    """Sampler of whole batches of indices, shuffled anew at each pass if asked."""

    def __init__(self, size, batch_size, shuffle):
        self.size, self.batch_size, self.shuffle = size, batch_size, shuffle

    def __len__(self):
        return -(-self.size // self.batch_size)

    def __iter__(self):
        # Drawn when the first batch is asked for: a loader with workers calls iter() twice.
        yield from (torch.randperm if self.shuffle else torch.arange)(self.size).split(
            self.batch_size
        )


def create_dataloaders(data_dir, batch_size=32, num_workers=0, order=ORDERS[0]):
    """Loaders of the train (shuffled), validation and test problems in `data_dir`.

    Warns if a problem is in two splits.

    Raises:
        UserError: if a file is missing or damaged, or the sizes of numbers differ.
        ValueError: if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    paths = [Path(data_dir) / f"{split}.json" for split in SPLITS]
    datasets = [AdditionDataset(path, order=order) for path in paths]
    if len({dataset.num_digits for dataset in datasets}) > 1:
        raise UserError(
            f"the files in {data_dir} hold numbers of different sizes: make the data again with "
            f"python generate_data.py --output-dir {data_dir}"
        )
    distinct = [dataset.inputs.unique(dim=0) for dataset in datasets]
    shared = sum(map(len, distinct)) - len(torch.cat(distinct).unique(dim=0))
    if shared:
        warnings.warn(
            f"{shared} problem(s) in {data_dir} are in two splits: accuracies are flattered",
            stacklevel=2,
        )
    loaders = []
    for split, dataset in zip(SPLITS, datasets):
        sampler = BatchIndices(len(dataset), batch_size, shuffle=split == "train")
        # With a generator of its own, the loader draws nothing that training would miss.
        own = torch.Generator()
        loaders.append(
            DataLoader(dataset, None, sampler=sampler, num_workers=num_workers, generator=own)
        )
    return tuple(loaders)
