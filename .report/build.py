#!/usr/bin/env python3
"""Build report.pdf and the tables of README.md from the records in results/.

It needs one package: `pip install typst==0.15.2`. `python .report/build.py` writes both, or stops
at a record of other weights, or at a claim that the records do not bear out. With `--check` it
writes nothing, and exits with 1 if one of them is not what the records give. With `--draft`, for
your own training's records, it marks such claims in the margin of report.pdf and lists them.
"""

import argparse
import array
import importlib.metadata
import json
import re
import sys
import zipfile
from pathlib import Path

from tables import filled

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TYPST = "0.15.2"
LEARNED = ROOT / "problem2" / "results" / "learned"


def author():
    """Full name and e-mail from README.md, each with whether it is still to be filled in."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    fields = {}
    for key, label in (("name", "Full name"), ("email", "USC email")):
        found = re.search(rf"^- {label}:\s*(?:\*\*)?(.+?)(?:\*\*)?\s*$", readme, re.MULTILINE)
        text = found[1] if found else sys.exit(f"README.md has no line `- {label}: ...`")
        fields[key] = {"text": text.strip("[]<>"), "open": "to be filled in" in text}
    return fields


def learned_rows():
    """The learned position table, a list of rows: the one tensor of its size in the weights."""
    model = json.loads((LEARNED / "training_log.json").read_text(encoding="utf-8"))["model"]
    rows, width = model["max_len"], model["d_model"]
    with zipfile.ZipFile(LEARNED / "best_model.pth") as archive:
        (name,) = (m.filename for m in archive.infolist() if m.file_size == 4 * rows * width)
        values = array.array("f", archive.read(name))
    return [[round(v, 5) for v in values[row * width :][:width]] for row in range(rows)]


def refuse_stale():
    """Stop at a record of other weights than those of the training log in its folder or above."""
    records = {
        path: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.glob("problem*/results/**/*.json"))
    }
    logs = {path.parent: records[path] for path in records if path.name == "training_log.json"}
    trained = {folder: log["weights_sha256"] for folder, log in logs.items()}
    for path, record in records.items():
        made_from = record.get("weights_sha256", {}) if isinstance(record, dict) else {}
        if isinstance(made_from, dict):  # {model: digest}
            fits = set(trained.values()).issuperset(made_from.values())
        else:
            folder = next((folder for folder in path.parents if folder in trained), None)
            fits = made_from == trained[folder] if folder else made_from in trained.values()
        if not fits:
            sys.exit(f"{path.relative_to(ROOT)} is of other weights: make it again")


def build(draft=False):
    """The report as PDF, and the claims in it that the records do not bear out."""
    try:
        import typst
    except ImportError:
        sys.exit(f"the report is set with Typst: pip install typst=={TYPST}")
    if (version := importlib.metadata.version("typst")) != TYPST:
        sys.exit(f"typst {version} sets other bytes: pip install typst=={TYPST}")

    inputs = {
        "author": author(),
        "learned_rows": learned_rows(),
        "draft": draft,
    }
    source = {
        "input": str(HERE / "report.typ"),
        "root": str(ROOT),
        "ignore_system_fonts": True,
        "sys_inputs": {key: json.dumps(value) for key, value in inputs.items()},
    }
    try:
        report = typst.compile(format="pdf", timestamp=0, **source)
        broken = typst.query(selector="<broken>", field="value", **source) if draft else "[]"
    except (typst.TypstError, RuntimeError) as error:  # what compile and query raise
        sys.exit(getattr(error, "diagnostic", None) or str(error))
    return report, json.loads(broken)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--check", action="store_true", help="write nothing; 1 if not up to date")
    way.add_argument("--draft", action="store_true", help="mark sentences that do not hold")
    args = parser.parse_args()
    if not args.draft:
        refuse_stale()
    report, broken = build(args.draft)
    readme = filled((ROOT / "README.md").read_text(encoding="utf-8"))
    for name, content in {"README.md": readme.encode(), "report.pdf": report}.items():
        path = ROOT / name
        if not args.check:
            path.write_bytes(content)
        elif not path.is_file() or path.read_bytes() != content:
            sys.exit(f"{name} is not what the records in results/ give: python .report/build.py")
        print(f"{name}: {len(content):,} bytes, {'up to date' if args.check else 'written'}")
    if broken:
        print(f"The records do not bear out {len(broken)} sentences, marked in the margin:")
        print(*(f"- {claim}" for claim in broken), sep="\n")


if __name__ == "__main__":
    main()
