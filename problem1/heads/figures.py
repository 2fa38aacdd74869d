"""Figures of the head analysis from records; nothing here runs a model or touches the disk."""

from support.plots import BLUE, GREEN, GREY, ORANGE, PINK, RED, new_figure

import numpy as np

from heads.sites import Site

METHOD_COLOURS = {"zero": BLUE, "mean": ORANGE, "resample": GREEN}


def draw_table(axes, table, rows, columns, low=0, high=1, **options):
    """Draw a table of numbers as colours, with labels for its rows and columns; return the image.

    Raises:
        ValueError: if the labels do not fit the table.
    """
    table = np.asarray(table)
    if table.shape != (len(rows), len(columns)):
        raise ValueError(f"{len(rows)} rows and {len(columns)} columns do not fit {table.shape}")
    options = {"cmap": "viridis", "interpolation": "nearest"} | options
    image = axes.imshow(table, vmin=low, vmax=high, **options)
    axes.set_xticks(range(len(columns)), labels=columns)
    axes.set_yticks(range(len(rows)), labels=rows)
    return image


def write_values(axes, table, form, least, is_bright, size=7):
    """Write the values from `least` up into the cells, in black where the colour is bright."""
    for (row, column), value in np.ndenumerate(np.asarray(table)):
        if value >= least:
            look = {"fontsize": size, "color": "black" if is_bright(value) else "white"}
            axes.text(column, row, form.format(value), ha="center", va="center", **look)


def draw_map(axes, weights, queries, keys):
    """Draw attention weights `[T][S]`, a row for each query, a column for each key."""
    image = draw_table(axes, weights, queries, keys)
    axes.tick_params(length=0, labelsize=8)
    return image


def query_title(kind):
    """What the rows of a map of this kind of attention are."""
    return "query" if kind == "encoder.self" else "digit being produced"


def plot_head(record):
    """The mean attention map of one head, from a record of `patterns.measure_patterns`."""
    figure = new_figure(5.4, 1.6 + 0.45 * len(record["queries"]))
    axes = figure.subplots()
    image = draw_map(axes, record["mean_weights"], record["queries"], record["keys"])
    write_values(axes, record["mean_weights"], "{:.2f}", 0.005, lambda weight: weight > 0.6)
    axes.set_aspect("auto")
    figure.colorbar(image, ax=axes, label="mean attention weight")
    axes.set(xlabel="key", ylabel=query_title(record["kind"]))
    axes.set_title(f"{record['head']}, mean over {record['n']:,} test problems", fontsize=10)
    axes.tick_params(axis="x", rotation=30)
    return figure


def plot_overview(records):
    """The mean attention maps of all heads of one attention type, a row for each layer."""
    heads = 1 + max(record["head_number"] for record in records)
    layers = len(records) // heads
    figure = new_figure(3.1 * heads + 0.8, 2.9 * layers + 0.6)
    grid = figure.subplots(layers, heads, squeeze=False)
    for axes, record in zip(grid.flat, records):
        image = draw_map(axes, record["mean_weights"], record["queries"], record["keys"])
        axes.set_title(record["head"], fontsize=10)
        axes.tick_params(axis="x", rotation=60)
    figure.supxlabel("key")
    figure.supylabel(query_title(records[0]["kind"]))
    label = f"mean attention weight ({records[0]['n']:,} test problems)"
    figure.colorbar(image, ax=grid, label=label, shrink=0.9)
    return figure


def plot_case(case):
    """All heads of all layers on one problem, from a record of `patterns.make_case`."""
    heads = 1 + max(record["head_number"] for record in case["maps"])
    rows = len(case["maps"]) // heads
    # In inches: a layout found by matplotlib takes as long as the drawing.
    width, height = 2.5 * heads + 1.4, 2.2 * rows + 1.25
    figure = new_figure(width, height, layout=None)
    figure.suptitle(
        f"{case['problem']} = {case['answer']}   ({case['why']})\nEach map is a head, in the order "
        "in which they act; bright: the token on the left reads the one below",
        y=1 - 0.15 / height,
    )
    sides = {"left": 0.75 / width, "right": 1 - 1.0 / width}
    ends = {"bottom": 0.65 / height, "top": 1 - 0.85 / height}
    layout = sides | ends | {"wspace": 0.2, "hspace": 0.35}
    grid = figure.subplots(rows, heads, squeeze=False, gridspec_kw=layout)
    for axes, record in zip(grid.flat, case["maps"]):
        image = draw_map(axes, record["weights"], record["queries"], record["keys"])
        axes.set_title(record["head"], fontsize=9)
    figure.supxlabel("key: the token that is read (^: start)", y=0.15 / height)
    query = "query: in the encoder the token that reads, in the decoder the digit being produced"
    figure.supylabel(query, x=0.15 / width)
    bar = figure.add_axes([1 - 0.8 / width, 0.2, 0.2 / width, 0.6])
    figure.colorbar(image, cax=bar, label="attention weight")
    return figure


def plot_importance(records, gradients, baseline):
    """Exact match lost without each head by method of ablation, and gradient importance beside it.

    The records and the baseline are those of one set of problems; `gradients` is `{head: value}`.
    """
    heads = list(gradients)
    figure = new_figure(10, 0.3 * len(heads) + 1.6)
    loss, gradient = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    place = np.arange(len(heads))
    for number, (method, colour) in enumerate(METHOD_COLOURS.items()):
        chosen = [record["exact_match_change"] for record in records if record["method"] == method]
        mean = -100 * np.array([change["mean"] for change in chosen])
        high, low = -100 * np.array([change["interval"] for change in chosen]).T
        error = {"xerr": np.maximum([mean - low, high - mean], 0), "error_kw": {"linewidth": 0.8}}
        bars = place + (number - 1) * 0.27
        loss.barh(bars, mean, height=0.27, color=colour, label=method, **error)
    loss.set_yticks(place, labels=heads, fontsize=8)
    loss.set_ylim(len(heads) - 0.4, -0.6)
    loss.set(xlabel="points of exact match lost (bar: 95% interval)", xlim=(0, 100))
    loss.set_title(
        f"Ablation of one head ({records[0]['set']} problems, n = {baseline['n']:,}; with all "
        f"heads {baseline['exact_match']:.2%})"
    )
    loss.legend(title="output replaced by", loc="lower right")
    gradient.barh(place, list(gradients.values()), color=GREY)
    gradient.set(xlabel="E |dL/dgate| (nats)", title="Gradient importance", xlim=(0, None))
    gradient.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    for axes in (loss, gradient):
        axes.grid(axis="x", alpha=0.3)
    return figure


def plot_breakdown(records):
    """Loss by carry pattern, cascade length and output digit, a row for each head (resampling)."""
    chosen = [record for record in records if record["method"] == "resample"]
    blocks = {
        "by_carry_pattern": "columns that carry (1), highest first",
        "by_cascade_length": "cascade length",
        "by_output_digit": "digit of the sum",
    }
    figure = new_figure(11, 0.26 * len(chosen) + 2)
    widths = [len(chosen[0][key]) + 1 for key in blocks]
    panels = figure.subplots(1, len(blocks), sharey=True, width_ratios=widths)
    for axes, (key, title) in zip(panels, blocks.items()):
        table = [[-100 * value["mean"] for value in record[key].values()] for record in chosen]
        labels = list(chosen[0][key])
        heads = [record["head"] for record in chosen]
        image = draw_table(axes, table, heads, labels, high=100, aspect="auto")
        axes.tick_params(axis="x", rotation=45 if len(labels) > 4 else 0)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_title(title, fontsize=10)
        write_values(axes, table, "{:.0f}", 0.5, lambda lost: lost > 60)
    figure.colorbar(image, ax=panels, label="points lost")
    figure.suptitle(
        "What each head's ablation (resample) costs: exact match, and accuracy of each digit, "
        "stratified problems"
    )
    return figure


def plot_rank_correlation(correlation):
    """Spearman's rank correlation between measures of importance."""
    names = list(correlation)
    table = np.array([list(row.values()) for row in correlation.values()], dtype=float)
    figure = new_figure(6.8, 5.6)
    axes = figure.subplots()
    image = draw_table(axes, table, names, names, low=-1, cmap="RdBu_r", interpolation=None)
    axes.set_xticks(range(len(names)), labels=names, rotation=40, ha="right")
    write_values(axes, table, "{:.2f}", -1, lambda value: abs(value) <= 0.6, size=9)
    axes.set_title("Do the rankings of the heads agree?")
    figure.colorbar(image, ax=axes, label="Spearman's rank correlation")
    return figure


def plot_pruning(orders, subsets):
    """Exact match against the heads removed: in order, and over subsets of each attention type."""
    figure = new_figure(12, 4.4)
    curves, sets = figure.subplots(1, 2, sharey=True)
    styles = {
        "greedy, mean": (RED, "D-", "greedy, means in the place of the heads"),
        "greedy": (BLUE, "o-", "greedy, zeros"),
        "ablation": (GREEN, "^-", "least loss alone first, zeros"),
        "gradient": (ORANGE, "s-", "least gradient first, zeros"),
    }
    named = [record for record in orders if record["order"] in styles]
    random = [record for record in orders if record["order"] not in styles]
    for record in named:
        colour, style, label = styles[record["order"]]
        look = {"color": colour, "markersize": 4, "linewidth": 1.6, "zorder": 3}
        curves.plot(record["exact_match"], style, label=label, **look)
    for record in random:
        label = f"{len(random)} random orders, zeros" if record is random[0] else None
        curves.plot(record["exact_match"], color=GREY, linewidth=0.6, alpha=0.6, label=label)
    curves.set(xlabel="heads removed", ylabel="exact match, free-running")
    curves.set_title(f"In order, on {orders[0]['n']:,} test problems (cut below 50%)")
    curves.set_ylim(-0.02, 1.02)
    kinds = dict.fromkeys(record["kind"] for record in subsets)
    for kind, colour, marker in zip(kinds, (PINK, RED, "black"), "os^"):
        chosen = [record for record in subsets if record["kind"] == kind]
        removed = [record["removed"] for record in chosen]
        best, mean = ([record[key] for record in chosen] for key in ("best", "mean"))
        look, hollow = {"color": colour, "marker": marker}, {"markerfacecolor": "white"}
        sets.plot(removed, best, label=f"{kind}: best subset", **look)
        sets.plot(removed, mean, "--", label=f"{kind}: mean", **look, **hollow)
    which = "All" if all(record["exact"] for record in subsets) else "Some"
    title = f"{which} subsets of each type (zeros), {subsets[0]['n']:,} stratified problems"
    sets.set(xlabel="heads of that type removed", title=title)
    for axes in (curves, sets):
        for lost, label in ((0.01, "1 and 5 points lost"), (0.05, None)):
            level = orders[0]["exact_match"][0] - lost
            axes.axhline(level, color=GREY, linewidth=0.8, linestyle=":", label=label)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, loc="lower left")
    return figure


def plot_sites(records):
    """Share of pairs answered as the injected carry implies, for every site alone.

    The records are those of `interchange.measure_sites`. Each column has a row of panels: the carry
    and its control, for the encoder and the decoder.
    """
    columns = sorted({record["column"] for record in records})
    conditions = ("carry", "same carry")
    stacks = [(stack, condition) for stack in ("encoder", "decoder") for condition in conditions]
    tables = {}  # {(column, stack, condition): {head: {position: share}}}
    for record in records:
        head = Site(record["block"], record["head_number"]).name()
        for condition in conditions:
            key = record["column"], head.split(".")[0], condition
            rows = tables.setdefault(key, {}).setdefault(head, {})
            score = record["conditions"].get(condition, {"exact": np.nan})
            rows[record["position"]] = score["exact"]
    figure = new_figure(14, 4.1 * len(columns) + 0.6)
    widths = [len(next(iter(tables[columns[0], *stack].values()))) for stack in stacks]
    grid = figure.subplots(len(columns), len(stacks), squeeze=False, width_ratios=widths)
    for panels, column in zip(grid, columns):
        for axes, (stack, condition) in zip(panels, stacks):
            rows = tables[column, stack, condition]
            table = [list(row.values()) for row in rows.values()]
            heads = list(rows) if condition == "carry" else [""] * len(rows)
            positions = list(next(iter(rows.values())))
            image = draw_table(axes, table, heads, positions, aspect="auto")
            axes.tick_params(axis="x", rotation=45)
            axes.tick_params(axis="y", labelsize=8)
            axes.set_title(f"into s{10**column}: {condition}", fontsize=10)
            percent = 100 * np.array(table)
            write_values(axes, percent, "{:.0f}", 5, lambda share: share > 60, size=8)
    figure.suptitle(
        "Outputs of one site injected from another problem: answers with exactly the digits that "
        "the other carry implies (carry), changed answers (same carry: control)"
    )
    figure.colorbar(image, ax=grid, label="share of pairs", shrink=0.5)
    return figure


def plot_route(sets, patterns):
    """The route of the carry: the heads of the smallest sets, and what these heads read.

    `sets` are records of `interchange.find_smallest_set` of heads only, one for each column.
    """
    heads = {(record["block"], record["head_number"]): record for record in patterns}
    blocks = dict.fromkeys(record["block"] for record in patterns)
    levels = ["input"]
    for block in blocks:
        stack, layer, attention = block.split(".")
        levels.append(block)
        if (stack, attention) != ("decoder", "self"):
            levels.append(f"{stack}.{layer}.ffn")
    encoded = max(level for level, name in enumerate(levels) if name.startswith("encoder"))
    source, target = patterns[0]["keys"], patterns[-1]["queries"]
    places = {label: x for x, label in enumerate(source)}
    places |= {label: len(source) + 0.6 + x for x, label in enumerate(target)}
    figure = new_figure(4.4 * len(sets) + 1, 4.8)
    for axes, record in zip(figure.subplots(1, len(sets), sharey=True, squeeze=False)[0], sets):
        for label, x in places.items():
            for level in range(len(levels)):
                if level == 0 or (level <= encoded) == (label in source):
                    axes.plot(x, level, "o", color="#DDDDDD", markersize=7, zorder=1)
        numbers = {}
        for site in record["site_fields"]:
            spot = places[site["position"]], levels.index(site["block"])
            numbers.setdefault(spot, []).append(site["head_number"])
        look = {"ha": "center", "fontsize": 10, "weight": "bold", "zorder": 5}
        for spot, here in numbers.items():
            axes.plot(*spot, "o", color=RED, markersize=9, zorder=4)
            text = ",".join(map(str, sorted(here)))
            axes.annotate(text, spot, (0, 8), textcoords="offset points", color=RED, **look)
        for site in record["site_fields"]:
            head = heads[site["block"], site["head_number"]]
            level = levels.index(site["block"])
            below = encoded if head["kind"] == "decoder.cross" else level - 1
            below = 0 if site["block"] == "decoder.0.self" else below
            row = head["mean_weights"][head["queries"].index(site["position"])]
            # A key of the decoder is drawn where it is read in: under the digit produced there.
            keys = head["queries"] if head["kind"] == "decoder.self" else head["keys"]
            for label, weight in zip(keys, row):
                if weight >= 0.1:
                    arrow = {"arrowstyle": "-|>", "color": BLUE, "alpha": 0.8, "shrinkB": 6}
                    arrow["linewidth"] = 3 * weight
                    start, end = (places[site["position"]], level), (places[label], below)
                    axes.annotate("", start, end, zorder=3, arrowprops=arrow)
        texts = {"carry": "as implied", "same carry": "changed in the control"}
        scores = [
            f"{text} {record['conditions'][condition]['exact']:.0%}"
            for condition, text in texts.items()
            if condition in record["conditions"]
        ]
        title = f"carry into s{10 ** record['column']}\n{', '.join(scores)}"
        if example := record["example"]:
            title += (
                f"\n{example['base']} = {example['before']}; with the carry of {example['donor']}: "
                f"{example['after']}"
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlim(-1, max(places.values()) + 0.6)
        axes.set_xticks(list(places.values()), labels=list(places), rotation=60)
        axes.set_yticks(range(len(levels)), labels=levels)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "Where the carry is held (red, with the heads' numbers), and what these heads read (blue, "
        "width: mean attention)"
    )
    return figure
