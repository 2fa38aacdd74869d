"""Fuzz what the commands read: lines for inference.py --stdin, data files, checkpoints, command lines.

    python problem2/tests/fuzz.py --cases 2000 --seed 0

Every case is drawn from the seed and its number, and run in this process. It fails if it ends in a traceback, takes
more than LIMIT seconds of processor time, prints what it should not, ends in a wrong exit status, or runs code from a
file. Writes results/robustness.json.
"""

import copy
import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

import analyze  # noqa: E402
import generate_data  # noqa: E402
import inference  # noqa: E402
import train  # noqa: E402
from learning.checkpoint import save_model  # noqa: E402
from support.cli import Parser, Progress, run, whole_number  # noqa: E402
from support.digests import file_digest  # noqa: E402
from support.files import write_json  # noqa: E402
from model import create_model  # noqa: E402
from positional_encoding import ENCODINGS  # noqa: E402
from tests.helpers import command, record_robustness  # noqa: E402
from learning.variants import RECOMMENDED  # noqa: E402

LIMIT = 20
ABSURD = [None, True, False, 0, 1, -1, 2, 10 ** 9, 10 ** 30, -10 ** 30, 0.5, 2.0, float("nan"), float("inf"), "", "x",
          "3", "\x00\x1b[2J", "é" * 50, "\udc80", "a\nb", [], {}, [[]], [0], {"x": 1}, [[[[1]]]], [3, 15, 27]]
NUMBERS = ["0", "1", "2", "3", "8", "-1", "-0", "+2", "1.5", "1e3", "1e-3", "1e30", "nan", "inf", "-inf", "", " ", "x",
           "٣", "0x10", "1_0", "99999999999", "9" * 5000, "--", "-", "\udcff"]
TINY = ("--epochs", "1", "--d-model", "4", "--num-heads", "1", "--num-layers", "1", "--d-ff", "4", "--device", "cpu")
SIZES = ("--d-model", "--num-heads", "--num-layers", "--d-ff")


class TooLong(BaseException):
    """A case took more than LIMIT seconds; no `except Exception` holds it up."""


def mutated_bytes(content, generator):
    """`content` after one to four flips, cuts, insertions or repetitions."""
    content = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(content) + 1)
        end = min(len(content), start + generator.choice([1, 1, 2, 8, 100, len(content)]))
        content[start:end] = generator.choice([
            b"", generator.randbytes(end - start), generator.randbytes(generator.randint(1, 9)), content[start:end] * 2,
            bytes(end - start)])
    return bytes(content)


def mutated_tree(tree, generator, values):
    """A copy of nested dicts and lists in which one to three entries are replaced, renamed or removed."""
    tree = copy.deepcopy(tree)
    for _ in range(generator.randint(1, 3)):
        node, parent, key = tree, None, None
        while isinstance(node, (dict, list)) and node and (parent is None or generator.random() < 0.8):
            parent, key = node, generator.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = parent[key]
        change = generator.randrange(4)
        if parent is None:
            return generator.choice(values)
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, dict):
            parent[generator.choice(["x", "", 7, "sequence", "d_model"])] = parent.pop(key)
        else:
            parent[key] = generator.choice(values)
    return tree


class Fuzz:
    """The cases of each kind, in a folder of their own. `kinds` is `{name: method}`; a method returns what is wrong, or
    None."""

    def __init__(self, folder):
        self.folder, self.ran = folder, folder / "code_was_run"
        self.kinds = {"lines": self.lines, "data": self.data, "checkpoints": self.checkpoints,
                      "command_lines": self.command_lines}
        generate_data.generate(folder / "data", 641, 30, 10, 4)
        self.files = {path: path.read_bytes() for path in (folder / "data").rglob("*.json")}
        self.problems = json.loads((folder / "data" / "train.json").read_text())
        torch.manual_seed(0)
        self.path = folder / "model.pth"
        about = {"train_sha256": file_digest(folder / "data" / "train.json")}
        for encoding in ENCODINGS:
            model = create_model(encoding, d_model=8, num_heads=2, num_layers=1, d_ff=8, max_len=256)
            model.about = about
            for path in (folder / encoding / "best_model.pth", self.path):
                save_model(path, model.state_dict())
            write_json(folder / encoding / "training_log.json",
                       {"training": {"seed": 0}, "model": asdict(model.config)})
        shutil.copytree(folder / "local_bias", folder / RECOMMENDED, dirs_exist_ok=True)
        self.checkpoint, self.saved = self.path.read_bytes(), torch.load(self.path, weights_only=True)
        self.model = model.eval(), about

    def lines(self, generator):
        """Lines made of what sequences are made of, and of anything else; each is answered in its place."""
        pieces = ["1", "12", "34", "99", "100", " ", ", ", ",", "\t", "-", "0", "1" * 30_000, "٣", "\x00", "x", "\r",
                  "\v", "\u2028", "3 15 27", "7 " * 300]
        lines = []
        for _ in range(generator.randint(1, 5)):
            line = "".join(generator.choice(pieces) for _ in range(generator.randint(0, 5))).encode()
            lines.append((mutated_bytes(line, generator) if generator.random() < 0.3 else line).replace(b"\n", b""))
        if not lines[-1]:
            lines[-1] = b"3 15"  # an empty last line without its end is none
        with mock.patch.object(inference, "load_model", return_value=self.model):
            status, output, errors = command(inference.main, "--stdin", "--model-path", "x", stdin=b"\n".join(lines))
        answers = output.split("\n")[:-1]
        refused = [answer.startswith("error: ") for answer in answers]
        if (len(answers) != len(lines) or errors or status != any(refused) or max(map(len, answers)) > 200
                or not all(bad or re.fullmatch(r"(un)?sorted [01]\.[0-9]{3}", answer)
                           for bad, answer in zip(refused, answers))):
            return f"{lines} -> {status}, {answers}, {errors}"

    def data(self, generator):
        """Data files with bytes or entries changed."""
        if generator.random() < 0.3:
            content = mutated_bytes(json.dumps(self.problems[:generator.randint(1, 5)]).encode(), generator)
        else:
            content = json.dumps(mutated_tree(self.problems[:generator.randint(1, 5)], generator, ABSURD)).encode()
        (self.folder / "data" / "val.json").write_bytes(content)
        return self.sound(command(train.main, "--encoding", "none", "--data-dir", self.folder / "data", "--output-dir",
                                  self.folder / "out", "--resume", *TINY))

    def checkpoints(self, generator):
        """Checkpoints with bytes or entries changed, and files that would run code."""
        kind = generator.random()
        if kind < 0.4:
            self.path.write_bytes(mutated_bytes(self.checkpoint, generator))
        elif kind < 0.9:
            tensors = [torch.zeros(3), torch.zeros(8, 8, dtype=torch.cfloat), torch.zeros(1).expand(10 ** 5, 10 ** 5),
                       torch.eye(8).to_sparse(),
                       torch.full((8,), float("nan")), torch.zeros(8, dtype=torch.long), torch.zeros(0),
                       torch.tensor(3.0), torch.zeros(8, 8).bool()]
            torch.save(mutated_tree(self.saved, generator, ABSURD + tensors), self.path)
        else:
            self.write_code(generator)
        return self.sound(command(inference.main, "3", "15", "--model-path", self.path))

    def write_code(self, generator):
        """A file that makes the folder `self.ran` if its code is run: a pickle, in each of torch's forms."""
        ran = str(self.ran)

        class Code:
            def __reduce__(self):
                return generator.choice([(os.mkdir, (ran,)), (exec, (f"import os; os.mkdir({ran!r})",)),
                                         (os.system, (f"mkdir {ran!r}",))])
        value = generator.choice([Code(), {"config": Code()}, self.saved | {"_extra_state": Code()}, [Code()]])
        form = generator.randrange(4)
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
        """Options with good, bad and absurd values for each command, at a size that ends at once if it is taken."""
        places = ["out", "data", "model.pth", "missing", "data/train.json/x", "", "\udcff", "é x"]
        devices = ["cpu", "cpu:0", "cpu:1", "cpu:-1", "cuda", "cuda:99", "mps", "meta", "", "abacus", "cpu:x"]
        small = [n for n in NUMBERS if n != "1e3"]
        main, base, options = generator.choice([
            (generate_data.main, ["--train-size", "30", "--val-size", "9", "--test-size", "4", "--output-dir", "out"],
             {"--min-train-len": small, "--max-train-len": small, "--no-generate-extrapolation": None,
              "--seed": NUMBERS, "--train-size": small, "--val-size": small, "--test-size": small,
              "--output-dir": places}),
            (train.main, ["--data-dir", "data", "--output-dir", "out", *TINY],
             {"--encoding": [*ENCODINGS, "", "x"], "--data-dir": ["data", "missing_data", "model.pth"],
              "--output-dir": places, "--epochs": small, "--batch-size": NUMBERS, "--lr": NUMBERS,
              "--dropout": NUMBERS, "--seed": NUMBERS, "--device": devices, "--resume": None}
             | dict.fromkeys(SIZES, NUMBERS)),
            (inference.main, ["--results-dir", "."],
             {"--model-path": places, "--results-dir": [".", "missing"], "--encoding": [*ENCODINGS, "x"],
              "--device": devices, "--stdin": None,
              "3 15": None, "7": None, "": None, "-3": None, "--": None, "1,2,,": None}),
            (analyze.main, ["--results-dir", ".", "--data-dir", "data", "--output-dir", "out", "--test-lengths", "8",
                            "--num-samples", "2"],
             {"--results-dir": [".", "missing"], "--data-dir": ["data", "model.pth"], "--output-dir": places,
              "--test-lengths": NUMBERS, "--num-samples": NUMBERS, "--device": devices})])
        arguments = list(base)
        for _ in range(generator.randint(0, 4)):
            option, values = generator.choice([*options.items(), ("--nonsense", None), ("--help", None),
                                               ("--d", NUMBERS)])
            arguments += [option] if values is None else [option, generator.choice(values)]
        self.path.write_bytes(self.checkpoint)
        for path, content in self.files.items():  # what a case before may have overwritten
            path.write_bytes(content)
        with mock.patch.object(analyze, "save_figure"), mock.patch.object(train, "ensure_data"), \
                mock.patch.object(analyze, "ensure_data"):
            wrong = self.sound(command(main, *arguments, stdin=b"3 15\n"))
            return wrong and f"{main.__module__} {arguments}: {wrong}"

    def sound(self, result):
        """What is wrong unless a command ended well, or with status 2 and one line that says why; and ran no code."""
        status, _, errors = result
        one_line = errors.startswith("error: ") and errors.count("\n") == 1 and len(errors) < 1000
        if self.ran.exists() or "Traceback" in errors or not (status == 0 or status == 2 and one_line):
            return f"status {status}, code {'' if self.ran.exists() else 'not '}run, {errors[:1000]}"

    def run(self, kind, seed, cases, first=0):
        """Run cases `first` to `first + cases - 1` of one kind; returns what failed, one description each."""
        progress, failures = Progress(kind, cases), []
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
    parser = Parser(description=__doc__)
    parser.add_argument("--cases", type=whole_number(1), default=2000, help="cases of each kind")
    parser.add_argument("--first", type=whole_number(0), default=0,
                        help="number of the first case, to run a failure again")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of the cases")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="kinds of cases")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    home, failures = Path.cwd(), []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind in args.kinds:
            failures += Fuzz(Path(folder)).run(kind, args.seed, args.cases, args.first)
        os.chdir(home)
    print("\n".join(failures) + f"\n{args.cases} cases of each of {', '.join(args.kinds)}; {len(failures)} failed")
    if set(args.kinds) == set(kinds) and args.first == 0:
        record_robustness("fuzz", {"seed": args.seed, "cases_of_each_kind": args.cases, "kinds": list(kinds),
                                   "limit_seconds": LIMIT, "failures": failures})
    return 1 if failures else 0


if __name__ == "__main__":
    run(main)
