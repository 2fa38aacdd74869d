"""Run a command of this folder: `python problem2/beyond NAME`. Without a name: the list of them."""

import importlib
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[0] = str(FOLDER.parent)  # Python puts this folder there

from support.cli import UserError, run  # noqa: E402


def main():
    # README.md is the list of the commands: a row of its table begins with the command's name.
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([a-z-]+)`", readme, re.MULTILINE)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(readme)
        return
    name = sys.argv[1]
    if name not in names:
        raise UserError(f"there is no command {name}: choose from {', '.join(names)}")
    sys.argv[0] = f"beyond {name}"  # the name of the command in its help
    command = importlib.import_module(f"beyond.{name.replace('-', '_')}")
    return command.main(sys.argv[2:])


if __name__ == "__main__":
    run(main)
