"""Kill generate_data.py, train.py, analyze.py and inference.py --exhaustive at random moments, and see what they leave.

    python problem1/tests/kill.py --kills 25 --seed 0

Each is run at a small size in a process of its own and killed (SIGKILL, which nothing can catch): at a random moment,
or at a random one of the steps that write. Then every visible file must be whole, and the next run, with --resume where
there is something to resume, must end in the bits of an undisturbed run and leave no temporary file. Writes
results/robustness.json. POSIX only.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

import analyze  # noqa: E402
from support import cli  # noqa: E402
from support import files  # noqa: E402
import generate_data  # noqa: E402
import inference  # noqa: E402
import train  # noqa: E402
from support.cli import Parser, Progress, UserError, run, whole_number  # noqa: E402
from tests.helpers import record_robustness  # noqa: E402

SMALL = ("--d-model", "16", "--num-heads", "2", "--num-layers", "1", "--d-ff", "16", "--batch-size", "8", "--dropout",
         "0.1", "--device", "cpu",
         "--epochs", "3")


def start(main, arguments, die_at=None):
    """Run a command in a child process; returns its id. `die_at`: the write step at which it kills itself."""
    child = os.fork()
    if child:
        return child
    sys.stdout = sys.stderr = open(os.devnull, "w")
    steps = iter(range(10 ** 9))

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
    """Run a command undisturbed; returns the seconds it took. An exit status other than 0 is an error of the check
    itself."""
    begin = time.perf_counter()
    status = os.waitstatus_to_exitcode(os.waitpid(start(main, arguments), 0)[1])
    if status:
        raise UserError(f"{main.__module__} {' '.join(arguments)} ended in status {status}")
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
            elif not (content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")):
                bad.append(f"{path.name}: neither JSON, checkpoint nor whole PNG")
        except Exception as error:
            bad.append(f"{path.name}: {error}")
    return bad


def contents(folder):
    """What is in a folder, `{name: content}`, without what differs from run to run: seconds, and the lock."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_dir() or path.name == ".lock":
            continue
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = without_seconds(json.loads(path.read_bytes()))
        elif path.suffix == ".pth":
            saved = torch.load(path, weights_only=True)
            found[name] = {key: tensor.numpy().tobytes()
                           for key, tensor in saved["state_dict"].items()} | {"config": saved["config"]}
        else:
            found[name] = path.suffix == ".png" or path.read_bytes()
    return found


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(entry) for key, entry in value.items() if key != "seconds"}
    return [without_seconds(entry) for entry in value] if isinstance(value, list) else value


class Scenario:
    """One command: how it is run into a folder, and what an undisturbed run leaves there and takes."""

    def __init__(self, name, main, arguments, prepare, folder):
        self.name, self.main, self.arguments, self.prepare = name, main, arguments, prepare
        prepare(folder)
        self.seconds = finish(main, self.options(folder))
        self.expected = contents(folder)

    def options(self, folder):
        resume = ["--resume"] if any(folder.rglob("resume.pth")) else []
        return [argument.format(folder=folder) for argument in self.arguments] + resume

    def check(self, folder, kills, generator):
        """Kill the command up to `kills` times in one folder, then let it end; returns the kills done and what was
        wrong."""
        shutil.rmtree(folder, ignore_errors=True)
        self.prepare(folder)
        done, wrong = 0, []
        for _ in range(kills):
            by_step = generator.random() < 0.5
            child = start(self.main, self.options(folder), generator.randrange(40) if by_step else None)
            if not by_step:
                time.sleep(generator.uniform(0, self.seconds))
                os.kill(child, signal.SIGKILL)
            done += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            wrong += [f"{self.name}, after a kill: {fault}" for fault in damaged(folder)]
        finish(self.main, self.options(folder))
        found = contents(folder)
        if found != self.expected:
            names = [name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)]
            wrong.append(f"{self.name}, run to its end: {', '.join(sorted(names))} not as after an undisturbed run")
        return done, wrong


def scenarios(folder):
    """The commands to kill; `folder` is for the data and models that they start from."""
    data, model = folder / "data", folder / "model"
    generate = ["--num-digits", "1", "--train-size", "41", "--val-size", "20", "--test-size", "20", "--output-dir"]
    training = ["--data-dir", str(data), *SMALL, "--output-dir"]
    finish(generate_data.main, [*generate, str(data)])
    finish(train.main, [*training, str(model)])

    def with_model(target):
        shutil.copytree(model, target, ignore=shutil.ignore_patterns(".lock"))
    return [Scenario("generate_data.py", generate_data.main, [*generate, "{folder}"], Path.mkdir, folder / "1"),
            Scenario("train.py", train.main, [*training, "{folder}"], Path.mkdir, folder / "2"),
            Scenario("analyze.py", analyze.main, ["--data-dir", str(data), "--results-dir", "{folder}"], with_model,
                     folder / "3"),
            Scenario("inference.py --exhaustive", inference.main,
                     ["--exhaustive", "--data-dir", str(data), "--model-path", "{folder}/best_model.pth"],
                     with_model, folder / "4")]


def check_kills(kills, seed):
    """Kill each command in turn until `kills` kills are done; returns the record."""
    torch.set_num_threads(1)  # a forked process may not use its parent's threads
    generator, by_command, failures = random.Random(seed), {}, []
    progress = Progress("kills", kills)
    with tempfile.TemporaryDirectory() as folder:
        commands = scenarios(Path(folder))
        while sum(by_command.values()) < kills:
            for command in commands:
                done, wrong = command.check(Path(folder) / "killed", generator.randint(1, 3), generator)
                by_command[command.name] = by_command.get(command.name, 0) + done
                failures += wrong
                progress.update(max(1, min(kills, sum(by_command.values()))))
    return {"seed": seed, "kills": sum(by_command.values()), "by_command": by_command, "failures": failures}


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--kills", type=whole_number(1), default=25, help="how many processes to kill at least")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of the moments")
    args = parser.parse_args(arguments)
    record = check_kills(args.kills, args.seed)
    record_robustness("kills", record)
    print("\n".join(record["failures"]) + f"\n{record['kills']} kills ({record['by_command']}); "
                                          f"{len(record['failures'])} failed")
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    run(main)
