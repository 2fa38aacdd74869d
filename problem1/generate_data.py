"""Generate the addition problems: train.json, val.json and test.json, no problem in two of them."""

import support.interrupt  # first: Ctrl-C while torch loads

import json
import random
from contextlib import ExitStack
from pathlib import Path

from dataset import MAX_DIGITS, PLUS_TOKEN, SPLITS, number_range
from support.cli import DATA_DIR, Parser, UserError, run, whole_number
from support.files import locked, replacing


def draw_pairs(size, num_digits, seed, seen):
    """Draw `size` pairs of numbers that are not in the set `seen`, and add them to it.

    First and second operand are drawn in turn with `random.randint`, as in the course's generator.
    """
    generator = random.Random(seed)
    low, high = number_range(num_digits)
    pairs = []
    while len(pairs) < size:
        pair = generator.randint(low, high), generator.randint(low, high)
        if pair not in seen:
            seen.add(pair)
            pairs.append(pair)
    return pairs


def as_tokens(pair, num_digits):
    """One problem in the form of the data files."""
    a, b = pair
    return {"input": [*map(int, str(a)), PLUS_TOKEN, *map(int, str(b))],
            "target": [*map(int, str(a + b).zfill(num_digits + 1))]}


def default_sizes(num_digits):
    """How many training, validation and test problems there are by default: 10,000, 2,000 and 2,000, or of numbers of
    one or two digits, of which there are not so many, all in these proportions."""
    low, high = number_range(num_digits)
    held_out = min(14_000, (high - low + 1) ** 2) // 7
    return min(14_000, (high - low + 1) ** 2) - 2 * held_out, held_out, held_out


def generate(output_dir=DATA_DIR, num_digits=3, seed=641, train_size=None, val_size=None, test_size=None):
    """Write the three files, each of them whole; split k is drawn with seed + k and avoids the splits before it.

    A size that is None is the default one (see `default_sizes`).

    Returns:
        The three sizes.

    Raises:
        UserError: if there are not that many different problems of this size, or another run is writing there.
    """
    sizes = [default if size is None else size
             for size, default in zip((train_size, val_size, test_size), default_sizes(num_digits))]
    low, high = number_range(num_digits)
    possible = (high - low + 1) ** 2
    if sum(sizes) > possible:
        raise UserError(f"there are only {possible:,} different problems of {num_digits} digit(s) ({low} to {high}), "
                        f"not {sum(sizes):,}: give python generate_data.py --train-size, --val-size and --test-size "
                        "that add up to at most that")
    seen = set()
    splits = [draw_pairs(size, num_digits, seed + k, seen) for k, size in enumerate(sizes)]
    with locked(Path(output_dir)), ExitStack() as stack:
        for split, pairs in zip(SPLITS, splits):
            file = stack.enter_context(replacing(Path(output_dir) / f"{split}.json"))
            file.write(json.dumps([as_tokens(pair, num_digits) for pair in pairs], indent=2).encode())
    return sizes


def ensure_data(data_dir, num_digits=3):
    """Generate the default data of `num_digits` into `data_dir` if it holds none.

    Raises:
        UserError: if that would put other than 3-digit problems where the commands look for those.
    """
    if not any((Path(data_dir) / f"{split}.json").exists() for split in SPLITS):
        if num_digits != 3 and Path(data_dir) == DATA_DIR:
            raise UserError(f"{data_dir} is empty and for 3-digit problems: name a folder for the {num_digits}-digit "
                            "problems of this model with --data-dir")
        print(f"no data in {data_dir}: generating it", flush=True)
        generate(data_dir, num_digits)


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--num-digits", type=int, default=3, choices=range(1, MAX_DIGITS + 1),
                        help="digits of each number")
    parser.add_argument("--seed", type=whole_number(0), default=641, help="seed of the training problems")
    for split, name, size in zip(("train", "val", "test"), ("training", "validation", "test"), default_sizes(3)):
        parser.add_argument(f"--{split}-size", type=whole_number(1), default=None,
                            help=f"number of {name} problems (default: {size:,}; of one or two digits fewer)")
    parser.add_argument("--output-dir", type=Path, default=DATA_DIR, help="folder for the three files")
    args = parser.parse_args(arguments)
    train_size, val_size, test_size = generate(**vars(args))
    print(f"{args.output_dir}: {train_size:,} training, {val_size:,} validation and {test_size:,} test problems of "
          f"{args.num_digits} digit(s)")


if __name__ == "__main__":
    run(main)
