"""Fuzz what the commands read: lines, data files, checkpoints, command lines.

    python problem2/tests/tools/fuzz.py --cases 2000 --seed 0

Every case is drawn from the seed and its number, and is run in this process. It fails if it ends in
a traceback, takes more than LIMIT seconds of processor time, prints what it should not, ends in a
wrong exit status, or runs code from a file. A run of all kinds, of at least the default number of
cases, is recorded in results/beyond/robustness.json. POSIX only.
"""

import copy
import io
import json
import os
import pickle
import random
import re
import signal
import sys
import tarfile
import tempfile
import traceback
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support import cli, files  # noqa: E402

import torch  # noqa: E402

import analyze  # noqa: E402
import beyond  # noqa: E402, F401
import generate_data  # noqa: E402
import inference  # noqa: E402
import train  # noqa: E402
from model import EXTRA_STATE, create_model  # noqa: E402
from positional_encoding import ENCODINGS, REQUIRED  # noqa: E402
from tests.helpers import command, record_robustness  # noqa: E402
from tests.small import save  # noqa: E402

LIMIT = 20
CASES = 2000
NAN, INF = float("nan"), float("inf")
ABSURD = [None, True, False, 0, 1, -1, 2, 10**9, 10**30, -(10**30), 0.5, 2.0, NAN, INF, "", "x"]
ABSURD += ["3", "\x00\x1b[2J", "é" * 50, "\udc80", "a\nb", [], {}, [[]], [0], {"x": 1}, [[[[1]]]]]
ABSURD += [[3, 15, 27]]
NUMBERS = ["0", "1", "2", "3", "8", "-1", "-0", "+2", "1.5", "1e3", "1e-3", "1e30", "nan", "inf"]
NUMBERS += ["-inf", "", " ", "x", "٣", "0x10", "1_0", "99999999999", "9" * 5000, "--", "-"]
NUMBERS += ["\udcff"]
COUNTS = [text for text in NUMBERS if text != "1e3"]
SIZES = ("--d-model", "--num-heads", "--num-layers", "--d-ff")
LENGTHS = ("--test-lengths", "8", "--num-samples", "2")
TINY = ("--epochs", "1", "--d-model", "4", "--num-heads", "1", "--num-layers", "1", "--d-ff", "4")
DEVICES = ["cpu", "cpu:0", "cpu:1", "cpu:-1", "cuda", "cuda:99", "mps", "meta", "", "abacus"]
PLACES = ["out", "data", "model.pth", "missing", "data/train.json/x", "", "\udcff", "é x"]
PIECES = ["1", "12", "34", "99", "100", " ", ", ", ",", "\t", "-", "0", "1" * 30_000, "٣", "\x00"]
PIECES += ["x", "\r", "\v", "\u2028", "3 15 27", "7 " * 300]
# {command: (options that make it small, {option: values})}
COMMAND_LINES = {
    generate_data.main: (
        ["--train-size=30", "--val-size=9", "--test-size=4", "--output-dir=out"],
        dict.fromkeys(["--train-size", "--val-size", "--test-size"], COUNTS)
        | dict.fromkeys(["--min-train-len", "--max-train-len"], COUNTS)
        | {"--no-generate-extrapolation": None, "--seed": NUMBERS, "--output-dir": PLACES},
    ),
    train.main: (
        ["--data-dir", "data", "--output-dir", "out", *TINY],
        dict.fromkeys(SIZES, NUMBERS)
        | {"--encoding": [*REQUIRED, "", "x"], "--data-dir": ["data", "missing_data", "model.pth"]}
        | {"--output-dir": PLACES, "--epochs": COUNTS, "--batch-size": NUMBERS, "--lr": NUMBERS}
        | {"--dropout": NUMBERS, "--seed": NUMBERS, "--device": DEVICES},
    ),
    inference.main: (
        ["--results-dir", "."],
        dict.fromkeys(["--stdin", "3 15", "7", "", "-3", "--", "1,2,,"])
        | {"--model-path": PLACES, "--results-dir": [".", "missing"]}
        | {"--encoding": [*ENCODINGS, "x"], "--device": DEVICES},
    ),
    analyze.main: (
        ["--results-dir=.", "--data-dir=data", "--output-dir=out", *LENGTHS],
        {"--results-dir": [".", "missing"], "--data-dir": ["data", "model.pth"]}
        | {"--output-dir": PLACES, "--test-lengths": NUMBERS, "--num-samples": NUMBERS}
        | {"--device": DEVICES},
    ),
}


class TooLong(BaseException):
    """A case took more than LIMIT seconds; no `except Exception` stops it."""


def mutated_bytes(content, generator):
    """`content` after one to four flips, cuts, insertions or repetitions."""
    content = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(content) + 1)
        end = min(len(content), start + generator.choice([1, 1, 2, 8, 100, len(content)]))
        piece, noise = content[start:end], generator.randbytes(generator.randint(1, 9))
        new = [b"", generator.randbytes(end - start), noise, piece * 2, bytes(end - start)]
        content[start:end] = generator.choice(new)
    return bytes(content)


def mutated_tree(tree, generator, values):
    """A copy of nested dicts and lists with one to three entries replaced, renamed or removed."""
    tree = copy.deepcopy(tree)
    for _ in range(generator.randint(1, 3)):
        node, parent, key = tree, None, None
        while isinstance(node, (dict, list)) and node:
            if parent is not None and generator.random() >= 0.8:
                break
            keys = list(node) if isinstance(node, dict) else range(len(node))
            parent, key = node, generator.choice(keys)
            node = parent[key]
        if parent is None:
            return generator.choice(values)
        change = generator.randrange(4)
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, dict):
            name = generator.choice(["x", "", 7, "sequence", "d_model"])
            parent[name] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(generator.choice(values))
    return tree


class Fuzz:
    """The cases of each kind, in a folder of their own.

    `kinds` is `{name: method}`; a method returns what is wrong, or None.
    """

    def __init__(self, folder):
        self.folder, self.ran = folder, folder / "code_was_run"
        kinds = self.lines, self.data, self.checkpoints, self.command_lines
        self.kinds = {method.__name__: method for method in kinds}
        generate_data.generate(folder / "data", 641, 30, 10, 4)
        self.files = {path: path.read_bytes() for path in (folder / "data").rglob("*.json")}
        self.sequences = json.loads((folder / "data" / "train.json").read_text())
        self.path = folder / "model.pth"
        info = {"train_sha256": files.file_digest(folder / "data" / "train.json")}
        sizes = {"d_model": 8, "num_heads": 2, "num_layers": 1, "d_ff": 8, "max_len": 256}
        for encoding in ENCODINGS:
            torch.manual_seed(0)
            model = create_model(encoding, **sizes)
            model.training_info = info
            for name in (encoding, "recommended"):
                save(folder / name / "best_model.pth", model)
                log = {"training": {"seed": 0}, "training_lengths": [8, 16]}
                files.write_json(folder / name / "training_log.json", log)
            save(self.path, model)
        self.model, self.checkpoint = model.eval(), self.path.read_bytes()
        self.saved = torch.load(self.path, weights_only=True)
        self.extra = json.loads(bytes(self.saved[EXTRA_STATE].tolist()))

    def lines(self, generator):
        """Lines of parts of sequences and of anything else; each is answered in its place."""
        lines = []
        for _ in range(generator.randint(1, 5)):
            pieces = [generator.choice(PIECES) for _ in range(generator.randint(0, 5))]
            line = "".join(pieces).encode()
            line = mutated_bytes(line, generator) if generator.random() < 0.3 else line
            lines.append(line.replace(b"\n", b""))
        if not lines[-1]:
            lines[-1] = b"3 15"  # an empty last line without its end is none
        arguments = "--stdin", "--model-path", "x"
        with mock.patch.object(inference, "load_model", return_value=self.model):
            result = command(inference.main, *arguments, stdin=b"\n".join(lines))
        status, output, errors = result
        answers = output.split("\n")[:-1]
        refused = [answer.startswith("error: ") for answer in answers]
        verdict = re.compile(r"(un)?sorted [01]\.[0-9]{3}")
        good = all(bad or verdict.fullmatch(answer) for bad, answer in zip(refused, answers))
        good = good and len(answers) == len(lines) and not errors and status == any(refused)
        if not good or max(map(len, answers)) > 200:
            return f"{lines} -> {status}, {answers}, {errors}"

    def data(self, generator):
        """Data files with bytes or entries changed."""
        sequences = self.sequences[: generator.randint(1, 5)]
        if generator.random() < 0.3:
            content = mutated_bytes(json.dumps(sequences).encode(), generator)
        else:
            content = json.dumps(mutated_tree(sequences, generator, ABSURD)).encode()
        (self.folder / "data" / "val.json").write_bytes(content)
        folders = "--data-dir", self.folder / "data", "--output-dir", self.folder / "out"
        return self.sound(command(train.main, "--encoding", "none", *folders, *TINY))

    def checkpoints(self, generator):
        """Checkpoints with bytes or entries changed, and files that would run code."""
        kind = generator.random()
        if kind < 0.3:
            self.path.write_bytes(mutated_bytes(self.checkpoint, generator))
        elif kind < 0.6:
            tensors = [torch.zeros(3), torch.zeros(8, 8, dtype=torch.cfloat), torch.zeros(0)]
            tensors += [torch.zeros(1).expand(10**5, 10**5), torch.eye(8).to_sparse()]
            tensors += [torch.full((8,), NAN), torch.zeros(8, dtype=torch.long), torch.tensor(3.0)]
            torch.save(mutated_tree(self.saved, generator, ABSURD + tensors), self.path)
        elif kind < 0.9:
            text = json.dumps(mutated_tree(self.extra, generator, ABSURD)).encode()
            text = mutated_bytes(text, generator) if generator.random() < 0.3 else text
            extra = torch.tensor(list(text), dtype=torch.uint8)
            torch.save(self.saved | {EXTRA_STATE: extra}, self.path)
        else:
            self.write_code(generator)
        return self.sound(command(inference.main, "3", "15", "--model-path", self.path))

    def write_code(self, generator):
        """A file that makes the folder `self.ran` if its code is run, in each of torch's forms."""
        ran = str(self.ran)
        calls = [(os.mkdir, (ran,)), (os.system, (f"mkdir {ran!r}",))]
        calls.append((exec, (f"import os; os.mkdir({ran!r})",)))

        class Code:
            def __reduce__(self):
                return generator.choice(calls)

        values = [Code(), {"config": Code()}, self.saved | {EXTRA_STATE: Code()}, [Code()]]
        value, form = generator.choice(values), generator.randrange(4)
        if form == 0:
            self.path.write_bytes(pickle.dumps(value, protocol=generator.randint(0, 4)))
        elif form == 3:
            content = pickle.dumps(value)
            with tarfile.open(self.path, "w") as archive:
                for name in ("storages", "tensors", "pickle"):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        else:
            torch.save(value, self.path, _use_new_zipfile_serialization=form == 1)

    def command_lines(self, generator):
        """Each command with good, bad and absurd options, at a size that ends at once."""
        for path, content in self.files.items():
            path.write_bytes(content)
        self.path.write_bytes(self.checkpoint)
        main = generator.choice(list(COMMAND_LINES))
        base, options = COMMAND_LINES[main]
        options = {**options, "--nonsense": None, "--help": None, "--d": NUMBERS}
        arguments = list(base)
        for _ in range(generator.randint(0, 4)):
            option = generator.choice(list(options))
            arguments.append(option)
            if options[option] is not None:
                arguments.append(generator.choice(options[option]))
        with mock.patch.object(generate_data, "MOST_DRAWS", 1000):
            with mock.patch.object(generate_data.generate, "__defaults__", self.defaults()):
                wrong = self.sound(command(main, *arguments, stdin=b"3 15\n"))
        return wrong and f"{main.__module__} {arguments}: {wrong}"

    def defaults(self):
        """The defaults of `generate`, at a small size: for folders without data."""
        folder, seed, *_, shortest, longest, extrapolation = generate_data.generate.__defaults__
        return folder, seed, 30, 10, 4, shortest, longest, extrapolation

    def sound(self, result):
        """What is wrong unless a command ended well, or with status 2 and one line; or ran code."""
        status, _, errors = result
        one_line = errors.count("\n") == 1 and len(errors) < 1000
        good = status == 0 or status == 2 and one_line and errors.startswith("error: ")
        if self.ran.exists() or "Traceback" in errors or not good:
            ran = "" if self.ran.exists() else "not "
            return f"status {status}, code {ran}run, {errors[:1000]}"

    def run(self, kind, seed, cases, first=0):
        """Run cases of one kind from number `first` on; returns descriptions of what failed."""
        progress, failures = cli.Progress(kind, cases), []
        signal.signal(signal.SIGPROF, too_long)
        for number in range(first, first + cases):
            generator = random.Random(f"{seed} {kind} {number}")
            signal.setitimer(signal.ITIMER_PROF, LIMIT)
            try:
                wrong = self.kinds[kind](generator)
            except (Exception, TooLong):
                wrong = traceback.format_exc(limit=-3)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if wrong:
                failures.append(f"{kind} {number}: {wrong}")
            progress.update(number - first + 1)
        return failures


def too_long(*_):
    raise TooLong(f"more than {LIMIT} s")


def main(arguments=None):
    kinds = ("lines", "data", "checkpoints", "command_lines")
    parser = cli.Parser(description=__doc__)
    count = cli.whole_number
    parser.add_argument("--cases", type=count(1), default=CASES, help="cases of each kind")
    parser.add_argument("--first", type=count(0), default=0, help="number of the first case")
    parser.add_argument("--seed", type=count(0), default=0, help="seed of the cases")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="kinds of cases")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    home, failures = Path.cwd(), []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind in args.kinds:
            failures += Fuzz(Path(folder)).run(kind, args.seed, args.cases, args.first)
        os.chdir(home)
    names = ", ".join(args.kinds)
    print("\n".join([*failures, f"{args.cases} cases of each of {names}; {len(failures)} failed"]))
    if set(args.kinds) == set(kinds) and args.first == 0 and args.cases >= CASES:
        record = {"seed": args.seed, "cases_of_each_kind": args.cases, "kinds": list(kinds)}
        record_robustness("fuzz", record | {"limit_seconds": LIMIT, "failures": failures})
    return 1 if failures else 0


if __name__ == "__main__":
    cli.run(main)
