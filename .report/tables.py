"""The tables of README.md, between `<!-- table: NAME -->` and `<!-- end -->`."""

import json
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDITION, SORTING = ROOT / "problem1" / "results", ROOT / "problem2" / "results" / "beyond"
REQUIRED = ("sinusoidal", "learned", "none")


def read(path):
    """A record, or a list of the records of a file with one a line."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [*map(json.loads, text.splitlines())]


def percent(share, digits=1):
    """The share in percent, halves rounded up as in the report."""
    return f"{math.floor(100 * share * 10**digits + 0.5) / 10**digits:.{digits}f}%"


def span(values, show=percent):
    """The lowest and the highest value; one if they look alike."""
    return " to ".join(dict.fromkeys(map(show, (min(values), max(values)))))


def table(head, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def addition():
    """What came out in problem 1: a column an order of writing."""
    columns = []
    for folder in (ADDITION, ADDITION / "beyond" / "right_to_left"):
        beyond = folder / "beyond" if folder == ADDITION else folder
        test, every = read(folder / "training_log.json")["test"], read(beyond / "exhaustive.json")
        seeds, heads = read(beyond / "seeds.jsonl"), folder / "head_analysis"
        verdicts = list(read(heads / "ablation.json")["verdicts"].values())
        orders = {each["order"]: each for each in read(heads / "pruning.json")["orders"]}
        shares = [
            percent(share, 2) for share in (test["exact_match"], *test["exact_match_interval"])
        ]
        rows = {f"{test['n']:,} test problems right": "{} (95% interval {} to {})".format(*shares)}
        rows[f"wrong of all {every['pairs']:,} pairs"] = every["errors"]
        right = sum(record["errors"] == 0 for record in seeds)
        rows["training seeds without an error in all pairs"] = f"{right} of {len(seeds)}"
        rows[f"critical heads of {len(verdicts)}"] = verdicts.count("critical")
        for name, order in {
            "set to zero": "greedy",
            "replaced by constants": "greedy, mean",
        }.items():
            rows[f"heads {name} for under a point"] = orders[order]["prunable_1_point"]
        columns.append(rows)
    rows = [[name, *(str(column[name]) for column in columns)] for name in columns[0]]
    return table(["addition", "highest digit first", "units first"], rows)


def sorting():
    """What the sorting models score: a column a model, lowest to highest of the seeds."""

    def score(run, length, kind, measure="accuracy"):
        wanted = {"length": length, "negatives": kind, "gap_source": None}.items()
        sets = run["accuracy"] if kind else [run["test"] | dict(wanted)]
        found = next(each for each in sets if wanted <= each.items())
        return found[measure] if measure in found else found["right"] / found["n"]

    seeds, study = read(SORTING / "seeds.jsonl"), read(SORTING / "study" / "runs.jsonl")
    runs = {name: [run for run in seeds if run["encoding"] == name] for name in REQUIRED}
    runs["recommended"] = [run for run in study if run["variant"] == "recommended"]
    sets = {"test split, 8 to 16 values": (None, None)}
    sets |= {f"swaps, {n} values": (n, "swap") for n in (32, 64, 128, 256)}
    sets |= {f"one inversion, {n} values": (n, "one_inversion") for n in (16, 256)}
    rows = [
        [name, *(span([score(run, *chosen) for run in group]) for group in runs.values())]
        for name, chosen in sets.items()
    ]
    for n in (32, 256):
        aucs = [[score(run, n, "swap", "auc") for run in group] for group in runs.values()]
        rows.append([f"AUC, swaps, {n} values", *(span(each, "{:.2f}".format) for each in aucs)])
    return table(["sorting", *runs], rows)


def filled(readme):
    """The text of README.md with its tables made anew."""
    for name, make in {"addition": addition, "sorting": sorting}.items():
        start, end = f"<!-- table: {name} -->", "<!-- end -->"
        pattern = rf"{start}\n.*?{end}"
        text = f"{start}\n\n{make()}\n\n{end}"
        readme, count = re.subn(pattern, text, readme, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"README.md has no place between `{start}` and `{end}`")
    return readme
