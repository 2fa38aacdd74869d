"""The records of the study's runs: one file, a line a run, which holds counts; what follows from them is derived in
reading.

A line is the JSON of a run's record in which

- measures of `summarize` are given as `n`, `right`, `called_sorted`, `loss`, `auc`;
- a list of records is a table `{"same": {key: value}, "columns": [key, ...], "rows": [[value, ...], ...]}`, whose
  `same` holds for every row.
"""

import json

from learning.evaluation import wilson_interval
from support.cli import UserError
from support.files import replacing, rounded

DIGITS = 5
REMEDY = "move the file away and run python study.py again"


def to_counts(record):
    """A record with `right` and `called_sorted` in the place of the shares that follow from them and `n`."""
    counted = {key: value for key, value in record.items()
               if key not in ("accuracy", "accuracy_interval", "sorted_share", "set")}
    counted["right"] = round(record["accuracy"] * record["n"])
    if "sorted_share" in record:
        counted["called_sorted"] = round(record["sorted_share"] * record["n"])
    return counted


def from_counts(counted):
    """The inverse of `to_counts`, but for `set`."""
    record = {key: value for key, value in counted.items() if key not in ("right", "called_sorted")}
    record["accuracy"] = counted["right"] / counted["n"]
    record["accuracy_interval"] = wilson_interval(counted["right"], counted["n"])
    if "called_sorted" in counted:
        record["sorted_share"] = counted["called_sorted"] / counted["n"]
    return record


def to_table(records):
    """Records of the same keys as a table."""
    same = {key: value for key, value in records[0].items() if all(record[key] == value for record in records)}
    columns = [key for key in records[0] if key not in same]
    return {"same": same, "columns": columns, "rows": [[record[key] for key in columns] for record in records]}


def from_table(table):
    """The inverse of `to_table`."""
    return [table["same"] | dict(zip(table["columns"], row)) for row in table["rows"]]


def pack(record):
    """What a run's record is in the file: a dict."""
    packed = record | {key: to_counts(record[key]) for key in ("val", "test")}
    packed |= {key: to_table(record[key]) for key in ("dilution", "heads")}
    packed |= {key: to_table([to_counts(entry) for entry in record[key]]) for key in ("accuracy", "untrained_rows")
               if key in record}
    packed["ties"] = to_table([to_counts(entry) | {"set": entry["set"]} for entry in record["ties"]])
    shortcut = record["shortcut"]
    n, right = shortcut["n"], round(shortcut["accuracy"] * shortcut["n"])
    where_wrong = round(shortcut["accuracy_where_trend_is_wrong"]
                        * shortcut["trend_wrong"]) if shortcut["trend_wrong"] else 0
    packed["shortcut"] = {"n": n, "right": right, "trend_wrong": shortcut["trend_wrong"],
                          "right_where_trend_is_wrong": where_wrong, "agree": round(shortcut["agreement"] * n),
                          **{key: shortcut[key] for key in ("kappa", "margin_correlation")}}
    if "every_window" in record:
        packed["every_window"] = {key: value for key, value in record["every_window"].items()
                                  if key != "every_sequence_right"}
    return rounded(packed, DIGITS)


def unpack(packed):
    """The inverse of `pack`, but for rounding."""
    record = packed | {key: from_counts(packed[key]) for key in ("val", "test")}
    record |= {key: from_table(packed[key]) for key in ("dilution", "heads")}
    record |= {key: [from_counts(entry) for entry in from_table(packed[key])]
               for key in ("accuracy", "untrained_rows", "ties")
               if key in packed}
    for entry in record["accuracy"]:
        entry["set"] = "length" if entry["gap_source"] is None else "gap control"
    shortcut = packed["shortcut"]
    n, wrong = shortcut["n"], shortcut["trend_wrong"]
    where_wrong = shortcut["right_where_trend_is_wrong"]
    record["shortcut"] = {"n": n, "accuracy": shortcut["right"] / n, "trend_accuracy": 1 - wrong / n,
                          "agreement": shortcut["agree"] / n, "kappa": shortcut["kappa"], "trend_wrong": wrong,
                          "accuracy_where_trend_is_right": (shortcut["right"] - where_wrong) / (n - wrong) if n > wrong
                          else None, "accuracy_where_trend_is_wrong": where_wrong / wrong if wrong else None,
                          "margin_correlation": shortcut["margin_correlation"]}
    if "every_window" in packed:
        windows = packed["every_window"]
        right = not windows["called_unsorted"] and not windows["not_always_noticed"]
        record["every_window"] = windows | {"every_sequence_right": right}
    return record


RUN_KEYS = {"variant", "seed", "settings", "training_sha256", "num_samples"}


def read_lines(path, keys=RUN_KEYS, remedy=REMEDY):
    """The lines of the file as dicts; none if there is no file.

    Raises:
        UserError: if one is not a record with these keys, as that of a run has by default.
    """
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not keys <= record.keys():
                raise ValueError("it lacks what a record has")
            records.append(record)
        except (ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}, is no record of a run ({error}): {remedy}") from None
    return records


def write_lines(path, records):
    """Write the file anew, a line a record."""
    with replacing(path) as file:
        file.writelines(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)


def add_record(path, record):
    """Write the file anew with the run's record as its last line, in the place of one of the same variant and seed."""
    lines = [line for line in read_lines(path) if (line["variant"], line["seed"])
             != (record["variant"], record["seed"])]
    write_lines(path, [*lines, pack(record)])
