"""Addition problems as tokens: `[3, 4, 7, +, 1, 5, 9] -> [0, 5, 0, 6]`.

Digits are tokens 0-9 and `+` is 10. Padding and the start token are tokens of their own, so that the digit 0 is
trained and scored like any other. Shapes in comments: B batch, N problems, n digits of a number.
"""

import warnings
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from support.cli import UserError
from support.files import read_json

PLUS_TOKEN, PAD_TOKEN, START_TOKEN = 10, 11, 12
VOCAB_SIZE = 13
MAX_DIGITS = 10
SPLITS = ("train", "val", "test")
REMEDY = "make the data again with python generate_data.py (and with --output-dir, if they are not in data/)"


def get_vocab_size(num_digits=3):
    """Number of tokens, whatever the number of digits: ten digits, `+`, padding, start."""
    return VOCAB_SIZE


def number_range(num_digits):
    """The smallest and the largest number of `num_digits` digits, without leading zeros."""
    return 10 ** (num_digits - 1), 10 ** num_digits - 1


def digits_of(numbers, count):
    """The last `count` decimal digits of `numbers [N]`, most significant first: `[N, count]`."""
    powers = 10 ** torch.arange(count - 1, -1, -1, device=numbers.device)
    return numbers.unsqueeze(1) // powers % 10


def encode_problems(a, b, num_digits):
    """Source tokens `[N, 2n + 1]` and target tokens `[N, n + 1]` of the sums of `a [N]` and `b [N]`."""
    plus = torch.full((len(a), 1), PLUS_TOKEN, device=a.device)
    source = torch.cat([digits_of(a, num_digits), plus, digits_of(b, num_digits)], dim=1)
    return source, digits_of(a + b, num_digits + 1)


def numbers_of(source, num_digits):
    """The two numbers `a [N]`, `b [N]` of the source tokens `[N, 2n + 1]`."""
    powers = 10 ** torch.arange(num_digits - 1, -1, -1)
    return (source[:, :num_digits] * powers).sum(dim=1), (source[:, num_digits + 1:] * powers).sum(dim=1)


def shift_right(target):
    """Decoder input for teacher forcing: the target `[B, T]` after a start token, without its last token."""
    return torch.cat([torch.full_like(target[:, :1], START_TOKEN), target[:, :-1]], dim=1)


def padding_mask(tokens):
    """Mask of the real tokens in `tokens [B, S]`: `[B, 1, 1, S]`, or None if none of them is padding."""
    real = tokens != PAD_TOKEN
    return None if real.all() else real[:, None, None, :]


def read_problems(path):
    """Source tokens `[N, 2n + 1]` and target tokens `[N, n + 1]` of a data file.

    Raises:
        UserError: if the file is missing, damaged, or not a list of problems of one size; names the first that is
            wrong.
    """
    problems = read_json(path, REMEDY)
    if not isinstance(problems, list) or not problems:
        raise UserError(f"{path} is not a list of problems: {REMEDY}")
    width = None
    for number, problem in enumerate(problems):
        wrong = _fault(problem, width)
        if wrong:
            raise UserError(f"{path}, problem {number}: {wrong}; {REMEDY}")
        width = len(problem["input"])
    return (torch.tensor([problem["input"] for problem in problems]),
            torch.tensor([problem["target"] for problem in problems]))


def _fault(problem, width):
    """What is wrong with one entry of a data file, or None; `width` is the source length of the entries before it."""
    if not isinstance(problem, dict) or not {"input", "target"} <= problem.keys():
        return 'needs the keys "input" and "target"'
    source, target = problem["input"], problem["target"]
    if not isinstance(source, list) or not isinstance(target, list):
        return '"input" and "target" must be lists of tokens'
    n = len(source) // 2
    if not 1 <= n <= MAX_DIGITS or len(source) != 2 * n + 1 or len(target) != n + 1:
        return f"{len(source)} tokens in and {len(target)} out is no sum of two numbers of 1 to {MAX_DIGITS} digits"
    if width is not None and len(source) != width:
        return f"{n}-digit numbers, where the problems before it have {width // 2}"
    digits = source[:n] + source[n + 1:] + target
    if (type(source[n]) is not int or source[n] != PLUS_TOKEN
            or not all(type(digit) is int and 0 <= digit <= 9 for digit in digits)):
        return f"tokens must be digits, with {PLUS_TOKEN} ('+') in the middle of the input"
    a, b, total = (int("".join(map(str, tokens))) for tokens in (source[:n], source[n + 1:], target))
    low, high = number_range(n)
    if not (low <= a <= high and low <= b <= high):
        return f"{a} + {b}: numbers must be from {low} to {high}"
    if a + b != total:
        return f"{a} + {b} is not {total}"
    return None


class AdditionDataset(Dataset):
    """The problems of one data file.

    Args:
        data_path: JSON, a list of `{"input": [3, 4, 7, 10, 1, 5, 9], "target": [0, 5, 0, 6]}`.
        pad_token: kept for callers who pad items themselves (here all problems of a file are of one length, and
            `collate_fn` pads with PAD_TOKEN); not a digit, `+` or the start token.

    An integer index gives one problem; a list or tensor of B indices gives a batch, assembled by indexing alone.
    Both are dicts `input, target, input_len, target_len`.

    Raises:
        UserError: if the file is missing or damaged.
        ValueError: if `pad_token` means something else.
    """

    def __init__(self, data_path, pad_token=PAD_TOKEN):
        if pad_token in {*range(10), PLUS_TOKEN, START_TOKEN}:
            raise ValueError(f"pad_token {pad_token} already means something else")
        self.pad_token = pad_token
        self.inputs, self.targets = read_problems(Path(data_path))

    @property
    def num_digits(self):
        """Digits of each of the two numbers."""
        return self.inputs.size(1) // 2

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        source, target = self.inputs[index].clone(), self.targets[index].clone()
        shape = source.shape[:-1]
        return {"input": source, "target": target, "input_len": torch.full(shape, source.size(-1)),
                "target_len": torch.full(shape, target.size(-1))}


def collate_fn(batch):
    """Batch a list of single items, padding the shorter ones at the end with PAD_TOKEN."""
    return {key: pad_sequence([item[key] for item in batch], batch_first=True, padding_value=PAD_TOKEN)
            for key in ("input", "target")} | {key: torch.stack([item[key] for item in batch])
                                               for key in ("input_len", "target_len")}


class BatchIndices:
    """Sampler of whole batches of indices, so that no per-sample Python runs; shuffled anew at each pass if asked."""

    def __init__(self, size, batch_size, shuffle):
        self.size, self.batch_size, self.shuffle = size, batch_size, shuffle

    def __len__(self):
        return -(-self.size // self.batch_size)

    def __iter__(self):
        order = torch.randperm(self.size) if self.shuffle else torch.arange(self.size)
        return iter(order.split(self.batch_size))


def create_dataloaders(data_dir, batch_size=32, num_workers=0):
    """Loaders of the train (shuffled), validation and test problems in `data_dir`; warns if a problem is in two splits.

    Raises:
        UserError: if a file is missing or damaged, or the sizes of numbers differ.
        ValueError: if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    datasets = [AdditionDataset(Path(data_dir) / f"{split}.json") for split in SPLITS]
    if len({dataset.num_digits for dataset in datasets}) > 1:
        raise UserError(f"the files in {data_dir} hold numbers of different sizes: {REMEDY}")
    distinct = [dataset.inputs.unique(dim=0) for dataset in datasets]
    shared = sum(map(len, distinct)) - len(torch.cat(distinct).unique(dim=0))
    if shared:
        warnings.warn(f"{shared} problem(s) in {data_dir} are in two splits: accuracies are flattered", stacklevel=2)
    return tuple(
        DataLoader(dataset, batch_size=None, sampler=BatchIndices(len(dataset), batch_size, shuffle=split == "train"),
                   num_workers=num_workers)
        for split, dataset in zip(SPLITS, datasets))
