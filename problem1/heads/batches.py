"""Many problems worked on in batches: how large these are, and which thread has which."""

import copy
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import torch

ON_A_CORE, ON_A_GPU = 256, 16_384  # problems: what a core's cache holds, what keeps a GPU busy
LEAST = 32  # problems that are worth a thread of their own


def batch_size(device):
    """How many problems a model works on at once."""
    return ON_A_CORE if device.type == "cpu" else ON_A_GPU


def threads(device):
    """How many batches are worked on side by side."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def split(rows, size=None, device=None):
    """`rows [N, ...]` in parts: of `size`, or as `batch_size` says with work for all threads.

    `device` is where the model is, if the rows are elsewhere.
    """
    device = device or rows.device
    if size is None:
        size = min(batch_size(device), max(LEAST, -(-len(rows) // threads(device))))
    return rows.split(size)


def copies(model):
    """The model, and for each thread beyond the first a copy that has the same weights."""
    weights = {id(weight): weight for weight in model.parameters()}
    others = range(threads(next(model.parameters()).device) - 1)
    return [model, *(copy.deepcopy(model, dict(weights)) for _ in others)]


def in_batches(function, models, parts):
    """Yield `function(model, part)` of each part, in order, without gradients.

    Each part has one of the models, and one thread: when all threads share every small product they
    mostly wait. If the function, or the model, notes something of its own part on the model, the
    models are `copies`.
    """
    free = SimpleQueue()
    for model in models:
        free.put(model)

    @torch.no_grad()
    def work(part):
        model = free.get()
        try:
            return function(model, part)
        finally:
            free.put(model)

    if len(models) == 1 or len(parts) == 1:
        yield from map(work, parts)
        return
    before = torch.get_num_threads()
    one_each = {"initializer": torch.set_num_threads, "initargs": (1,)}
    try:
        with ThreadPoolExecutor(len(models), **one_each) as pool:
            yield from pool.map(work, parts)
    finally:
        torch.set_num_threads(before)
