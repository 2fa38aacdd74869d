"""Files that are replaced whole or not at all, folders that one run at a time writes to, and checkpoints that run no
code."""

import errno
import glob
import io
import json
import os
import warnings
from contextlib import contextmanager

import torch

from support.cli import UserError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt


@contextmanager
def replacing(path):
    """Open a binary file that takes the place of `path` when the block ends well; else `path` stays as it was.

    Raises:
        OSError: if the disk is full or may not be written; it names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(
        f".{glob.escape(path.name)}.[0-9]*.tmp"):  # of a run that was killed in the middle of this
        leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        name = str(path) if error.filename in (None, str(temporary)) else error.filename
        raise OSError(error.errno, error.strerror or str(error), name) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder):
    """Keep other runs from writing to `folder` while the block runs. The lock ends with the process, however that ends.

    Raises:
        UserError: if another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as file:
        try:
            lock(file)
        except OSError as error:
            if error.errno in HELD:
                raise UserError(f"another run is writing to {folder}: wait until it has ended, or give this one "
                                "another folder") from None
        yield


HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # other errors come from file systems that know no locks


def lock(file):
    """Lock an open file until it is closed; OSError with one of HELD if another process has it."""
    if os.name == "posix":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


def write_json(path, value):
    """Write `value` as JSON, whole; floats `rounded`."""
    with replacing(path) as file:
        file.write((json.dumps(rounded(value), indent=2) + "\n").encode())


def rounded(value, digits=6):
    """A plain value, its floats to as many significant digits as a measurement has at most."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each, digits) for each in value]
    return value


def read_json(path, missing):
    """The JSON in `path`.

    Raises:
        UserError: if there is no such file (the message ends with `missing`, which says what to do) or it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {missing}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not whole JSON ({error}): delete it and {missing}") from None


def write_checkpoint(path, value):
    """Save a dict of plain tensors and plain Python values, whole."""
    content = io.BytesIO()  # torch would hide from us that the disk is full
    torch.save(value, content)
    with replacing(path) as file:
        file.write(content.getbuffer())


def read_checkpoint(path, device, missing):
    """The dict that `write_checkpoint` saved, with its tensors on `device`; no code in the file is run.

    Files of torch's older forms are refused unread: torch 2.5 and before can be made to run code from them
    (CVE-2025-32434).

    Raises:
        UserError: if there is no such file (the message ends with `missing`) or it is no checkpoint.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on foreign files is not for our users
            with open(path, "rb") as file:
                if file.read(4) != b"PK\3\4":
                    raise ValueError("no zip archive")
            value = torch.load(path, map_location=device, weights_only=True)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is no checkpoint file: {missing}") from None
    except PermissionError:
        raise
    except Exception:  # a damaged file can raise anything at all
        raise UserError(f"{path} is damaged or holds more than plain tensors: {missing}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no dict, as a checkpoint does: {missing}")
    return value


def save_figure(path, figure):
    """Save a matplotlib figure as PNG, whole."""
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
