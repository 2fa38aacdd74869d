"""Fuzz what the commands read: lines of --stdin, data files, checkpoints, options.

    python problem1/tests/tools/fuzz.py --cases 2000 --seed 0

Every case is drawn from the seed and its number, and runs in this process. It fails if it ends in a
traceback, takes more than LIMIT seconds of processor time, prints what it should not, or ends in a
wrong exit status. A full run writes results/beyond/robustness.json.
"""

import copy
import json
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from support import cli, files  # noqa: E402

import torch  # noqa: E402

import generate_data  # noqa: E402
import inference  # noqa: E402
import train  # noqa: E402
from model import EXTRA_STATE, decode_extra_state, load_model  # noqa: E402
from tests.helpers import command, record_robustness, without_pictures  # noqa: E402
from tests.small import save, small_model  # noqa: E402

CASES, LIMIT, DIGITS = 2000, 20, 2
KINDS = ("lines", "data", "checkpoints", "command_lines")
ABSURD = [None, True, 0, 1, -1, 10**30, 0.5, float("nan"), float("inf"), "", "3", "\x00\x1b[2J"]
ABSURD += ["é" * 50, "\udc80", "a\nb", [], {}, [[]], [0], {"x": 1}, [[[[1]]]], [1, 10, 2]]
TENSORS = [torch.zeros(3), torch.zeros(8, 8, dtype=torch.cfloat), torch.eye(8).to_sparse()]
TENSORS += [torch.zeros(1).expand(10**5, 10**5), torch.full((8,), float("nan")), torch.zeros(0)]
TENSORS += [torch.zeros(8, dtype=torch.long), torch.tensor(3.0), torch.zeros(8, 8).bool()]
NUMBERS = ["0", "1", "2", "8", "-1", "-0", "+2", "1.5", "1e-3", "1e30", "nan", "inf", "", " ", "x"]
NUMBERS += ["٣", "0x10", "1_0", "99999999999", "9" * 5000, "--", "-", "\udcff"]
PLACES = ["out", "data", "model.pth", "missing", "data/train.json/x", "", "\udcff", "é x"]
DEVICES = ["cpu", "cpu:0", "cpu:1", "cpu:-1", "cuda", "cuda:99", "mps", "meta", "", "abacus"]
PIECES = ["1", "12", "34", "99", "+", "+", "=", " ", "\t", "-", "0", "1" * 2000, "٣", "\x00", "x"]
PIECES += ["\r", "\v", "\u2028", "12+34", "12 + 34 ="]
SIZES = ["--train-size=30", "--val-size=9", "--test-size=9"]
TINY = ["--epochs=1", "--d-model=4", "--num-heads=1", "--num-layers=1", "--d-ff=4", "--device=cpu"]
# For each command: arguments that end at once, and options with values to add to them.
COMMANDS = [
    (
        generate_data.main,
        ["--num-digits=1", *SIZES, "--output-dir=out"],
        dict.fromkeys(["--num-digits", "--seed", "--train-size", "--test-size"], NUMBERS)
        | {"--output-dir": PLACES},
    ),
    (
        train.main,
        ["--data-dir=data", "--output-dir=out", *TINY],
        dict.fromkeys(["--epochs", "--batch-size", "--lr", "--dropout", "--seed"], NUMBERS)
        | dict.fromkeys(["--d-model", "--num-heads", "--num-layers", "--d-ff"], NUMBERS)
        | {"--data-dir": ["missing_data", "model.pth"], "--output-dir": PLACES}
        | {"--device": DEVICES},
    ),
    (
        inference.main,
        ["--model-path=model.pth", "--data-dir=data"],
        dict.fromkeys(["--stdin", "--exhaustive", "12+34", "7", "", "-3", "--", "99 + 10 ="])
        | {"--model-path": PLACES, "--data-dir": ["model.pth"], "--device": DEVICES},
    ),
]


def mutated_bytes(content, generator):
    """`content` after one to four flips, cuts, insertions or repetitions."""
    content = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(content) + 1)
        length = generator.choice([1, 1, 2, 8, 100, len(content)])
        end = min(len(content), start + length)
        new = [b"", generator.randbytes(end - start), generator.randbytes(generator.randint(1, 9))]
        content[start:end] = generator.choice([*new, content[start:end] * 2, bytes(end - start)])
    return bytes(content)


def mutated_tree(tree, generator, values):
    """A copy of nested dicts and lists with up to three entries replaced, renamed or removed."""
    tree = copy.deepcopy(tree)
    for _ in range(generator.randint(1, 3)):
        node, parent, key = tree, None, None
        while isinstance(node, (dict, list)) and node:
            if parent is not None and generator.random() < 0.2:
                break
            parent = node
            key = generator.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = parent[key]
        if parent is None:
            return generator.choice(values)
        change = generator.randrange(4)
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, dict):
            parent[generator.choice(["x", "", "input", "d_model"])] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(generator.choice(values))
    return tree


class Fuzz:
    """The cases: a method for each kind, which returns what is wrong, or None."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "model.pth"
        generate_data.generate(folder / "data", DIGITS, 641, 30, 10, 10)
        self.data_files = {path: path.read_bytes() for path in (folder / "data").glob("*.json")}
        self.problems = json.loads((folder / "data" / "train.json").read_text())
        digest = files.file_digest(folder / "data" / "train.json")
        sizes = {"num_encoder_layers": 1, "num_decoder_layers": 1, "max_len": 10}
        model = small_model(d_model=8, num_heads=2, d_ff=8, **sizes)
        save(self.path, model, train_sha256=digest)
        self.checkpoint, self.weights = self.path.read_bytes(), torch.load(self.path)
        self.notes = decode_extra_state(self.weights.pop(EXTRA_STATE))
        self.model = load_model(self.path)

    def lines(self, generator):
        """Lines made of what problems are made of, and of anything; each gets its answer."""
        lines = []
        for _ in range(generator.randint(1, 5)):
            line = "".join(generator.choices(PIECES, k=generator.randint(0, 5))).encode()
            line = mutated_bytes(line, generator) if generator.random() < 0.3 else line
            lines.append(line.replace(b"\n", b""))
        lines[-1] = lines[-1] or b"12+34"  # an empty last line without its end is none
        with mock.patch.object(inference, "load_model", return_value=self.model):
            status, output, errors = command(inference.main, "--stdin", stdin=b"\n".join(lines))
        answers = output.split("\n")[:-1]
        refused = [answer.startswith("error: ") for answer in answers]
        sums = [answer for answer, bad in zip(answers, refused) if not bad]
        good = len(answers) == len(lines) and not errors and status == any(refused)
        good = good and all(set(each) <= set("0123456789?") for each in sums)
        if not good or max(map(len, answers)) > 200:
            return f"{lines} -> {status}, {answers}, {errors}"

    def data(self, generator):
        """Data files with bytes or entries changed."""
        problems = self.problems[: generator.randint(1, 5)]
        if generator.random() < 0.3:
            content = mutated_bytes(json.dumps(problems).encode(), generator)
        else:
            content = json.dumps(mutated_tree(problems, generator, ABSURD)).encode()
        (self.folder / "data" / "test.json").write_bytes(content)
        with mock.patch.object(inference, "load_model", return_value=self.model):
            return self.sound(command(inference.main, "--data-dir", self.folder / "data"))

    def checkpoints(self, generator):
        """Checkpoints with bytes, notes or weights changed."""
        kind = generator.randrange(3)
        if kind == 0:
            self.path.write_bytes(mutated_bytes(self.checkpoint, generator))
        elif kind == 1:
            torch.save(self.with_notes(mutated_tree(self.notes, generator, ABSURD)), self.path)
        else:
            state = self.with_notes(self.notes)
            torch.save(mutated_tree(state, generator, ABSURD + TENSORS), self.path)
        return self.sound(command(inference.main, "12+34", "--model-path", self.path))

    def with_notes(self, notes):
        """The weights with these notes as extra state."""
        text = json.dumps(notes).encode()
        return self.weights | {EXTRA_STATE: torch.tensor(list(text), dtype=torch.uint8)}

    def command_lines(self, generator):
        """Options with good, bad and absurd values for each command."""
        main, base, options = generator.choice(COMMANDS)
        options, arguments = options | {"--nonsense": None, "--help": None, "--d": NUMBERS}, [*base]
        for option in generator.choices(list(options), k=generator.randint(0, 4)):
            values = options[option]
            arguments += [option] if values is None else [option, generator.choice(values)]
        self.path.write_bytes(self.checkpoint)
        for path, content in self.data_files.items():  # what a case before may have overwritten
            path.write_bytes(content)
        with without_pictures(), mock.patch("generate_data.ensure_data"):
            with mock.patch.object(train, "ensure_data"):
                wrong = self.sound(command(main, *arguments, stdin=b"12+34\n"))
        return wrong and f"{main.__module__} {arguments}: {wrong}"

    def sound(self, result):
        """What is wrong, unless a command ended well, or in status 2 with one line."""
        status, _, errors = result
        one_line = errors.startswith("error: ") and errors.count("\n") == 1 and len(errors) < 1000
        if not (status == 0 or status == 2 and one_line):
            return f"status {status}, {errors[:1000]}"

    def run(self, kind, seed, cases):
        """Run cases of one kind; returns what failed, one description each."""
        progress, failures = cli.Progress(kind, cases), []
        for number in range(cases):
            generator, start = random.Random(f"{seed} {kind} {number}"), time.process_time()
            try:
                wrong = getattr(self, kind)(generator)
            except Exception:
                wrong = traceback.format_exc(limit=-3)
            if time.process_time() - start > LIMIT:
                wrong = f"took more than {LIMIT} seconds"
            if wrong:
                failures.append(f"{kind} {number}: {wrong}")
            progress.update(number + 1)
        return failures


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--cases", type=cli.whole_number(1), default=CASES, help="of each kind")
    parser.add_argument("--seed", type=cli.whole_number(0), default=0, help="seed of the cases")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    home, failures = Path.cwd(), []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            failures += Fuzz(Path(folder)).run(kind, args.seed, args.cases)
            os.chdir(home)
    print(*failures, f"{args.cases} cases of each kind: {len(failures)} failed", sep="\n")
    if args.cases >= CASES:
        record = {"seed": args.seed, "cases_of_each_kind": args.cases, "kinds": KINDS}
        record_robustness("fuzz", record | {"limit_seconds": LIMIT, "failures": failures})
    return 1 if failures else 0


if __name__ == "__main__":
    cli.run(main)
