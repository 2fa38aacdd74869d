"""Generate sorted and unsorted sequences: training, validation, test, and the extrapolation sets.

Ascending means non-decreasing, so ties are sorted. No sequence is in two splits.
"""

import argparse
import json
import random
from functools import partial
from pathlib import Path

from support.cli import DATA_DIR, Parser, UserError, run, whole_number
from support.files import locked, write_files

from dataset import LARGEST_VALUE, SPLITS, data_file, read_sequences

SEED = 641
TEST_LENGTHS = (8, 12, 16, 32, 64, 128, 256)
GAP_SOURCES = (32, 64, 128, 256)
GAP_LENGTH = 16
MOST_DRAWS = 10**6  # for one new sequence


def is_sorted(sequence):
    """Whether no value is below the one before it."""
    return all(a <= b for a, b in zip(sequence, sequence[1:]))


def swap(sequence, generator):
    """The course's negatives: max(2, length // 3) times two random positions exchange values.

    If the sequence is still sorted, the first and the last value are exchanged.
    """
    sequence = list(sequence)
    for _ in range(max(2, len(sequence) // 3)):
        i, j = generator.sample(range(len(sequence)), 2)
        sequence[i], sequence[j] = sequence[j], sequence[i]
    if is_sorted(sequence):
        sequence[0], sequence[-1] = sequence[-1], sequence[0]
    return sequence


def one_inversion(sequence, generator):
    """Two neighbours of different value are exchanged: the smallest violation there is."""
    sequence = list(sequence)
    i = generator.choice([i for i in range(len(sequence) - 1) if sequence[i] < sequence[i + 1]])
    sequence[i], sequence[i + 1] = sequence[i + 1], sequence[i]
    return sequence


def one_swap(sequence, generator):
    """Two positions of different value are exchanged."""
    sequence = list(sequence)
    while is_sorted(sequence):
        i, j = generator.sample(range(len(sequence)), 2)
        sequence[i], sequence[j] = sequence[j], sequence[i]
    return sequence


def shuffled(sequence, generator):
    """All values in random order."""
    sequence = list(sequence)
    while is_sorted(sequence):
        generator.shuffle(sequence)
    return sequence


def reversed_(sequence, generator):
    """All values in descending order."""
    return list(sequence)[::-1]


# Each takes a sorted sequence and a random generator, and returns an unsorted sequence.
NEGATIVES = {
    "swap": swap,
    "one_inversion": one_inversion,
    "one_swap": one_swap,
    "shuffled": shuffled,
    "reversed": reversed_,
}


def draw_sorted(length, generator):
    """`length` values from 0 to 99, ascending."""
    return sorted(generator.randint(0, LARGEST_VALUE) for _ in range(length))


def draw_window(source, generator):
    """A window of 16 values, not all the same, of a sorted sequence of `source` values."""
    while True:
        sequence, start = draw_sorted(source, generator), generator.randint(0, source - GAP_LENGTH)
        window = sequence[start : start + GAP_LENGTH]
        if window[0] < window[-1]:
            return window


def draw_new(draw, taken, fits=lambda sequence: True):
    """The first sequence of `draw()` that fits and is not in the set `taken`; it is added to it.

    Raises:
        UserError: if `MOST_DRAWS` draws give none; all functions below pass it on.
    """
    for _ in range(MOST_DRAWS):
        sequence = draw()
        if tuple(sequence) not in taken and fits(sequence):
            taken.add(tuple(sequence))
            return sequence
    raise UserError(
        f"{MOST_DRAWS:,} draws gave no new sequence: there are not enough different ones; ask for "
        "fewer or for longer ones"
    )


def as_records(sequences):
    """Sequences in the form of the data files."""
    return [
        {"sequence": sequence, "is_sorted": int(is_sorted(sequence)), "length": len(sequence)}
        for sequence in sequences
    ]


def generate_dataset(num_samples, min_len, max_len, sorted_prob=0.5, seed=None, seen=None):
    """A list of different sequences in the form of the data files (the starter kit's function).

    They are drawn in the order of the course's generator. None of them is in the set `seen`; they
    are added to it.
    """
    generator, seen = random.Random(seed), set() if seen is None else seen

    def draw():
        length = generator.randint(min_len, max_len)
        is_positive = generator.random() < sorted_prob
        sequence = draw_sorted(length, generator)
        return sequence if is_positive else swap(sequence, generator)

    return as_records([draw_new(draw, seen) for _ in range(num_samples)])


def draw_test_sets(size, draw, seed, seen, kinds=tuple(NEGATIVES)):
    """Test sets `{kind of negatives: sequences}`, each half sorted; none of them is in `seen`.

    All kinds share their sorted half, and the sorted sequences that the negatives are made of, so
    that they are compared on equal terms. `draw(generator)` draws a sorted sequence.
    """
    generator, taken, sets = random.Random(seed), set(seen), {}

    def gives_negatives(sequence):
        return sequence[0] < sequence[-1] and tuple(reversed(sequence)) not in seen

    def draw_many(count, *fits):
        return [draw_new(lambda: draw(generator), taken, *fits) for _ in range(count)]

    positives = draw_many(size // 2)
    bases = draw_many(size - size // 2, gives_negatives)
    for kind in kinds:
        negatives = set(seen)
        sets[kind] = positives + [
            draw_new(lambda: NEGATIVES[kind](base, generator), negatives) for base in bases
        ]
    return sets


def make_test_sets(length, gap_source, size, seed, seen):
    """The files of the test sets of one length, or of one gap control: `{name: bytes}`.

    Each group has a seed of its own, which follows from the data's `seed`.
    """
    if gap_source is None:
        draw, seed = partial(draw_sorted, length), seed + 1000 + length
    else:
        draw, seed = partial(draw_window, gap_source), seed + 2000 + gap_source
    contents = {}
    for kind, sequences in draw_test_sets(size, draw, seed, seen).items():
        name = f"extrapolation/{data_file(length, kind, gap_source)}"
        contents[name] = json.dumps(as_records(sequences)).encode()
    return contents


def generate(
    output_dir=DATA_DIR,
    seed=SEED,
    train_size=10_000,
    val_size=2_000,
    test_size=2_000,
    min_train_len=8,
    max_train_len=16,
    generate_extrapolation=True,
):
    """Write train.json, val.json, test.json and the extrapolation sets, all together.

    Split k is drawn with seed + k and avoids the splits before it.
    """
    if min_train_len > max_train_len:
        raise UserError(f"--min-train-len {min_train_len} is above --max-train-len {max_train_len}")
    seen, contents = set(), {}
    for k, (split, size) in enumerate(zip(SPLITS, (train_size, val_size, test_size))):
        records = generate_dataset(size, min_train_len, max_train_len, seed=seed + k, seen=seen)
        contents[f"{split}.json"] = json.dumps(records, indent=2).encode()
    if generate_extrapolation:
        for length in TEST_LENGTHS:
            contents |= make_test_sets(length, None, test_size, seed, seen)
        for source in GAP_SOURCES:
            contents |= make_test_sets(GAP_LENGTH, source, test_size, seed, seen)
    write_files({Path(output_dir) / name: content for name, content in contents.items()})


def ensure_data(data_dir):
    """Generate the default data into `data_dir` if it holds none."""

    def has_data():
        return any((Path(data_dir) / f"{split}.json").exists() for split in SPLITS)

    if has_data():
        return
    # Of two commands that start at once, the second waits for the data of the first.
    with locked(Path(data_dir), patient=True):
        if not has_data():
            print(f"no data in {data_dir}: generating it", flush=True)
            generate(data_dir)


def ensure_test_set(data_dir, length, gap_source=None):
    """Generate what is missing of the test sets of one length, or of one gap control.

    The sets are as `generate` makes them by default, with as many sequences as test.json.
    """
    data_dir = Path(data_dir)
    names = [f"extrapolation/{data_file(length, kind, gap_source)}" for kind in NEGATIVES]

    def missing():
        return [name for name in names if not (data_dir / name).exists()]

    if not missing():
        return
    with locked(data_dir, patient=True):
        if absent := missing():
            what = f"{length} values" + (f" with the gaps of {gap_source}" if gap_source else "")
            print(f"no test set of {what} in {data_dir}: generating it", flush=True)
            splits = load_splits(data_dir)
            made = make_test_sets(length, gap_source, len(splits[-1]), SEED, set().union(*splits))
            write_files({data_dir / name: made[name] for name in absent})


def load_splits(data_dir):
    """The sequences of each split, as lists of tuples."""
    paths = [Path(data_dir) / f"{split}.json" for split in SPLITS]
    return [[tuple(entry["sequence"]) for entry in read_sequences(path)] for path in paths]


def main(arguments=None):
    parser = Parser(description=__doc__)
    for option, kind, default, text in [
        ("--seed", whole_number(0), SEED, "seed of the training sequences"),
        ("--train-size", whole_number(1), 10_000, "number of training sequences"),
        ("--val-size", whole_number(1), 2_000, "number of validation sequences"),
        ("--test-size", whole_number(2), 2_000, "number of sequences in each test set"),
        ("--min-train-len", whole_number(2), 8, "shortest training sequence"),
        ("--max-train-len", whole_number(2), 16, "longest training sequence"),
        ("--output-dir", Path, DATA_DIR, "folder for the files"),
    ]:
        parser.add_argument(option, type=kind, default=default, help=text)
    parser.add_argument(
        "--generate-extrapolation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="make the test sets of other lengths and of harder negatives too",
    )
    args = parser.parse_args(arguments)
    with locked(args.output_dir):
        generate(**vars(args))
    sizes = f"{args.train_size:,} training, {args.val_size:,} validation, {args.test_size:,} test"
    print(f"{args.output_dir}: {sizes} sequences")


if __name__ == "__main__":
    run(main)
