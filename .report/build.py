#!/usr/bin/env python3
"""Build report.pdf and the tables of README.md from the records in results/. Needs one package: `pip install typst==0.15.2`.

`python .report/build.py` writes both; with `--check` it writes nothing and exits with 1 if one of them is not what the records give.
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
# Records that the report does without while they are not there. Typst cannot ask whether a file exists.
OPTIONAL = ("problem1/results/head_analysis/seeds.json", "problem1/results/benchmark.json", "problem2/results/benchmark.json",
            "problem1/results/robustness.json", "problem2/results/robustness.json", "problem1/results/seeds_focus_0.json",
            "problem2/results/recommended/training_log.json", "problem2/results/study/recommended.json")
RUNS = "problem2/results/study/runs.jsonl"


def author():
    """Full name and e-mail as README.md gives them, each with whether it is still to be filled in."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    fields = {}
    for key, label in (("name", "Full name"), ("email", "USC email")):
        found = re.search(rf"^- {label}:\s*(?:\*\*)?(.+?)(?:\*\*)?\s*$", readme, re.MULTILINE)
        if not found:
            sys.exit(f"README.md has no line `- {label}: ...`")
        fields[key] = {"text": found[1].strip("[]<>"), "open": "to be filled in" in found[1]}
    return fields


def build():
    """The report as PDF: a function of the repository's files alone."""
    try:
        version = importlib.metadata.version("typst")
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"the report is set with Typst: pip install typst=={TYPST}")
    if version != TYPST:
        sys.exit(f"typst {version} is installed, and another version sets other bytes: pip install typst=={TYPST}")
    import typst
    inputs = {"author": author(), "present": [f"/{path}" for path in OPTIONAL if (ROOT / path).is_file()],
              "runs": [f"/{RUNS}"] if (ROOT / RUNS).is_file() else []}
    try:
        return typst.compile(str(HERE / "report.typ"), root=str(ROOT), format="pdf", ignore_system_fonts=True, timestamp=0,
                             sys_inputs={key: json.dumps(value) for key, value in inputs.items()})
    except typst.TypstError as error:
        sys.exit(f"{error.message}\n{error.diagnostic}" if getattr(error, "diagnostic", None) else str(error))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if README.md or report.pdf is not up to date")
    check = parser.parse_args().check
    made = {"README.md": filled((ROOT / "README.md").read_text(encoding="utf-8")).encode(), "report.pdf": build()}
    for name, content in made.items():
        path = ROOT / name
        if not check:
            path.write_bytes(content)
        elif not path.is_file() or path.read_bytes() != content:
            sys.exit(f"{name} is not what the records in results/ give: python .report/build.py")
        print(f"{name}: {len(content):,} bytes, {'up to date' if check else 'written'}")


if __name__ == "__main__":
    main()
