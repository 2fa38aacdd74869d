"""Files that are replaced whole or not at all, checkpoints that run no code, and digests."""

import errno
import glob
import hashlib
import io
import json
import os
import warnings
from contextlib import contextmanager, suppress

from support.cli import UserError

import torch

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

WEIGHTS_DIGEST = "weights_sha256"  # the key under which a record names the weights it was made from
LOCK_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


def write_files(contents):
    """Replace several files together: `{path: bytes}`. Each file is whole at every moment.

    Raises:
        OSError: if the disk is full or may not be written; no file has changed then.
    """
    temporary = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.tmp"):
                leftover.unlink(missing_ok=True)  # of a run that was killed while it wrote
            temporary[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            with open(temporary[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, new in temporary.items():
            os.replace(new, path)
    except OSError as error:
        known = error.filename is not None and not str(error.filename).endswith(".tmp")
        name = error.filename if known else str(path)
        raise OSError(error.errno, error.strerror or str(error), name) from None
    finally:
        for new in temporary.values():
            new.unlink(missing_ok=True)


@contextmanager
def locked(folder, patient=False):
    """Keep other runs from writing to `folder` while the block runs; the process holds the lock.

    Raises:
        UserError: if another run holds the lock. A patient caller waits for it instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as file:
        try:
            if os.name == "posix":
                fcntl.flock(file, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
            else:
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if patient else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in LOCK_HELD:  # other errors come from file systems without locks
                raise UserError(
                    f"another run is writing to {folder}: wait until it has ended, or give this "
                    "one another folder"
                ) from None
        yield


def rounded(value, digits=6):
    """A plain value, its floats rounded to so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each, digits) for each in value]
    return value


def json_bytes(value, indent=2):
    """A plain value as the bytes of a JSON file, floats `rounded`; never NaN or infinity."""
    return (json.dumps(rounded(value), indent=indent, allow_nan=False) + "\n").encode()


def write_json(path, value):
    """Replace a file by the JSON of `value`."""
    write_files({path: json_bytes(value)})


def read_json(path, remedy):
    """The JSON in `path`.

    Raises:
        UserError: if the file is missing or not JSON; the message ends with `remedy`.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not whole JSON ({error}): delete it and {remedy}") from None


@contextmanager
def reading(path, remedy):
    """Within the block of code, what the record in `path` lacks is a UserError with `remedy`."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not a whole record ({error!r}): {remedy}") from None


def figure_bytes(figure):
    """A matplotlib figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def save_figure(path, figure):
    """Replace a file by the PNG of a matplotlib figure."""
    write_files({path: figure_bytes(figure)})


def checkpoint_bytes(state_dict):
    """A state dict, moved to the CPU, as the bytes of a checkpoint file."""
    content = io.BytesIO()
    torch.save({name: value.cpu() for name, value in state_dict.items()}, content)
    return content.getvalue()


def read_checkpoint(path, device, remedy):
    """The dict of tensors in a checkpoint file, on `device`; no code in the file is run.

    Torch's older file forms are refused unread, because torch 2.5 and before can be made to run
    code from them (CVE-2025-32434).

    Raises:
        UserError: if the file is missing or is no checkpoint; the message ends with `remedy`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on foreign files
            with open(path, "rb") as file:
                if file.read(4) != b"PK\3\4":
                    raise ValueError("no zip archive")
            value = torch.load(path, map_location=device, weights_only=True)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} is no checkpoint file: {remedy}") from None
    except PermissionError:
        raise
    except Exception:  # a damaged file can raise anything at all
        raise UserError(f"{path} is damaged or holds more than tensors: {remedy}") from None
    if not isinstance(value, dict) or not all(map(torch.is_tensor, value.values())):
        raise UserError(f"{path} is not a dict of tensors, as a checkpoint is: {remedy}")
    return value


def file_digest(path):
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_digest(model):
    """SHA-256 of the names and values of a model's weights, on whatever device they are."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not name.endswith("_extra_state"):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            value = value.detach().cpu().contiguous().flatten()
            digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stale_records(folder, digest, name=None):
    """The JSON files in `folder` and below that say they were made from other weights.

    Args:
        folder: a folder of results. Folders below it that hold a model of their own are passed by.
        digest: `weights_digest` of the present weights.
        name: the model's name, for records of several models, `{WEIGHTS_DIGEST: {name: digest}}`.
    """
    stale = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if path.parent != folder and (path.parent / "best_model.pth").exists():
            continue
        record = {}
        with suppress(ValueError):
            record = json.loads(path.read_bytes())
        made_from = record.get(WEIGHTS_DIGEST) if isinstance(record, dict) else None
        if isinstance(made_from, dict):
            made_from = made_from.get(name)
        if made_from not in (None, digest):
            stale.append(path)
    return stale
