"""Benchmarks: functions timed in turn, their ratios, and the matrix products beneath a function.

Everything runs on the CPU.
"""

import os
from pathlib import Path
from statistics import median, quantiles

from support import cli, files, plots

import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import profile
from torch.utils.benchmark import Timer

PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1}  # name: where its two factors begin
LENGTHS = (16, 64, 256, 512, 1024, 2048)
TOKENS = 2048  # in a batch for `measure_attention`, whatever the length
HEADS, WIDTH = 4, 32  # of an attention, and of each of its heads


def times_in_turn(functions, rounds):
    """Time functions in turn, A B A B ..., so that all share in the machine's ups and downs.

    Args:
        functions: `{name: function}`.

    Returns:
        `{name: [seconds a call, ...]}`, one value a round.
    """
    threads = torch.get_num_threads()
    timers = {
        name: Timer("call()", globals={"call": function}, num_threads=threads)
        for name, function in functions.items()
    }
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer.blocked_autorange(min_run_time=0.05).median)
    return times


def compare(times, ours, against):
    """A record of how `ours` compares with `against` in what `times_in_turn` returned.

    `seconds` a call are medians. `ratio` is the median of the ratios within a round, and
    `ratio_quartiles` are their first and third quartile.
    """
    ratios = [one / other for one, other in zip(times[ours], times[against])]
    low, middle, high = quantiles(ratios, method="inclusive")
    return {
        "against": against,
        "seconds": {name: median(times[name]) for name in (ours, against)},
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "rounds": len(ratios),
    }


def products_alone(function):
    """A function that computes the matrix products of `function`, in its shapes, and nothing else.

    They are the floor under `function`: it cannot be faster. Element-wise work comes on top.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces itself otherwise
    with profile(record_shapes=True) as record:
        function()
    prepared = []
    for event in record.events():
        if event.name in PRODUCTS:
            first = PRODUCTS[event.name]
            a, b = (torch.randn(shape) for shape in event.input_shapes[first : first + 2])
            prepared.append((torch.mm if a.dim() == 2 else torch.bmm, a, b))

    def floor():
        for product, a, b in prepared:
            product(a, b)

    return floor


def measure_attention(attention, multi_head, rounds, length, causal_mask=None):
    """Records of attention alone at one length, against PyTorch's.

    Args:
        attention: called as `attention(Q, K, V, mask)`; the first of what it returns is used.
        multi_head: a class of modules, made as `multi_head(d_model, num_heads)`.
        causal_mask: if given, `attention` is timed with it as well.
    """
    batch_size, d_model = max(1, TOKENS // length), HEADS * WIDTH
    ours = multi_head(d_model, HEADS)
    theirs = nn.MultiheadAttention(d_model, HEADS, batch_first=True)
    x = torch.randn(batch_size, length, d_model, requires_grad=True)
    Q, K, V = (torch.randn(batch_size, HEADS, length, WIDTH, requires_grad=True) for _ in range(3))

    def fused(causal=False):
        return F.scaled_dot_product_attention(Q, K, V, is_causal=causal)

    def with_weights():
        return theirs(x, x, x, average_attn_weights=False)[0]

    pairs = [
        ("F.scaled_dot_product_attention", "none", lambda: attention(Q, K, V)[0], fused),
        ("nn.MultiheadAttention with weights", "none", lambda: ours(x, x, x)[0], with_weights),
    ]
    if causal_mask is not None:
        one, other = (lambda: attention(Q, K, V, causal_mask)[0]), (lambda: fused(causal=True))
        pairs.append(("F.scaled_dot_product_attention", "causal", one, other))
    passes = {"forward": torch.no_grad(), "forward and backward": with_backward}
    records = []
    for against, mask, one, other in pairs:
        for name, wrap in passes.items():
            times = times_in_turn({"ours": wrap(one), against: wrap(other)}, rounds)
            about = {"section": "attention", "length": length, "batch_size": batch_size}
            about |= {"heads": HEADS, "width_of_a_head": WIDTH, "mask": mask, "passes": name}
            records.append(about | compare(times, "ours", against))
    return records


def with_backward(function):
    return lambda: function().sum().backward()


def run_benchmark(description, measures, rounds, arguments):
    """The command of a benchmark: take the records, write benchmark.json and benchmark.png.

    Args:
        measures: functions of the number of rounds that return lists of records. Records other than
            those of `measure_attention` have a `section` and a `target`, the most the ratio may be.
        rounds: by default. A run of fewer rounds leaves the results of the full one alone.
    """
    parser = cli.Parser(description=description)
    text = "how often each time is taken; with fewer than the default, results go to runs/"
    parser.add_argument("--rounds", type=cli.whole_number(2), default=rounds, help=text)
    text = "folder of benchmark.json and benchmark.png (default: results/beyond or runs/benchmark)"
    parser.add_argument("--output-dir", type=Path, default=None, help=text)
    args = parser.parse_args(arguments)
    full = args.rounds >= rounds
    default = cli.RESULTS_DIR / "beyond" if full else cli.HERE / "runs" / "benchmark"
    output_dir = args.output_dir or default
    torch.manual_seed(0)
    with files.locked(output_dir):
        records, progress = [], cli.Progress("measurements", len(measures))
        for done, measure in enumerate(measures, 1):
            records += measure(args.rounds)
            progress.update(done)
        record = {"environment": cli.environment("cpu"), "records": records}
        files.write_json(output_dir / "benchmark.json", record)
        files.save_figure(output_dir / "benchmark.png", plot_benchmark(record))
    for entry in records:
        if entry["section"] != "attention":
            low, high = entry["ratio_quartiles"]
            print(
                f"{entry['section']} against {entry['against']}: {entry['ratio']:.2f} "
                f"(quartiles {low:.2f} to {high:.2f}; target: at most {entry['target']})"
            )
    print(f"written to {output_dir / 'benchmark.json'}")


def plot_benchmark(record):
    """Two panels: ratios of whole tasks, and those of attention alone against the length."""
    figure = plots.new_figure(12, 4.8)
    bars, attention = figure.subplots(1, 2)
    timed = [entry for entry in record["records"] if entry["section"] != "attention"]
    names = [f"{entry['section']}\nagainst {entry['against']}" for entry in timed]
    ratios = [entry["ratio"] for entry in timed]
    errors = [
        [abs(entry["ratio_quartiles"][i] - entry["ratio"]) for entry in timed] for i in (0, 1)
    ]
    bars.barh(names, ratios, xerr=errors, color=plots.BLUE, capsize=3)
    targets = [entry["target"] for entry in timed]
    style = {"markersize": 30, "markeredgewidth": 3, "color": plots.ORANGE}
    bars.plot(targets, names, "|", label="target: at most", **style)
    bars.invert_yaxis()
    bars.legend(fontsize=8, markerscale=0.3)
    bars.set(xlabel="ours / theirs (time; bar: median, line: quartiles)", title="Ratios")
    curves = {}
    for entry in record["records"]:
        if entry["section"] == "attention":
            kind = entry["against"], entry["mask"], entry["passes"]
            curves.setdefault(kind, []).append((entry["length"], entry["ratio"]))
    for number, ((against, mask, passes), curve) in enumerate(curves.items()):
        colour = (plots.BLUE, plots.ORANGE, plots.GREEN)[number // 2]
        style, label = "--" if number % 2 else "-", f"{against}, mask {mask}, {passes}"
        attention.plot(*zip(*curve), "os^"[number // 2], linestyle=style, color=colour, label=label)
    attention.axhline(1, color=plots.GREY, linewidth=0.8, linestyle=":")
    attention.set(xscale="log", yscale="log", ylim=(0.1, 100), title="Attention alone")
    attention.set(xlabel="length (tokens)", ylabel="ours / theirs (time)")
    attention.set_xticks(LENGTHS, labels=map(str, LENGTHS))
    attention.minorticks_off()
    attention.legend(fontsize=7, loc="upper left", handlelength=4)
    for axes in (bars, attention):
        axes.grid(alpha=0.3)
    return figure
