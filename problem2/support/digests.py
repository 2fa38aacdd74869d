"""Digests (SHA-256, in hexadecimal) of files and of weights: what a record was made from, and whether that is still
there."""

import hashlib
import json

import torch

KEY = "weights_sha256"


def file_digest(path):
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_digest(state_dict):
    """Digest of the names and values of a state dict's tensors, whatever file or device holds them."""
    digest = hashlib.sha256()
    for name, value in state_dict.items():
        if torch.is_tensor(value):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def records_of_other_weights(folder, digest, model=None):
    """The JSON files in `folder` and in its folders, but for those that hold a model of their own, that say of
    themselves that they were made from other weights.

    Args:
        folder: folder of results.
        digest: `weights_digest` of the present weights.
        model: the name of these weights in records of several models, where the key holds `{name: digest}`.
    """
    stale = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if path.parent != folder and (path.parent / "best_model.pth").exists():
            continue
        try:
            record = json.loads(path.read_bytes())
        except ValueError:
            continue
        made_from = record.get(KEY) if isinstance(record, dict) else None
        if isinstance(made_from, dict):
            made_from = made_from.get(model)
        if made_from not in (None, digest):
            stale.append(path)
    return stale
