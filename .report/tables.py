"""The table of README.md, from the records in results/. It stands between `<!-- table: NAME -->` and `<!-- end -->`."""

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
    return f"{math.floor(100 * share * 10 ** digits + 0.5) / 10 ** digits:.{digits}f}%"


def span(values, show):
    """The lowest and the highest of the values as `show` writes them, or one of them if they look alike."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def table(head, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def study_runs(variant):
    """The records of the study's runs of a variant, by seed."""
    runs = [run for run in read_lines(SORTING / "study" / "runs.jsonl") if run["variant"] == variant]
    for run in runs:
        table = run["accuracy"]
        run["accuracy"] = [with_accuracy(table["same"] | dict(zip(table["columns"], row))) for row in table["rows"]]
        run["test"] = with_accuracy(run["test"])
    return sorted(runs, key=lambda run: run["seed"])


def with_accuracy(counts):
    return counts | {"accuracy": counts["right"] / counts["n"]}


def accuracy(record, length, negatives, gap_source=None):
    """The accuracy of a run on one test set."""
    return next(entry["accuracy"] for entry in record["accuracy"]
                if (entry["length"], entry["negatives"], entry["gap_source"]) == (length, negatives, gap_source))


def results():
    """What came out, some ten lines for both problems."""
    log, every, ablation = (read(ADDITION / f"{name}.json")
                            for name in ("training_log", "exhaustive", "head_analysis/ablation"))
    orders = [read_lines(path) for path in (ADDITION / "seeds.jsonl", ADDITION / "right_to_left" / "seeds.jsonl")]
    low, high = log["test"]["exact_match_interval"]
    kinds = list(ablation["verdicts"].values())
    runs = {encoding: [record for record in read(SORTING / "seeds.json") if record["encoding"] == encoding] for encoding in REQUIRED}
    runs["recommended"] = study_runs("recommended")

    def sorting(measure):
        return " / ".join(span([measure(record) for record in records], percent) for records in runs.values())

    def on(length, negatives):
        return sorting(lambda record: accuracy(record, length, negatives))
    return table(["measured", f"result (sorting: {' / '.join(runs)}; lowest to highest of the seeds)"], [
        [f"addition: {log['test']['n']:,} test problems", f"{percent(log['test']['exact_match'], 2)} right (95% interval "
         f"{percent(low, 2)} to {percent(high, 2)})"],
        [f"addition: all {every['pairs']:,} pairs", f"{every['errors']} wrong"],
        *([f"addition: training seeds without error in all pairs, {name}",
           "; ".join(f"{sum(record['errors'] == 0 for record in chosen)} of {len(chosen)} ({what})" for what, chosen in (
               ("seeds 0 to 4", [record for record in records if record["seed"] < 5]),
               ("later seeds, run once", [record for record in records if record["seed"] >= 5])) if chosen)]
          for name, records in zip(("highest digit first", "units first"), orders)),
        [f"heads: {len(kinds)}, ablated singly by three methods", f"{kinds.count('critical')} critical, "
         f"{kinds.count('redundant')} redundant, {kinds.count('depends on the method')} depend on the method"],
        ["sorting: test split, 8 to 16 values", sorting(lambda record: record["test"]["accuracy"])],
        *([f"sorting: swaps, {length} values", on(length, "swap")] for length in (32, 64, 128, 256)),
        *([f"sorting: one inversion, {length} values", on(length, "one_inversion")] for length in (16, 256))])


TABLES = {"results": results}


def filled(readme):
    """The text of README.md with its tables made anew."""
    def replace(found):
        return f"{found[1]}\n\n{TABLES[found[2]]()}\n\n{found[3]}"
    return re.sub(r"(<!-- table: (\w+) -->)\n.*?\n?(<!-- end -->)", replace, readme, flags=re.DOTALL)
