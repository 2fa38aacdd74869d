"""Kill generate_data.py, train.py and analyze.py at random moments, and see what they leave.

    python problem2/tests/tools/kill.py --kills 25 --seed 0

Each runs at a small size in a process of its own and is killed (SIGKILL, which nothing can catch):
at a random moment, or at a random one of the steps that write. Then every visible file must be
whole, and the next run must end with what an undisturbed run leaves, without a temporary file. A
run of at least the default number of kills is recorded in results/beyond/robustness.json. POSIX
only.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support import cli, files  # noqa: E402

import torch  # noqa: E402

import analyze  # noqa: E402
import generate_data  # noqa: E402
import train  # noqa: E402
from tests.helpers import record_robustness  # noqa: E402
from tests.small import SMALL  # noqa: E402

KILLS = 25
STEPS = 60  # a run writes in about so many steps at most
GENERATE = ("--train-size", "60", "--val-size", "20", "--test-size", "20", "--output-dir")


def start(main, arguments, die_at=None):
    """Run a command in a child process; returns its id.

    `die_at`: the number of the write step at which it kills itself.
    """
    child = os.fork()
    if child:
        return child
    sys.stdout = sys.stderr = open(os.devnull, "w")
    steps = iter(range(10**9))

    def dying(function):
        def step(*arguments, **options):
            if next(steps) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return step

    for name in ("fsync", "replace"):
        setattr(files.os, name, dying(getattr(os, name)))
    Path.unlink = dying(Path.unlink)
    try:
        cli.run(lambda: main(arguments))
    except SystemExit as exit_:
        os._exit(exit_.code or 0)
    finally:
        os._exit(99)


def finish(main, arguments):
    """Run a command undisturbed; returns its seconds. Another status than 0 is an error of ours."""
    begin = time.perf_counter()
    status = os.waitstatus_to_exitcode(os.waitpid(start(main, arguments), 0)[1])
    if status:
        raise cli.UserError(f"{main.__module__} {' '.join(arguments)} ended in status {status}")
    return time.perf_counter() - begin


def damaged(folder):
    """The visible files under `folder` that are not whole."""
    bad = []
    for path in folder.rglob("*"):
        if path.is_dir() or path.name.startswith("."):
            continue
        content = path.read_bytes()
        try:
            if path.suffix == ".json":
                json.loads(content)
            elif path.suffix == ".pth":
                torch.load(path, weights_only=True)
            elif not (content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")):
                bad.append(f"{path.name}: neither JSON, checkpoint nor whole PNG")
        except Exception as error:
            bad.append(f"{path.name}: {error}")
    return bad


def contents(folder):
    """What is in a folder, `{name: content}`, without seconds and locks; pictures by name alone."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = without_seconds(json.loads(path.read_bytes()))
        elif path.suffix == ".pth":
            weights = torch.load(path, weights_only=True)
            found[name] = {key: value.numpy().tobytes() for key, value in weights.items()}
        elif path.is_file() and path.name != ".lock":
            found[name] = path.suffix == ".png" or path.read_bytes()
    return found


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(entry) for key, entry in value.items() if key != "seconds"}
    return [without_seconds(entry) for entry in value] if isinstance(value, list) else value


class Scenario:
    """One command: how it is run into a folder, and what an undisturbed run leaves and takes."""

    def __init__(self, main, arguments, prepare, folder):
        self.name, self.main = f"{main.__module__}.py", main
        self.arguments, self.prepare = arguments, prepare
        prepare(folder)
        self.seconds = finish(main, self.options(folder))
        self.expected = contents(folder)

    def options(self, folder):
        return [*self.arguments, str(folder)]

    def check(self, folder, kills, generator):
        """Kill the command up to `kills` times in one folder, then let it end.

        Returns:
            How many kills were done, and what was wrong.
        """
        shutil.rmtree(folder, ignore_errors=True)
        self.prepare(folder)
        done, wrong = 0, []
        for _ in range(kills):
            by_step = generator.random() < 0.5
            step = generator.randrange(STEPS) if by_step else None
            child = start(self.main, self.options(folder), step)
            if not by_step:
                time.sleep(generator.uniform(0, self.seconds))
                os.kill(child, signal.SIGKILL)
            done += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            wrong += [f"{self.name}, after a kill: {fault}" for fault in damaged(folder)]
        finish(self.main, self.options(folder))
        found = contents(folder)
        for name in sorted(found.keys() | self.expected.keys()):
            if found.get(name) != self.expected.get(name):
                wrong.append(f"{self.name}, run to its end: {name} is not as undisturbed")
        return done, wrong


def scenarios(folder):
    """The commands to kill; `folder` is for the data and models that they start from."""
    data, model = folder / "data", folder / "model"
    training = ["--data-dir", str(data), *SMALL, "--epochs", "2", "--output-dir"]
    finish(generate_data.main, [*GENERATE, str(data)])
    finish(train.main, [*training, str(model)])

    def with_model(target):
        shutil.copytree(model, target, ignore=shutil.ignore_patterns(".lock"))

    analysis = ["--data-dir", str(data), "--num-samples", "4", "--results-dir"]
    return [
        Scenario(generate_data.main, list(GENERATE), Path.mkdir, folder / "1"),
        Scenario(train.main, training, Path.mkdir, folder / "2"),
        Scenario(analyze.main, analysis, with_model, folder / "3"),
    ]


def check_kills(kills, seed):
    """Kill each command in turn until `kills` kills are done; returns the record."""
    torch.set_num_threads(1)  # a forked process may not use its parent's threads
    generator, by_command, failures = random.Random(seed), {}, []
    progress = cli.Progress("kills", kills)
    with tempfile.TemporaryDirectory() as folder:
        commands = scenarios(Path(folder))
        while sum(by_command.values()) < kills:
            for command in commands:
                count = generator.randint(1, 3)
                done, wrong = command.check(Path(folder) / "killed", count, generator)
                by_command[command.name] = by_command.get(command.name, 0) + done
                failures += wrong
                progress.update(max(1, min(kills, sum(by_command.values()))))
    total = sum(by_command.values())
    return {"seed": seed, "kills": total, "by_command": by_command, "failures": failures}


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    text = "how many processes to kill at least"
    parser.add_argument("--kills", type=cli.whole_number(1), default=KILLS, help=text)
    parser.add_argument("--seed", type=cli.whole_number(0), default=0, help="seed of the moments")
    args = parser.parse_args(arguments)
    record = check_kills(args.kills, args.seed)
    if args.kills >= KILLS:
        record_robustness("kills", record)
    failures, total = record["failures"], f"{record['kills']} kills ({record['by_command']})"
    print("\n".join([*failures, f"{total}; {len(failures)} failed"]))
    return 1 if failures else 0


if __name__ == "__main__":
    cli.run(main)
