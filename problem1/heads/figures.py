"""Figures of the head analysis from records; nothing here runs a model or touches the disk."""

from itertools import product

import numpy as np
from matplotlib.figure import Figure

from support.plots import BLUE, GREEN, GREY, ORANGE, PINK, RED

METHOD_COLOURS = {"zero": BLUE, "mean": ORANGE, "resample": GREEN}


def draw_map(axes, weights, queries, keys, values=False):
    """Draw attention weights `[T][S]`, from 0 to 1, with a label for each query (row) and key (column); returns the
    image.

    Raises:
        ValueError: if the labels do not fit the weights.
    """
    weights = np.asarray(weights)
    if weights.shape != (len(queries), len(keys)):
        raise ValueError(f"{len(queries)} queries and {len(keys)} keys do not fit weights of shape {weights.shape}")
    image = axes.imshow(weights, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    axes.set_xticks(range(len(keys)), labels=keys)
    axes.set_yticks(range(len(queries)), labels=queries)
    axes.tick_params(length=0, labelsize=8)
    if values:
        for (row, column), weight in np.ndenumerate(weights):
            if weight >= 0.005:
                axes.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=7, color="black"
                          if weight > 0.6 else "white")
    return image


def plot_head(record):
    """The mean attention map of one head, from a record of `measure_patterns`."""
    figure = Figure(figsize=(5.4, 1.6 + 0.45 * len(record["queries"])), layout="constrained")
    axes = figure.subplots()
    image = draw_map(axes, record["mean_weights"], record["queries"], record["keys"], values=True)
    axes.set_aspect("auto")
    figure.colorbar(image, ax=axes, label="mean attention weight")
    axes.set(xlabel="key", ylabel=query_title(record["kind"]))
    axes.set_title(f"{record['head']}, mean over {record['n']:,} test problems", fontsize=10)
    axes.tick_params(axis="x", rotation=30)
    return figure


def query_title(kind):
    """What the rows of a map of this kind of attention are."""
    return "query" if kind == "encoder.self" else "digit being produced"


def plot_overview(records):
    """The mean attention maps of all heads of one attention type, a row for each layer."""
    heads = 1 + max(int(record["head"].rsplit(".", 1)[1]) for record in records)
    layers = len(records) // heads
    figure = Figure(figsize=(3.1 * heads + 0.8, 2.9 * layers + 0.6), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    for axes, record in zip(grid.flat, records):
        image = draw_map(axes, record["mean_weights"], record["queries"], record["keys"])
        axes.set_title(record["head"], fontsize=10)
        axes.tick_params(axis="x", rotation=60)
    figure.supxlabel("key")
    figure.supylabel(query_title(records[0]["kind"]))
    figure.colorbar(image, ax=grid, label=f"mean attention weight ({records[0]['n']:,} test problems)", shrink=0.9)
    return figure


def plot_case(case):
    """All heads of all layers on one problem.

    Args:
        case: `{"problem": "663 + 497", "answer": "1160", "why": ..., "maps": [{"head", "weights", "queries", "keys"},
            ...]}`.
    """
    heads = 1 + max(int(record["head"].rsplit(".", 1)[1]) for record in case["maps"])
    rows = len(case["maps"]) // heads
    # In inches: a layout found by matplotlib takes as long as the drawing.
    width, height = 2.5 * heads + 1.4, 2.2 * rows + 1.25
    figure = Figure(figsize=(width, height))
    figure.suptitle(f"{case['problem']} = {case['answer']}   ({case['why']})\nEach map is a head, in the order in "
                    "which they act; bright: the token on the left reads the one below", y=1 - 0.15 / height)
    grid = figure.subplots(rows, heads, squeeze=False, gridspec_kw={
        "left": 0.75 / width, "right": 1 - 1.0 / width, "bottom": 0.65 / height, "top": 1 - 0.85 / height,
        "wspace": 0.2, "hspace": 0.35})
    for axes, record in zip(grid.flat, case["maps"]):
        image = draw_map(axes, record["weights"], record["queries"], record["keys"])
        axes.set_title(record["head"], fontsize=9)
    figure.supxlabel("key: the token that is read (^: start)", y=0.15 / height)
    figure.supylabel("query: in the encoder the token that reads, in the decoder the digit being produced",
                     x=0.15 / width)
    figure.colorbar(image, cax=figure.add_axes([1 - 0.8 / width, 0.2, 0.2 / width, 0.6]), label="attention weight")
    return figure


def plot_importance(records, gradients, baseline):
    """Loss of exact match without each head, by method of ablation with 95% intervals, and gradient importance beside
    it."""
    heads = list(gradients)
    figure = Figure(figsize=(10, 0.3 * len(heads) + 1.6), layout="constrained")
    loss, gradient = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    place = np.arange(len(heads))
    for number, (method, colour) in enumerate(METHOD_COLOURS.items()):
        change = {record["head"]: record["exact_match_change"] for record in records if record["method"] == method}
        mean = np.array([-change[head]["mean"] for head in heads]) * 100
        low, high = (np.array([-change[head]["interval"][side] for head in heads]) * 100 for side in (1, 0))
        loss.barh(place + (number - 1) * 0.27, mean, height=0.27, color=colour, label=method,
                  xerr=[np.maximum(mean - low, 0), np.maximum(high - mean, 0)], error_kw={"linewidth": 0.8})
    loss.set_yticks(place, labels=heads, fontsize=8)
    loss.set_ylim(len(heads) - 0.4, -0.6)
    loss.set(xlabel="points of exact match lost (bar: 95% interval)", xlim=(0, 100),
             title=f"Ablation of one head ({records[0]['set']} problems, n = {baseline['n']:,}; with all heads "
                   f"{baseline['exact_match']:.2%})")
    loss.legend(title="output replaced by", loc="lower right")
    gradient.barh(place, list(gradients.values()), color=GREY)
    gradient.set(xlabel="E |dL/dgate| (nats)", title="Gradient importance", xlim=(0, None))
    gradient.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    for axes in (loss, gradient):
        axes.grid(axis="x", alpha=0.3)
    return figure


def plot_breakdown(records, method="resample"):
    """Loss of exact match by carry pattern and cascade length, and of each output digit, a row for each head."""
    chosen = [record for record in records if record["method"] == method]
    blocks = {"columns that carry (1), highest first": "by_carry_pattern", "cascade length": "by_cascade_length",
              "digit of the sum": "by_output_digit"}
    tables = {title: (list(chosen[0][key]), [[-100 * value["mean"] for value in record[key].values()]
                                             for record in chosen])
              for title, key in blocks.items()}
    figure = Figure(figsize=(11, 0.26 * len(chosen) + 2), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True,
                             width_ratios=[len(labels) + 1 for labels, _ in tables.values()])
    for axes, (title, (labels, table)) in zip(panels, tables.items()):
        image = axes.imshow(table, vmin=0, vmax=100, cmap="viridis", aspect="auto", interpolation="nearest")
        axes.set_xticks(range(len(labels)), labels=labels, rotation=45 if len(labels) > 4 else 0)
        axes.set_title(title, fontsize=10)
        for (row, column), value in np.ndenumerate(np.array(table)):
            if value >= 0.5:
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color="black" if value > 60
                          else "white")
    panels[0].set_yticks(range(len(chosen)), labels=[record["head"] for record in chosen], fontsize=8)
    figure.colorbar(image, ax=panels, label="points lost")
    figure.suptitle(f"What each head's ablation ({method}) costs: exact match, and accuracy of each digit, stratified "
                    "problems")
    return figure


def plot_rank_correlation(correlation):
    """Spearman's rank correlation between measures of importance."""
    names = list(correlation)
    table = np.array([[np.nan if value is None else value for value in row.values()] for row in correlation.values()])
    figure = Figure(figsize=(6.8, 5.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(names)), labels=names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), labels=names)
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color="white" if abs(value) > 0.6
                  else "black")
    axes.set_title("Do the rankings of the heads agree?")
    figure.colorbar(image, ax=axes, label="Spearman's rank correlation")
    return figure


def plot_pruning(orders, subsets):
    """Exact match against the number of heads removed: by order, and over all subsets of each attention type."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    curves, sets = figure.subplots(1, 2, sharey=True)
    styles = {"greedy": (BLUE, "o-"), "ablation": (GREEN, "^-"), "gradient": (ORANGE, "s-")}
    for record in orders:
        if record["order"] in styles:
            colour, style = styles[record["order"]]
            curves.plot(range(len(record["exact_match"])), record["exact_match"], style, color=colour, markersize=4,
                        label=f"order: {record['order']}", linewidth=1.6, zorder=3)
    random = [record["exact_match"] for record in orders if record["order"] not in styles]
    for number, match in enumerate(random):
        curves.plot(match, color=GREY, linewidth=0.6, alpha=0.6, label=f"{len(random)} random orders" if not number
                    else None)
    curves.set(xlabel="heads removed (output zero)", ylabel="exact match, free-running", ylim=(-0.02, 1.02),
               title=f"In order, on {orders[0]['n']:,} test problems (cut below 50%)")
    for kind, colour, marker in zip(dict.fromkeys(record["kind"] for record in subsets), (PINK, RED, "black"), "os^"):
        chosen = [record for record in subsets if record["kind"] == kind]
        removed = [record["removed"] for record in chosen]
        sets.plot(removed, [record["best"] for record in chosen], color=colour, marker=marker,
                  label=f"{kind}: best subset")
        sets.plot(removed, [record["mean"] for record in chosen], color=colour, marker=marker, linestyle="--",
                  markerfacecolor="white",
                  label=f"{kind}: mean of all")
    sets.set(xlabel="heads of that type removed", title=f"All subsets of each type, {subsets[0]['n']:,} stratified "
                                                        "problems")
    for axes in (curves, sets):
        for tolerance in (0.01, 0.05):
            axes.axhline(1 - tolerance, color=GREY, linewidth=0.8, linestyle=":",
                         label="1 and 5 points lost" if tolerance == 0.01 else None)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, loc="lower left")
    return figure


def plot_sites(records, conditions, title):
    """Share of pairs answered as the injected carry implies, for every site alone: rows are heads, columns positions.

    Args:
        records: those of `measure_sites` for all columns, a row of panels each.
        conditions: the conditions to draw, a panel each for the encoder and for the decoder.
    """
    columns = sorted({record["column"] for record in records})
    figure = Figure(figsize=(14, 4.1 * len(columns) + 0.6), layout="constrained")
    stacks = list(product(("encoder", "decoder"), conditions))
    sizes = {stack: len({record["site"].split("@")[1] for record in records if record["site"].startswith(stack)})
             for stack in ("encoder", "decoder")}
    grid = figure.subplots(len(columns), len(stacks), squeeze=False, width_ratios=[sizes[stack] for stack, _ in stacks])
    for panels, column in zip(grid, columns):
        for axes, (stack, condition) in zip(panels, stacks):
            chosen = [record for record in records if record["column"] == column and record["site"].startswith(stack)
                      and condition in record["conditions"]]
            rows = list(dict.fromkeys(record["site"].split("@")[0] for record in chosen))
            places = list(dict.fromkeys(record["site"].split("@")[1] for record in chosen))
            table = np.full((len(rows), len(places)), np.nan)
            for record in chosen:
                row, place = record["site"].split("@")
                table[rows.index(row), places.index(place)] = record["conditions"][condition]["exact"]
            image = axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
            axes.set_xticks(range(len(places)), labels=places, rotation=45)
            first = condition == conditions[0]
            axes.set_yticks(range(len(rows)), labels=rows if first else [""] * len(rows), fontsize=8)
            axes.set_title(f"into s{10 ** column}: {condition}", fontsize=10)
            for (row, place), value in np.ndenumerate(table):
                if value >= 0.05:
                    axes.text(place, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color="black"
                              if value > 0.6 else "white")
    figure.suptitle(title)
    figure.colorbar(image, ax=grid, label="share of pairs", shrink=0.5)
    return figure


def plot_route(sets, mean_weights, source, target):
    """The route of the carry: the sites of the smallest sets, and what the heads among them read.

    Args:
        sets: records of `find_smallest_set`, one for each column.
        mean_weights: `{head: [T][S]}`, mean attention.
        source, target: labels of the positions.
    """
    levels = ["input"] + _blocks(mean_weights)
    figure = Figure(figsize=(4.4 * len(sets) + 1, 4.8), layout="constrained")
    places = {label: x for x, label in enumerate(source)} | {label: len(source) + 0.6 + x
                                                             for x, label in enumerate(target)}
    for axes, record in zip(np.atleast_1d(figure.subplots(1, len(sets), sharey=True)), sets):
        for label, x in places.items():
            for level, name in enumerate(levels):
                if name == "input" or name.startswith("encoder") == (label in source):
                    axes.plot(x, level, "o", color="#DDDDDD", markersize=7, zorder=1)
        numbers = {}
        for site in sorted(record["sites"]):
            head, place = site.split("@")
            numbers.setdefault((place, block_of(head)), []).append(head.rsplit(".", 1)[1])
        for (place, block), text in numbers.items():
            axes.plot(places[place], levels.index(block), "o", color=RED, markersize=9, zorder=4)
            axes.annotate(",".join(text), (places[place], levels.index(block)), (0, 8), textcoords="offset points",
                          color=RED,
                          ha="center", fontsize=10, weight="bold", zorder=5)
        for site in record["sites"]:
            head, place = site.split("@")
            level = levels.index(block_of(head))
            if head in mean_weights:
                labels = source if not head.startswith("decoder") or ".cross." in head else None
                row = (source if head.startswith("encoder") else target).index(place)
                for key, weight in enumerate(mean_weights[head][row]):
                    if labels and weight >= 0.1:
                        below = 0 if head.startswith("encoder.0") else level - 1 if head.startswith("encoder") else max(
                            i for i, name in enumerate(levels) if name.startswith("encoder"))
                        axes.annotate("", (places[place], level), (places[labels[key]], below), zorder=3,
                                      arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 3 * weight,
                                                  "alpha": 0.8, "shrinkB": 6})
        scores = [f"{text} {record['conditions'][condition]['exact']:.0%}" for condition, text in
                  (("carry", "as implied"), ("same carry", "changed in the control"))
                  if condition in record["conditions"]]
        axes.set_title(f"carry into s{10 ** record['column']}:\n{', '.join(scores)}", fontsize=11)
        axes.set_xticks(list(places.values()), labels=list(places), rotation=60)
        axes.set_yticks(range(len(levels)), labels=levels)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Where the carry is held (red, with the heads' numbers), and what these heads read (blue, width: "
                    "mean attention)")
    return figure


def plot_seeds(records):
    """Models of several training seeds: greedy removal curves, and what the smallest sets of heads carry in each
    column.

    Args:
        records: those of seeds.json of the head analysis.
    """
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=[1, 1.6])
    for record, colour, marker in zip(records, (BLUE, ORANGE, GREEN, RED, GREY), "os^Dv"):
        match = record["greedy"]["exact_match"]
        curves.plot(range(len(match)), match, color=colour, marker=marker, markersize=4, label=f"seed {record['seed']}")
    curves.set(xlabel="heads removed (output zero)", ylabel="exact match on test problems", ylim=(0.4, 1.02),
               title="Greedy removal")
    curves.axhline(0.99, color=GREY, linewidth=0.6, linestyle=":")
    curves.legend(fontsize=8, loc="lower left")
    sets = [(record["seed"], found) for record in records for found in record["sets"]
            if found["heads_only"] and found["searched_on"][0] == "carry"]
    sets.sort(key=lambda item: (item[1]["column"], item[0]))
    for number, (condition, colour) in enumerate({"carry": BLUE, "other digits": GREEN, "same carry": RED}.items()):
        scores = [found["conditions"].get(condition) for _, found in sets]
        place = [i + (number - 1) * 0.27 for i, score in enumerate(scores) if score]
        exact = np.array([score["exact"] for score in scores if score])
        low, high = np.array([score["interval"] for score in scores if score]).T
        bars.bar(place, exact, width=0.27, color=colour, label="same carry (control): answer changed"
                 if condition == "same carry"
                 else f"{condition}: answer as implied", yerr=[np.maximum(exact - low, 0), np.maximum(high - exact, 0)],
                 error_kw={"linewidth": 0.8})
    bars.set_xticks(range(len(sets)), labels=[f"s{10 ** found['column']}\nseed {seed}\n{len(found['sites'])} sites"
                                              for seed, found in sets], fontsize=7)
    bars.set(ylim=(0, 1.02), ylabel="share of pairs", title="Carry injected through the smallest set of heads")
    bars.set_xlim(-0.7, len(sets) - 0.3)
    curves.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=8)
    for axes in (curves, bars):
        axes.grid(axis="y", alpha=0.3)
    return figure


def block_of(head):
    """`encoder.0.self` of `encoder.0.self.2`; a feed-forward network is its own block."""
    return head if head.endswith("ffn") else head.rsplit(".", 1)[0]


def _blocks(mean_weights):
    """All blocks in the order in which they act, from the names of the heads."""
    blocks = list(dict.fromkeys(head.rsplit(".", 1)[0] for head in mean_weights))
    levels = []
    for block in blocks:
        levels.append(block)
        if block.startswith("encoder") or block.endswith("cross"):
            levels.append(f"{block.rsplit('.', 1)[0]}.ffn")
    return levels
