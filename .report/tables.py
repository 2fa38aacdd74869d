"""The table of README.md, between `<!-- table: NAME -->` and `<!-- end -->`."""

import json
import math
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDITION, SORTING = ROOT / "problem1" / "results", ROOT / "problem2" / "results"
REQUIRED = ("sinusoidal", "learned", "none")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def percent(share, digits=1):
    """The share in percent, halves rounded up as in the report."""
    return f"{math.floor(100 * share * 10**digits + 0.5) / 10**digits:.{digits}f}%"


def span(values, show):
    """The lowest and the highest of the values as `show` writes them; one if they look alike."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def table(head, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def study_runs(variant):
    """The records of the study's runs of a variant, by seed."""
    lines = read_lines(SORTING / "beyond" / "study" / "runs.jsonl")
    runs = [run for run in lines if run["variant"] == variant]
    for run in runs:
        run["accuracy"] = [with_accuracy(entry) for entry in run["accuracy"]]
        run["test"] = with_accuracy(run["test"])
    return sorted(runs, key=lambda run: run["seed"])


def with_accuracy(counts):
    return counts | {"accuracy": counts["right"] / counts["n"]}


def accuracy(record, length, negatives, gap_source=None):
    """The accuracy of a run on one test set."""
    return next(
        entry["accuracy"]
        for entry in record["accuracy"]
        if (entry["length"], entry["negatives"], entry["gap_source"])
        == (length, negatives, gap_source)
    )


def seeds_without_error(path):
    """How many training seeds make no error in all pairs: those that settled the recipe, others."""
    records = read_lines(path)
    groups = {
        "seeds 0 to 4": [record for record in records if record["seed"] < 5],
        "later seeds, run once": [record for record in records if record["seed"] >= 5],
    }
    return "; ".join(
        f"{sum(record['errors'] == 0 for record in group)} of {len(group)} ({name})"
        for name, group in groups.items()
        if group
    )


def addition():
    """What came out in problem 1, a line each."""
    log = read(ADDITION / "training_log.json")
    every = read(ADDITION / "beyond" / "exhaustive.json")
    verdicts = list(read(ADDITION / "head_analysis" / "ablation.json")["verdicts"].values())
    low, high = log["test"]["exact_match_interval"]
    count = {name: verdicts.count(name) for name in set(verdicts)}
    beyond = ADDITION / "beyond"
    rows = {
        f"{log['test']['n']:,} test problems": f"{percent(log['test']['exact_match'], 2)} right "
        f"(95% interval {percent(low, 2)} to {percent(high, 2)})",
        f"all {every['pairs']:,} pairs": f"{every['errors']} wrong",
        "training seeds without error in all pairs, highest digit first": seeds_without_error(
            beyond / "seeds.jsonl"
        ),
        "the same, units first": seeds_without_error(beyond / "right_to_left" / "seeds.jsonl"),
        f"{len(verdicts)} heads, ablated singly by three methods": f"{count['critical']} critical, "
        f"{count['redundant']} redundant, {count['depends on the method']} depend on the method",
    }
    return table(["addition", "result"], rows.items())


def sorting():
    """Accuracy of the sorting models: a column a model, lowest to highest of the seeds."""
    records = read_lines(SORTING / "beyond" / "seeds.jsonl")
    runs = {
        encoding: [record for record in records if record["encoding"] == encoding]
        for encoding in REQUIRED
    } | {"recommended": study_runs("recommended")}
    rows = {"test split, 8 to 16 values": lambda record: record["test"]["accuracy"]}
    sets = [("swap", n) for n in (32, 64, 128, 256)] + [("one_inversion", n) for n in (16, 256)]
    for kind, length in sets:
        name = {"swap": "swaps", "one_inversion": "one inversion"}[kind]
        rows[f"{name}, {length} values"] = lambda record, length=length, kind=kind: accuracy(
            record, length, kind
        )
    return table(
        ["sorting", *runs],
        [
            [name, *(span([measure(run) for run in group], percent) for group in runs.values())]
            for name, measure in rows.items()
        ],
    )


TABLES = {"addition": addition, "sorting": sorting}


def filled(readme):
    """The text of README.md with its tables made anew."""

    def replace(found):
        return f"{found[1]}\n\n{TABLES[found[2]]()}\n\n{found[3]}"

    pattern = r"(<!-- table: (\w+) -->)\n.*?\n?(<!-- end -->)"
    return re.sub(pattern, replace, readme, flags=re.DOTALL)
