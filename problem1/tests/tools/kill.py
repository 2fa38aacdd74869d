"""Kill the commands while they write, and see what they leave.

    python problem1/tests/tools/kill.py --kills 25 --seed 0

Each command runs at a small size in a process of its own and is killed (SIGKILL, which nothing can
catch) at a random one of the steps that write. Then every visible file must be whole. The next run
must end as an undisturbed one and leave no temporary file. A full run writes
results/beyond/robustness.json. POSIX only.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from support import cli, files  # noqa: E402

import torch  # noqa: E402

import analyze  # noqa: E402
import generate_data  # noqa: E402
import inference  # noqa: E402
import train  # noqa: E402
from tests.helpers import record_robustness  # noqa: E402
from tests.small import TINY  # noqa: E402

KILLS = 25
SIZES = ["--num-digits=1", "--train-size=41", "--val-size=20", "--test-size=20"]


def start(main, arguments, die_at=None):
    """Run a command in a child process; returns its id.

    `die_at` is the step of writing at which it kills itself.
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
        mock.patch.object(files.os, name, dying(getattr(os, name))).start()
    mock.patch.object(Path, "unlink", dying(Path.unlink)).start()
    try:
        cli.run(lambda: main([str(argument) for argument in arguments]))
    except SystemExit as exit_:
        os._exit(exit_.code or 0)
    finally:
        os._exit(99)


def finish(main, arguments):
    """Run a command undisturbed."""
    status = os.waitstatus_to_exitcode(os.waitpid(start(main, arguments), 0)[1])
    if status:
        raise cli.UserError(f"{main.__module__} {arguments} ended in status {status}")


def read(path):
    """What a file holds, without what differs from run to run.

    Raises:
        Exception: if the file is not whole.
    """
    content = path.read_bytes()
    if path.suffix == ".json":
        return without_seconds(json.loads(content))
    if path.suffix == ".pth":
        return {key: value.numpy().tobytes() for key, value in torch.load(path).items()}
    if content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82"):
        return "a picture"
    raise ValueError("neither JSON, checkpoint nor whole picture")


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(each) for key, each in value.items() if key != "seconds"}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


def contents(folder, hidden=False):
    """`{name: what it holds}` of the files in a folder, and the names of those not whole."""
    found, bad = {}, []
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".lock" and (hidden or path.name[0] != "."):
            name = str(path.relative_to(folder))
            try:
                found[name] = read(path)
            except Exception as error:
                bad.append(f"{name}: {error}")
    return found, bad


class Scenario:
    """One command, and what an undisturbed run of it leaves in a folder."""

    def __init__(self, name, main, options, source, folder):
        self.name, self.main, self.options, self.source = name, main, options, source
        self.prepare(folder)
        finish(main, options(folder))
        self.expected = contents(folder, hidden=True)

    def prepare(self, folder):
        if self.source is None:
            folder.mkdir()
        else:
            shutil.copytree(self.source, folder, ignore=shutil.ignore_patterns(".lock"))

    def check(self, folder, kills, generator):
        """Kill the command `kills` times, then let it end: how many were killed; what is wrong."""
        shutil.rmtree(folder, ignore_errors=True)
        self.prepare(folder)
        done, wrong = 0, []
        for _ in range(kills):
            # Early steps more often: some commands take few.
            die_at = int(2 ** generator.uniform(0, 6)) - 1
            child = start(self.main, self.options(folder), die_at)
            done += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            wrong += [f"{self.name}, after a kill: {fault}" for fault in contents(folder)[1]]
        finish(self.main, self.options(folder))
        if contents(folder, hidden=True) != self.expected:
            wrong.append(f"{self.name}, run to its end: not as after an undisturbed run")
        return done, wrong


def scenarios(folder):
    """The commands to kill; `folder` is for the data and the model that they start from."""
    data, model = folder / "data", folder / "model"
    training = ["--data-dir", data, "--epochs", 3, *TINY, "--output-dir"]
    finish(generate_data.main, [*SIZES, "--output-dir", data])
    finish(train.main, [*training, model])
    to_model = ["--exhaustive", "--data-dir", data, "--model-path"]
    commands = {
        "generate_data.py": (generate_data.main, lambda to: [*SIZES, "--output-dir", to], None),
        "train.py": (train.main, lambda to: [*training, to], None),
        "analyze.py": (analyze.main, lambda to: ["--data-dir", data, "--results-dir", to], model),
        "inference.py --exhaustive": (
            inference.main,
            lambda to: [*to_model, to / "best_model.pth"],
            model,
        ),
    }
    return [Scenario(name, *parts, folder / name) for name, parts in commands.items()]


def check_kills(kills, seed):
    """Kill each command in turn until `kills` kills are done; returns the record."""
    torch.set_num_threads(1)  # a forked process may not use its parent's threads
    generator, by_command, failures = random.Random(seed), {}, []
    progress = cli.Progress("kills", kills)
    with tempfile.TemporaryDirectory() as folder:
        commands = scenarios(Path(folder))
        while sum(by_command.values()) < kills:
            for command in commands:
                times = generator.randint(1, 3)
                done, wrong = command.check(Path(folder) / "killed", times, generator)
                by_command[command.name] = by_command.get(command.name, 0) + done
                failures += wrong
                progress.update(max(1, min(kills, sum(by_command.values()))))
    total = sum(by_command.values())
    return {"seed": seed, "kills": total, "by_command": by_command, "failures": failures}


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--kills", type=cli.whole_number(1), default=KILLS, help="at least so many")
    parser.add_argument("--seed", type=cli.whole_number(0), default=0, help="seed of the moments")
    args = parser.parse_args(arguments)
    record = check_kills(args.kills, args.seed)
    if args.kills >= KILLS:
        record_robustness("kills", record)
    print(*record["failures"], f"{record['kills']} kills: {record['by_command']}", sep="\n")
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    cli.run(main)
