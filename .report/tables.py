"""The tables of README.md, from the records in results/. Each stands between `<!-- table: NAME -->` and `<!-- end -->`."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDITION, SORTING = ROOT / "problem1" / "results", ROOT / "problem2" / "results"
REQUIRED = ("sinusoidal", "learned", "none")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def percent(share, digits=1):
    return f"{100 * share:.{digits}f}%"


def span(values, show):
    """The lowest and the highest of the values as `show` writes them, or one of them if they look alike."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def table(head, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def study_runs(variant="*"):
    """The records of the study's runs of a variant, by seed."""
    paths = (SORTING / "study" / "runs").glob(f"{variant}_[0-9]*.json")
    return sorted((read(path) for path in paths), key=lambda record: (record["variant"], record["seed"]))


def accuracy(record, length, negatives, gap_source=None):
    """The accuracy of a run on one test set."""
    return next(entry["accuracy"] for entry in record["accuracy"]
                if (entry["length"], entry["negatives"], entry["gap_source"]) == (length, negatives, gap_source))


def addition():
    """Problem 1: how well it adds."""
    log, every, seeds = (read(ADDITION / f"{name}.json") for name in ("training_log", "exhaustive", "seeds"))
    test = log["test"]
    low, high = test["exact_match_interval"]
    chosen, later = ([record for record in seeds if (record["seed"] < 5) == first] for first in (True, False))
    errors = lambda records: ", ".join(str(record["errors"]) for record in records)  # noqa: E731
    seconds = lambda records: span([record["seconds"] for record in records], "{:.0f}".format)  # noqa: E731
    return table(["what", "result", "record in `problem1/results/`"], [
        [f"test problems (n = {test['n']:,})", f"{percent(test['exact_match'], 2)} (95% interval {percent(low, 2)} to {percent(high, 2)})",
         "`training_log.json`, `test`"],
        [f"all {every['pairs']:,} pairs", f"{every['errors']} errors", "`exhaustive.json`"],
        [f"the {every['unseen']['pairs']:,} of them never seen in training", f"{every['unseen']['errors']} errors", "`exhaustive.json`, `unseen`"],
        ["training seeds 0 to 4, all pairs each", f"{errors(chosen)} errors; {seconds(chosen)} s", "`seeds.json`"],
        [f"training seeds {later[0]['seed']} to {later[-1]['seed']}, run once after the settings were fixed, all pairs each", f"{errors(later)} errors",
         "`seeds.json`"],
        ["default training, evaluations included", f"{log['seconds']:.0f} s on two cores", "`training_log.json`, `seconds`"]])


def sorting():
    """Problem 2: accuracy by length and kind of negatives, over seeds."""
    runs = {encoding: [record for record in read(SORTING / "seeds.json") if record["encoding"] == encoding] for encoding in REQUIRED}
    runs["recommended"] = study_runs("recommended")

    def row(name, measure, digits=1):
        return [name, *(span([measure(record) for record in records], lambda share: percent(share, digits)) for records in runs.values())]

    def on(*test_set):
        return lambda record: accuracy(record, *test_set)

    def moved(record):
        return next(entry["accuracy"] for entry in record["position_control"] if entry["first_position"] == 16)
    control = ["swap negatives, 16 values at positions 16 to 31",
               *(span([moved(record) for record in runs[encoding]], percent) for encoding in REQUIRED[:2]), "no positions", "no positions"]
    return table(["accuracy, lowest to highest of the seeds", *(f"{name} (seeds {records[0]['seed']}-{records[-1]['seed']})" for name, records in runs.items())], [
        row("test split, lengths 8-16", lambda record: record["test"]["accuracy"], 2),
        *(row(f"swap negatives, length {length}", on(length, "swap")) for length in (16, 32, 64, 128, 256)),
        *(row(f"one inversion, length {length}", on(length, "one_inversion")) for length in (16, 256)), control,
        *(row(f"swap negatives, 16 values with the gaps of length {source}", on(16, "swap", source)) for source in (32, 256))])


STUDIED = {
    "local_bias-lowest-augmented": "the recommended variant, half as wide, half the epochs",
    "local_bias-lowest-augmented-cross_entropy": "... with plain cross-entropy",
    "local_bias-lowest-crop+swap": "... without shifts",
    "local_bias-lowest-shift+swap": "... without crops",
    "local_bias-lowest-swap": "... with neighbours exchanged, neither crops nor shifts",
    "local_bias-lowest-crop+shift": "... with crops and shifts, no neighbours exchanged",
    "local_bias-lowest-crop": "... with crops alone",
    "local_bias-lowest-shift": "... with shifts alone",
    "local_bias-lowest-plain": "... without augmentation",
    "local_bias-max-augmented": "... with max pooling",
    "local_bias-attention-augmented": "... with attention pooling",
    "local_bias-mean-augmented": "... with mean pooling",
    "relative_bias-lowest-augmented": "... with a bias on all distances (no cut-off)",
    "relative_bias-max-augmented": "max pooling and a bias on all distances",
    "relative_bias-max-augmented-scaled": "the same, scores scaled by the logarithm of the length"}


def study():
    """Problem 2: what each part of the recommended variant is worth, over seeds."""
    def cell(values):
        mean, low, high = (f"{100 * value:.1f}" for value in (sum(values) / len(values), min(values), max(values)))
        return mean if low == high else f"{mean} ({low} to {high})"
    rows = []
    for name, what in STUDIED.items():
        records = study_runs(name)
        rows.append([what, f"`{name}`", str(len(records)), cell([record["test"]["accuracy"] for record in records]),
                     *(cell([accuracy(record, *test_set) for record in records]) for test_set in ((16, "one_inversion"), (256, "swap"), (256, "one_inversion")))])
    return table(["one layer, width 64", "variant", "seeds", "test split", "one inversion, 16", "swaps, 256", "one inversion, 256"], rows)


def grid():
    """Problem 2: encoding x pooling x augmentation, on the course's negatives and on one inversion, 256 values each."""
    choices = [(pooling, how) for pooling in ("mean", "attention", "max") for how in ("plain", "augmented")]

    def cell(name):
        records = study_runs(name)
        return " / ".join(f"{100 * sum(accuracy(record, 256, negatives) for record in records) / len(records):.1f}" for negatives in ("swap", "one_inversion"))
    return table(["swaps / one inversion, 256 values", *(f"{pooling} pooling, {how}" for pooling, how in choices)],
                 [[f"`{encoding}`", *(cell(f"{encoding}-{pooling}-{how}") for pooling, how in choices)]
                  for encoding in dict.fromkeys(record["settings"]["encoding_type"] for record in study_runs())])


def speed():
    """What benchmark.py measured against what it aims at, in both folders."""
    rows = []
    for number, results in enumerate((ADDITION, SORTING), 1):
        for record in read(results / "benchmark.json")["records"]:
            if record["section"] not in ("attention", "growth", "time to quality"):
                low, high = record["ratio_quartiles"]
                rows.append([str(number), record["section"], record["against"], f"{record['ratio']:.2f} ({low:.2f} to {high:.2f})",
                             f"at most {record['target']:.0f}" if "target" in record else ""])
            if "share_of_an_epoch" in record:
                rows.append([str(number), record["section"], "a whole epoch", percent(record["share_of_an_epoch"], 2),
                             f"under {percent(record['target_share_of_an_epoch'], 0)}"])
    return table(["problem", "what", "time over that of", "ratio (quartiles of the rounds)", "aim"], rows)


def robustness():
    """What tests/kill.py and tests/fuzz.py found, in both folders."""
    rows = []
    for number, results in enumerate((ADDITION, SORTING), 1):
        record = read(results / "robustness.json")
        kills, fuzz = record["kills"], record["fuzz"]
        rows.append([str(number), f"{kills['kills']} kills: " + ", ".join(f"{count} of {name}" for name, count in kills["by_command"].items()),
                     str(len(kills["failures"]))])
        rows.append([str(number), f"{fuzz['cases_of_each_kind']:,} cases each of " + ", ".join(kind.replace("_", " ") for kind in fuzz["kinds"]),
                     str(len(fuzz["failures"]))])
    return table(["problem", "tried", "failed"], rows)


TABLES = {"addition": addition, "sorting": sorting, "study": study, "grid": grid, "speed": speed, "robustness": robustness}


def filled(readme):
    """The text of README.md with its tables made anew."""
    def replace(found):
        return f"{found[1]}\n\n{TABLES[found[2]]()}\n\n{found[3]}"
    return re.sub(r"(<!-- table: (\w+) -->)\n.*?\n?(<!-- end -->)", replace, readme, flags=re.DOTALL)
