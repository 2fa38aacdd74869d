"""Measurements that are fair: times taken in turn, peak memory, and the matrix products that no implementation can do
without.

For computations on the CPU.
"""

import json
import math
import os
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from statistics import median, quantiles

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

FIRST_FACTOR = {"aten.mm.default": 0, "aten.bmm.default": 0, "aten.addmm.default": 1}


def times_in_turn(functions, rounds, least_seconds=0.05):
    """Time functions in turn (A B A B ...), so that a machine that grows slower or faster does so for all alike.

    Args:
        functions: `{name: function}`; each is called once beforehand, to warm up.
        rounds: how many figures to take of each.
        least_seconds: a figure is the mean of as many calls as take about this long.

    Returns:
        `{name: [seconds a call, ...]}`, one figure a round.
    """
    calls = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        calls[name] = max(1, math.ceil(least_seconds / (time.perf_counter() - start)))
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                function()
            times[name].append((time.perf_counter() - start) / calls[name])
    return times


def compare(times, name, base):
    """How `name` compares with `base` in what `times_in_turn` returned.

    Returns:
        A record: the median `seconds` a call of both, `ratio`, the median over the rounds of the ratio within a round,
        and `ratio_quartiles`, its first and third quartile.
    """
    ratios = [ours / theirs for ours, theirs in zip(times[name], times[base])]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {
        "seconds": {key: median(times[key]) for key in (name, base)},
        "ratio": median(ratios),
        "ratio_quartiles": [low, high],
        "rounds": len(ratios),
    }


def peak_memory(function):
    """Most bytes of tensors that a call of `function` holds at once beyond what there was before, by torch's own count.

    The count is that of torch's allocator, so it is exact and the same each time; what libraries below it take as
    scratch space is not in it.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces itself otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    changes = sorted(
        ((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"),
        key=lambda change: change[0],
    )
    return max(accumulate(size for _, size in changes), default=0)


class MatrixProducts(TorchDispatchMode):
    """Notes the factors of every matrix product computed while it is entered, forward and backward.

    `factors` has a pair of `(shape, strides)` for each product; `multiplications` counts all multiplications of
    numbers.
    """

    def __init__(self):
        super().__init__()
        self.factors, self.multiplications = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        first = FIRST_FACTOR.get(str(function))
        if first is not None:
            a, b = args[first : first + 2]
            self.factors.append([(tuple(x.shape), x.stride()) for x in (a, b)])
            self.multiplications += a.numel() * b.size(-1)
        return function(*args, **(kwargs or {}))


def products_alone(function):
    """A function that computes the matrix products which `function` computes, in the same shapes and layouts, and
    nothing else.

    The floor under `function`: all that is elementwise, moves data or keeps books comes on top.

    Returns:
        `(the floor, its number of multiplications)`.
    """
    with MatrixProducts() as record:
        function()
    prepared = []
    for factors in record.factors:
        a, b = (
            torch.randn(1 + sum((n - 1) * step for n, step in zip(shape, strides))).as_strided(
                shape, strides
            )
            for shape, strides in factors
        )
        product = torch.mm if a.dim() == 2 else torch.bmm
        prepared.append((product, a, b, product(a, b)))

    def floor():
        for product, a, b, out in prepared:
            product(a, b, out=out)

    return floor, record.multiplications


def fitted_exponent(sizes, costs):
    """k of cost = c size^k, by least squares in the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def time_to_quality(curves, thresholds):
    """Seconds and samples until validation first reaches each threshold, over several runs.

    Args:
        curves: for each run, `[seconds so far, samples so far, value]` at each epoch's end.
        thresholds: values to reach.

    Returns:
        A record for each threshold: `runs`, how many `reached` it, and of these `seconds` and `samples`, each `[least,
        median, most]`.
    """
    records = []
    for threshold in thresholds:
        first = [
            next((point for point in curve if point[2] >= threshold), None) for curve in curves
        ]
        reached = [point for point in first if point is not None]
        records.append(
            {"threshold": threshold, "runs": len(curves), "reached": len(reached)}
            | {
                name: [min(values), median(values), max(values)]
                for name, values in (
                    ("seconds", [point[0] for point in reached]),
                    ("samples", [point[1] for point in reached]),
                )
                if values
            }
        )
    return records
