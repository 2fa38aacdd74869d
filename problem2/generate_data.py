"""Generate sorted and unsorted integer sequences: training, validation and test splits, and the extrapolation sets.

Ascending means non-decreasing, so ties are sorted. No sequence is in two splits.
"""

import argparse
import json
import random
from pathlib import Path

from dataset import LARGEST_VALUE, SPLITS, SortingDataset, data_file
from support.cli import DATA_DIR, Parser, UserError, run, whole_number
from support.files import locked, write_files

SEED = 641
TEST_LENGTHS = (8, 12, 16, 32, 64, 128, 256)
GAP_SOURCES = (32, 64, 128, 256)
GAP_LENGTH = 16
MOST_DRAWS = 10**6  # for one new sequence


def is_sorted(sequence):
    """Whether no value is below the one before it."""
    return all(a <= b for a, b in zip(sequence, sequence[1:]))


def swap(sequence, generator):
    """The course's negatives: max(2, length // 3) random swaps; first and last swapped if that left it sorted."""
    sequence = list(sequence)
    for _ in range(max(2, len(sequence) // 3)):
        i, j = generator.sample(range(len(sequence)), 2)
        sequence[i], sequence[j] = sequence[j], sequence[i]
    if is_sorted(sequence):
        sequence[0], sequence[-1] = sequence[-1], sequence[0]
    return sequence


def one_inversion(sequence, generator):
    """One neighbouring pair of different values exchanged: the smallest violation there is."""
    sequence = list(sequence)
    i = generator.choice([i for i in range(len(sequence) - 1) if sequence[i] < sequence[i + 1]])
    sequence[i], sequence[i + 1] = sequence[i + 1], sequence[i]
    return sequence


def one_swap(sequence, generator):
    """Two positions with different values exchanged."""
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
    """The first sequence of `draw()` that fits and is not in the set `taken`, added to it.

    Raises:
        UserError: if `MOST_DRAWS` draws give none.
    """
    for _ in range(MOST_DRAWS):
        sequence = draw()
        if tuple(sequence) not in taken and fits(sequence):
            taken.add(tuple(sequence))
            return sequence
    raise UserError(
        f"no new sequence among {MOST_DRAWS:,} drawn: there are not enough different ones; ask for fewer "
        "or for longer ones"
    )


def draw_split(size, min_len, max_len, seed, seen, sorted_prob=0.5):
    """A split of sequences that are not in the set `seen`, added to it; drawn in the order of the course's generator.

    Raises:
        UserError: if there are not so many.
    """
    generator = random.Random(seed)

    def draw():
        length = generator.randint(min_len, max_len)
        is_positive = generator.random() < sorted_prob
        sequence = draw_sorted(length, generator)
        return sequence if is_positive else swap(sequence, generator)

    return [draw_new(draw, seen) for _ in range(size)]


def draw_test_sets(size, draw, seed, seen, kinds=tuple(NEGATIVES)):
    """Test sets `{kind of negatives: sequences}`, each half sorted; in each all differ, and none is in `seen`.

    All kinds share their sorted half and the sorted sequences that the negatives are made of, so that they are compared
    on equal terms.

    Raises:
        UserError: if there are not so many.
    """
    generator = random.Random(seed)

    def gives_negatives(sequence):
        return sequence[0] < sequence[-1] and tuple(reversed(sequence)) not in seen

    taken = set(seen)
    positives = [draw_new(lambda: draw(generator), taken) for _ in range(size // 2)]
    bases = [
        draw_new(lambda: draw(generator), taken, gives_negatives) for _ in range(size - size // 2)
    ]
    sets = {}
    for kind in kinds:
        taken = set(seen)
        sets[kind] = positives + [
            draw_new(lambda: NEGATIVES[kind](base, generator), taken) for base in bases
        ]
    return sets


def make_test_set(length, gap_source, size, seed, seen):
    """The files of the test sets of one length, or of the gap control of one source: `{name: content}`.

    Each has a seed of its own, which follows from `seed`, the data's.
    """
    if gap_source is None:
        sets = draw_test_sets(
            size, lambda generator: draw_sorted(length, generator), seed + 1000 + length, seen
        )
    else:
        sets = draw_test_sets(
            size,
            lambda generator: draw_window(gap_source, generator),
            seed + 2000 + gap_source,
            seen,
        )
    return {
        f"extrapolation/{data_file(length, kind, gap_source)}": json.dumps(records(sequences))
        for kind, sequences in sets.items()
    }


def records(sequences):
    """Sequences in the form of the data files."""
    return [
        {"sequence": sequence, "is_sorted": int(is_sorted(sequence)), "length": len(sequence)}
        for sequence in sequences
    ]


def generate_dataset(num_samples, min_len, max_len, sorted_prob=0.5, seed=None):
    """A list of `num_samples` different sequences in the form of the data files (the starter kit's
    function)."""
    return records(draw_split(num_samples, min_len, max_len, seed, set(), sorted_prob))


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
    """Write train.json, val.json, test.json and the extrapolation sets, each file whole.

    Split k is drawn with seed + k and avoids the splits before it; each extrapolation set has a seed of its own.

    Raises:
        UserError: if the lengths cannot be drawn from, there are not enough different sequences, or another run is
            writing there.
    """
    if min_train_len > max_train_len:
        raise UserError(f"--min-train-len {min_train_len} is above --max-train-len {max_train_len}")
    asked = train_size + val_size + test_size
    there_are = sum(
        (LARGEST_VALUE + 1) ** length for length in range(min_train_len, min(max_train_len, 6) + 1)
    )
    if min_train_len < 6 and asked > there_are:
        raise UserError(
            f"{asked:,} different sequences are asked for, and there are {there_are:,} of {min_train_len} "
            f"to {max_train_len} values"
        )
    output_dir = Path(output_dir)
    seen = set()
    splits = {
        split: draw_split(size, min_train_len, max_train_len, seed + k, seen)
        for k, (split, size) in enumerate(zip(SPLITS, (train_size, val_size, test_size)))
    }
    files = {
        f"{split}.json": json.dumps(records(sequences), indent=2)
        for split, sequences in splits.items()
    }
    if generate_extrapolation:
        for length, gap_source in [(length, None) for length in TEST_LENGTHS] + [
            (GAP_LENGTH, source) for source in GAP_SOURCES
        ]:
            files |= make_test_set(length, gap_source, test_size, seed, seen)
    with locked(output_dir):
        write_files({output_dir / name: content.encode() for name, content in files.items()})


def ensure_data(data_dir):
    """Generate the default data into `data_dir` if it holds none."""
    if not any((Path(data_dir) / f"{split}.json").exists() for split in SPLITS):
        print(f"no data in {data_dir}: generating it", flush=True)
        generate(data_dir)


def ensure_test_set(data_dir, length, gap_source=None):
    """Generate what is missing of the test sets of one length, or of the gap control of one source, as `generate` does
    by default.

    They hold as many sequences as test.json.

    Raises:
        UserError: if there are not so many, or the data are missing or damaged.
    """
    data_dir = Path(data_dir)
    missing = [
        name
        for kind in NEGATIVES
        if not (
            data_dir / (name := f"extrapolation/{data_file(length, kind, gap_source)}")
        ).exists()
    ]
    if missing:
        print(
            f"no test set of {length} values{f' with the gaps of {gap_source}' if gap_source else ''} in {data_dir}: "
            "generating it",
            flush=True,
        )
        splits = load_splits(data_dir)
        files = make_test_set(length, gap_source, len(splits[-1]), SEED, set().union(*splits))
        with locked(data_dir):
            write_files({data_dir / name: files[name].encode() for name in missing})


def load_splits(data_dir):
    """The sequences of each split, as lists of tuples.

    Raises:
        UserError: if a file is missing or damaged.
    """
    splits = [SortingDataset(Path(data_dir) / f"{split}.json") for split in SPLITS]
    return [
        [tuple(row[:n]) for row, n in zip(split.sequences.tolist(), split.lengths.tolist())]
        for split in splits
    ]


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--seed", type=whole_number(0), default=SEED, help="seed of the training sequences"
    )
    parser.add_argument(
        "--train-size", type=whole_number(1), default=10_000, help="number of training sequences"
    )
    parser.add_argument(
        "--val-size", type=whole_number(1), default=2_000, help="number of validation sequences"
    )
    parser.add_argument(
        "--test-size",
        type=whole_number(2),
        default=2_000,
        help="number of sequences in each test set",
    )
    parser.add_argument(
        "--min-train-len", type=whole_number(2), default=8, help="shortest training sequence"
    )
    parser.add_argument(
        "--max-train-len", type=whole_number(2), default=16, help="longest training sequence"
    )
    parser.add_argument(
        "--generate-extrapolation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="make the test sets of other lengths and of harder negatives too",
    )
    parser.add_argument("--output-dir", type=Path, default=DATA_DIR, help="folder for the files")
    args = parser.parse_args(arguments)
    generate(**vars(args))
    print(
        f"{args.output_dir}: {args.train_size:,} training, {args.val_size:,} validation and {args.test_size:,} test "
        f"sequences of {args.min_train_len} to {args.max_train_len} values"
        + (
            f"; extrapolation sets of {args.test_size:,} sequences"
            if args.generate_extrapolation
            else ""
        )
    )


if __name__ == "__main__":
    run(main)
