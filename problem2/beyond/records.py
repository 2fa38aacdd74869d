"""Records of many runs hold counts; the shares that follow from them are derived when read."""

import math
import statistics

from support.cli import UserError
from support.studies import read_records

# Student's 97.5% points, by the number of values.
STUDENT = dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), 2))
SHARES = ("accuracy", "accuracy_interval", "sorted_share")


def read_whole(path, keys, needed):
    """The records in a file of JSON lines, as `studies.read_records` gives them.

    Raises:
        UserError: if one lacks an entry of `keys` or of `needed`.
    """
    records = read_records(path, keys)
    for record in records:
        for key in needed:
            if key not in record:
                values = ", ".join(f"{name} {record[name]}" for name in keys)
                raise UserError(f'{path}: the line of {values} has no "{key}": move the file away')
    return records


def to_counts(measures):
    """A record of `evaluation.summarize`, with counts in the place of its shares."""
    counts = {key: value for key, value in measures.items() if key not in SHARES}
    counts["right"] = round(measures["accuracy"] * measures["n"])
    counts["called_sorted"] = round(measures["sorted_share"] * measures["n"])
    return counts


def accuracy(counts):
    """The share of right answers."""
    return counts["right"] / counts["n"]


def student(n):
    """Student's 97.5% point for `n` values; beyond ten that of ten, which is a little too wide."""
    return STUDENT[min(n, 10)]


def mean_interval(values):
    """The mean, and half the width of its 95% interval (Student's t; 0 for a single value)."""
    if len(values) == 1:
        return values[0], 0.0
    half = student(len(values)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half
