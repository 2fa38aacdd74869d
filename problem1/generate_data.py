"""Generate the addition problems: train.json, val.json and test.json, no problem in two of them."""

import json
import random
from pathlib import Path

from support.cli import DATA_DIR, Parser, UserError, run, whole_number
from support.files import locked, write_files

from dataset import MAX_DIGITS, PLUS_TOKEN, SPLITS, number_range

SEED = 641
MOST_PROBLEMS = 14_000


def draw_pairs(size, num_digits, seed, seen):
    """`size` pairs of numbers that are not in the set `seen`; they are added to it.

    First and second operand are drawn in turn with `random.randint`, as the course's generator
    draws them.
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
    source = [*map(int, str(a)), PLUS_TOKEN, *map(int, str(b))]
    return {"input": source, "target": [*map(int, str(a + b).zfill(num_digits + 1))]}


def generate_dataset(num_samples, num_digits, seed=None):
    """A list of `num_samples` different problems (the starter kit's function)."""
    return [
        as_tokens(pair, num_digits) for pair in draw_pairs(num_samples, num_digits, seed, set())
    ]


def default_sizes(num_digits):
    """How many training, validation and test problems there are by default.

    10,000, 2,000 and 2,000; of one or two digits there are fewer, in the same proportions.
    """
    low, high = number_range(num_digits)
    total = min(MOST_PROBLEMS, (high - low + 1) ** 2)
    return total - 2 * (total // 7), total // 7, total // 7


def generate(output_dir, num_digits=3, seed=SEED, train_size=None, val_size=None, test_size=None):
    """Write the three files together; a size that is None is the default one.

    Split k is drawn with seed + k and avoids the splits before it.

    Returns:
        The three sizes.

    Raises:
        UserError: if there are not that many different problems.
    """
    given = train_size, val_size, test_size
    sizes = [
        default if size is None else size for size, default in zip(given, default_sizes(num_digits))
    ]
    low, high = number_range(num_digits)
    possible = (high - low + 1) ** 2
    if sum(sizes) > possible:
        raise UserError(
            f"there are only {possible:,} different problems of {num_digits} digit(s) ({low} to "
            f"{high}), not {sum(sizes):,}: give python generate_data.py smaller sizes"
        )
    seen, contents = set(), {}
    for k, (split, size) in enumerate(zip(SPLITS, sizes)):
        pairs = draw_pairs(size, num_digits, seed + k, seen)
        problems = [as_tokens(pair, num_digits) for pair in pairs]
        contents[Path(output_dir) / f"{split}.json"] = json.dumps(problems, indent=2).encode()
    write_files(contents)
    return sizes


def ensure_data(data_dir, num_digits=3):
    """Generate the default data of `num_digits` into `data_dir` if it holds none.

    Raises:
        UserError: if other than 3-digit problems would be put where every command looks for those.
    """

    def has_data():
        return any((Path(data_dir) / f"{split}.json").exists() for split in SPLITS)

    if has_data():
        return
    # Of two commands that start at once, the second waits for the data of the first.
    with locked(Path(data_dir), patient=True):
        if has_data():
            return
        if num_digits != 3 and Path(data_dir) == DATA_DIR:
            raise UserError(
                f"{data_dir} is empty and is for 3-digit problems: name a folder for the "
                f"{num_digits}-digit problems of this model with --data-dir"
            )
        print(f"no data in {data_dir}: generating it", flush=True)
        generate(data_dir, num_digits)


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--num-digits",
        type=int,
        default=3,
        choices=range(1, MAX_DIGITS + 1),
        help="digits of each number",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=SEED, help="seed of the training problems"
    )
    for split, name, size in zip(SPLITS, ("training", "validation", "test"), default_sizes(3)):
        parser.add_argument(
            f"--{split}-size",
            type=whole_number(1),
            default=None,
            help=f"number of {name} problems (default: {size:,}; fewer of one or two digits)",
        )
    parser.add_argument(
        "--output-dir", type=Path, default=DATA_DIR, help="folder for the three files"
    )
    args = parser.parse_args(arguments)
    with locked(args.output_dir):
        train_size, val_size, test_size = generate(**vars(args))
    print(
        f"{args.output_dir}: {train_size:,} training, {val_size:,} validation and {test_size:,} "
        f"test problems of {args.num_digits} digit(s)"
    )


if __name__ == "__main__":
    run(main)
