#!/usr/bin/env python3
"""Build report.pdf and the tables of README.md from the records in results/.

It needs one package: `pip install typst==0.15.2`. `python .report/build.py` writes both, or stops
at the first sentence that the records do not bear out. With `--check` it writes nothing, and exits
with 1 if one of them is not what the records give. With `--draft`, for your own training's records,
it marks such sentences in the margin of report.pdf and lists them.
"""

import argparse
import importlib.metadata
import json
import re
import sys
from pathlib import Path

from tables import filled

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TYPST = "0.15.2"
# Records that may be missing. Typst cannot ask whether a file exists.
OPTIONAL = (
    "problem1/results/beyond/head_seeds.jsonl",
    "problem1/results/beyond/benchmark.json",
    "problem2/results/beyond/benchmark.json",
    "problem1/results/beyond/robustness.json",
    "problem2/results/beyond/robustness.json",
    "problem1/results/beyond/seeds_focus_0.jsonl",
    "problem1/results/beyond/right_to_left/seeds_epochs_5.jsonl",
    "problem1/results/beyond/right_to_left/seeds.jsonl",
    "problem1/results/beyond/right_to_left/head_seeds.jsonl",
    "problem1/results/beyond/sizes/runs.jsonl",
    "problem1/results/beyond/lengths/runs.jsonl",
    "problem2/results/beyond/recommended/training_log.json",
    "problem2/results/beyond/study/recommended.json",
    "problem2/results/beyond/draws.jsonl",
    "problem2/results/beyond/draws_intervals.json",
    "problem2/results/beyond/gaps.jsonl",
)
RUNS = "problem2/results/beyond/study/runs.jsonl"


def author():
    """Full name and e-mail from README.md, each with whether it is still to be filled in."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    fields = {}
    for key, label in (("name", "Full name"), ("email", "USC email")):
        found = re.search(rf"^- {label}:\s*(?:\*\*)?(.+?)(?:\*\*)?\s*$", readme, re.MULTILINE)
        if not found:
            sys.exit(f"README.md has no line `- {label}: ...`")
        fields[key] = {"text": found[1].strip("[]<>"), "open": "to be filled in" in found[1]}
    return fields


def build(draft=False):
    """The report as PDF, and the claims in it that the records do not bear out."""
    try:
        version = importlib.metadata.version("typst")
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"the report is set with Typst: pip install typst=={TYPST}")
    if version != TYPST:
        sys.exit(
            f"typst {version} sets other bytes than the pinned one: pip install typst=={TYPST}"
        )
    import typst

    inputs = {
        "author": author(),
        "present": [f"/{path}" for path in OPTIONAL if (ROOT / path).is_file()],
        "runs": [f"/{RUNS}"] if (ROOT / RUNS).is_file() else [],
        "draft": draft,
    }
    source = {
        "input": str(HERE / "report.typ"),
        "root": str(ROOT),
        "ignore_system_fonts": True,
        "sys_inputs": {key: json.dumps(value) for key, value in inputs.items()},
    }
    try:
        broken = (
            json.loads(typst.query(selector="<broken>", field="value", **source)) if draft else []
        )
        return typst.compile(format="pdf", timestamp=0, **source), broken
    except (typst.TypstError, RuntimeError) as error:  # what compile and query raise
        sys.exit(
            f"{error.message}\n{error.diagnostic}"
            if getattr(error, "diagnostic", None)
            else str(error)
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if README.md or report.pdf is not up to date",
    )
    parser.add_argument(
        "--draft",
        action="store_true",
        help="build report.pdf although sentences do not fit the records: mark and list them",
    )
    args = parser.parse_args()
    if args.check and args.draft:
        parser.error("give --check or --draft, not both")
    check = args.check
    report, broken = build(args.draft)
    made = {
        "README.md": filled((ROOT / "README.md").read_text(encoding="utf-8")).encode(),
        "report.pdf": report,
    }
    for name, content in made.items():
        path = ROOT / name
        if not check:
            path.write_bytes(content)
        elif not path.is_file() or path.read_bytes() != content:
            sys.exit(f"{name} is not what the records in results/ give: python .report/build.py")
        print(f"{name}: {len(content):,} bytes, {'up to date' if check else 'written'}")
    if broken:
        print(
            f"The records do not bear out {len(broken)} sentences, marked in the margin:",
            *broken,
            sep="\n- ",
        )


if __name__ == "__main__":
    main()
