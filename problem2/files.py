"""Files that are replaced whole or not at all, and checkpoints that load without running code."""

import hashlib
import json
import os
import warnings
from contextlib import contextmanager

import torch

from cli import UserError


@contextmanager
def replacing(path):
    """Open a binary file that takes the place of `path` when the block ends well; else `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path):
    """Digest of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path, value):
    """Write `value` as JSON, whole."""
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


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
    with replacing(path) as file:
        torch.save(value, file)


def read_checkpoint(path, device, missing):
    """The dict that `write_checkpoint` saved, with its tensors on `device`; no code in the file is run.

    Raises:
        UserError: if there is no such file (the message ends with `missing`) or it is no checkpoint.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on foreign files is not for our users
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
