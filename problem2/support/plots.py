"""Colours, and the figure of benchmark.json; nothing here runs a model or touches the disk."""

from matplotlib.figure import Figure

# Okabe & Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, SKY, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
GREY = "#666666"


def plot_benchmark(record):
    """Ratios with their targets, attention against length, and how the cost of a training step grows, from
    benchmark.json."""
    figure = Figure(figsize=(16, 4.8), layout="constrained")
    bars, attention, growth = figure.subplots(1, 3)
    entries = [entry for entry in record["records"] if "ratio" in entry and entry["section"] != "attention"]
    names = [f"{entry['section']}\nagainst {entry['against']}" for entry in entries]
    ratios = [entry["ratio"] for entry in entries]
    errors = [[entry["ratio"] - entry["ratio_quartiles"][0] for entry in entries],
              [entry["ratio_quartiles"][1] - entry["ratio"] for entry in entries]]
    bars.barh(names, ratios, xerr=errors, color=BLUE, capsize=3)
    targets = [(row, entry["target"]) for row, entry in enumerate(entries) if "target" in entry]
    bars.vlines([target for _, target in targets], [row - 0.4 for row, _ in targets], [row + 0.4 for row, _ in targets],
                color=ORANGE, linewidth=3,
                label="target: at most")
    bars.invert_yaxis()
    bars.set(xlabel="ours / theirs (time; bar: median, line: quartiles)", title="Ratios")
    bars.legend(fontsize=8)
    measured = [entry for entry in record["records"] if entry["section"] == "attention"]
    kinds = dict.fromkeys((entry["against"], entry["mask"], entry["passes"]) for entry in measured)
    for number, kind in enumerate(kinds):
        chosen = [entry for entry in measured if (entry["against"], entry["mask"], entry["passes"]) == kind]
        attention.plot([entry["length"] for entry in chosen], [entry["ratio"] for entry in chosen],
                       color=(BLUE, ORANGE, GREEN)[number // 2 % 3],
                       linestyle="--" if number % 2 else "-", marker="os^"[number // 2 % 3], markersize=4,
                       label=f"{kind[0]}, mask {kind[1]}, {kind[2]}")
    attention.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    attention.set(xscale="log", yscale="log", xlabel="length (tokens)", ylabel="ours / theirs (time)",
                  title="Attention alone")
    lengths = sorted({entry["length"] for entry in measured})
    attention.set_xticks(lengths, labels=map(str, lengths))
    attention.minorticks_off()
    attention.set_ylim(0.5, 100)
    attention.legend(fontsize=7, loc="upper left")
    for number, entry in enumerate(entry for entry in record["records"] if entry["section"] == "growth"):
        base = entry["sizes"][0], entry["seconds"][0]
        growth.plot([size / base[0] for size in entry["sizes"]], [seconds / base[1] for seconds in entry["seconds"]],
                    color=(BLUE, ORANGE, GREEN, GREY)[number % 4], marker="os^D"[number % 4], markersize=4,
                    label=f"{entry['what']}, from {base[0]}: exponent {entry['exponent_of_seconds']:.2f}")
    powers = [2 ** k for k in range(7)]
    growth.set(xscale="log", yscale="log", xlabel="size / smallest",
               ylabel="seconds a training step / those of the smallest", title="Growth")
    for set_ticks in (growth.set_xticks, growth.set_yticks):
        set_ticks(powers, labels=map(str, powers))
    growth.minorticks_off()
    growth.legend(fontsize=8)
    for axes in (bars, attention, growth):
        axes.grid(alpha=0.3)
    return figure
