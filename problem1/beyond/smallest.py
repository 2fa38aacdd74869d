"""How small can a model be that is proved right for numbers of every length?

Each model is that of any-length with other sizes, trained in the same way or longer, and tried on
all windows. The records are in results/beyond/any_length/sizes.jsonl, the figure in sizes.png.
"""

from dataclasses import asdict, replace
from pathlib import Path

from support import cli, files, plots, studies

from beyond.any_length import CONFIG, KEPT, SIZES, train_adder
from beyond.lengths import make_data
from beyond.local import LocalTransformer
from beyond.recipes import MOVE_AWAY, refuse_others
from beyond.windows import prove

LONGER = 4  # times as many epochs: small models learn slowly
KEYS = ("width", "heads", "d_ff", "tied", "longer", "seed")
# Width, heads, inner width of the feed-forward layers, tied or not, trained longer or not.
TRIED = [
    (32, 4, 128, False, False),
    (16, 4, 64, False, False),
    (16, 2, 64, False, False),
    (16, 1, 64, False, False),
    (16, 4, 32, False, False),
    (16, 4, 16, False, False),
    (16, 4, 64, True, False),
    (16, 4, 64, True, True),
    (16, 4, 16, False, True),
    (16, 1, 64, False, True),
    (16, 1, 16, True, True),
    (8, 4, 32, False, False),
    (8, 4, 32, False, True),
    (8, 1, 32, False, True),
    (8, 4, 32, True, True),
    (6, 2, 24, False, True),
    (4, 4, 16, False, True),
]


class TiedTransformer(LocalTransformer):
    """The embeddings of the tokens are also the rows of the output projection."""

    def __init__(self, *sizes, **named_sizes):
        super().__init__(*sizes, **named_sizes)
        self.output_projection.weight = self.embedding.weight


def config_of(longer, seed):
    """The `TrainingConfig` of a run."""
    return replace(CONFIG, epochs=CONFIG.epochs * (LONGER if longer else 1), seed=seed)


def do_run(width, heads, d_ff, tied, longer, seed, folder):
    """Train one model with one seed, and prove: the run's record."""
    sizes = SIZES | {"d_model": width, "num_heads": heads, "d_ff": d_ff}
    kind = TiedTransformer if tied else LocalTransformer
    model, log = train_adder(config_of(longer, seed), sizes, kind)
    return {
        **dict(zip(KEYS, (width, heads, d_ff, tied, longer, seed))),
        **{key: log[key] for key in KEPT},
        **prove(model),
    }


def name_of(record):
    """What a model is called in text and figure."""
    heads = f"{record['heads']} head{'s' * (record['heads'] > 1)}"
    words = [f"width {record['width']}", heads, f"d_ff {record['d_ff']}"]
    return ", ".join(words + ["tied"] * record["tied"] + ["longer"] * record["longer"])


def by_size(records):
    """`[(name, records of its seeds)]`, the model with the most parameters first."""
    groups = {}
    for record in sorted(records, key=lambda record: -record["parameters"]):
        groups.setdefault(name_of(record), []).append(record)
    return list(groups.items())


def plot_smallest(records):
    """Wrong windows of each model: a row a size, a dot a seed."""
    groups = by_size(records)
    figure = plots.new_figure(7, 0.34 * len(groups) + 1.1)
    axes = figure.subplots()
    for row, (_, runs) in enumerate(groups):
        for proved, marker, colour in ((True, "o", plots.BLUE), (False, "x", plots.RED)):
            shares = [run["wrong"] / run["windows"] for run in runs if run["proved"] == proved]
            axes.plot(shares, [row] * len(shares), marker, color=colour, alpha=0.7)
        count = sum(run["proved"] for run in runs)
        text = f"{count} of {len(runs)} proved"
        axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center")
    axes.set_yticks(
        range(len(groups)), [f"{name}: {runs[0]['parameters']:,}" for name, runs in groups]
    )
    axes.set_xscale("symlog", linthresh=1e-5)
    axes.set(xlim=(-3e-6, 1), xlabel="share of windows that are wrong; a mark: one seed")
    axes.set_title("Models and their number of parameters; dots are proved", fontsize="medium")
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    return figure


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser)
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=cli.RESULTS_DIR / "beyond" / "any_length",
        help="folder of sizes.jsonl and sizes.png",
    )
    args = parser.parse_args(arguments)
    make_data()

    # Do the runs that are not in the file yet, unless it is about something else.
    path = args.output_dir / "sizes.jsonl"
    refuse_others(
        path, lambda record: {"training": asdict(config_of(record["longer"], record["seed"]))}
    )
    todo = [(*sizes, seed) for seed in args.seeds for sizes in TRIED]
    records = studies.do_runs(do_run, todo, path, KEYS, args)

    # Say how many models of each size are proved, and draw them.
    with files.reading(path, MOVE_AWAY):
        for name, runs in by_size(records):
            proved = sum(run["proved"] for run in runs)
            print(f"{name} ({runs[0]['parameters']:,} parameters): {proved} of {len(runs)} proved")
        if records:
            files.save_figure(args.output_dir / "sizes.png", plot_smallest(records))
