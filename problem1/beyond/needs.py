"""What the proof of any-length needs: each part taken out alone, and measured up to 100 digits.

Every model has one encoder and one decoder layer, and is trained as that of any-length is; where
columns are not shared, four times as long, for it learns slowly. The records are in
results/beyond/any_length/ablations.jsonl.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path

from support import cli, files, studies

import torch

from beyond.any_length import CONFIG, SIZES, train_adder
from beyond.chains import NINES, draw_chain, draw_nines, draw_random
from beyond.columns import ColumnTransformer
from beyond.learned import LearnedTransformer
from beyond.lengths import make_data
from beyond.local import LocalTransformer
from beyond.recipes import MOVE_AWAY, refuse_others
from dataset import ORDERS, encode_problems, in_order, shift_right
from model import Seq2SeqTransformer

TESTED = (1, 2, 3, 5, 6, 8, 10, 20, 40, 100)
TEST_SIZE = 200
AT_ONCE = 50


class HighestFirst(LocalTransformer):
    """Windows, but the highest digit is written first."""

    def target_columns(self, place, n):
        return n - place


class WithoutPlus(LocalTransformer):
    """Windows, but no digit sees `+`: none knows that its column is the leading one."""

    def column_tokens(self, columns, n):
        tokens, real = super().column_tokens(columns, n)
        return tokens, real & torch.tensor([True, True, False])


class AllColumns(ColumnTransformer):
    """Every token sees all columns, by distance, and knows its own order of writing."""

    def __init__(self, *sizes, **named_sizes):
        super().__init__(*sizes, **named_sizes, order=ORDERS[1])


# What is taken out: the model, its order of writing, and how many times as many epochs it has.
VARIANTS = {
    "nothing taken out": (LocalTransformer, ORDERS[1], 1),
    "windows": (AllColumns, ORDERS[1], 1),
    "units first": (HighestFirst, ORDERS[0], 1),
    "+ in the leading column": (WithoutPlus, ORDERS[1], 1),
    "shared columns: learned positions": (LearnedTransformer, ORDERS[1], 4),
    "shared columns: sinusoids": (Seq2SeqTransformer, ORDERS[1], 4),
}
KEYS = ("without", "seed")


@torch.no_grad()
def count_right(model, n, order):
    """How many problems of each class, of n digits, the model answers right: `{class: count}`.

    With the right digits before each step it is right throughout exactly if it is without them.
    """
    generator, right = torch.Generator().manual_seed(n), {}
    for name, pair in {
        "random": draw_random(n, TEST_SIZE, generator),
        "a carry through every column": draw_chain(n, n, TEST_SIZE, generator),
        NINES: draw_nines(n, TEST_SIZE, generator),
    }.items():
        source, target = encode_problems(*pair)
        parts = zip(source.split(AT_ONCE), in_order(target, order).split(AT_ONCE))
        right[name] = sum(
            int((model(part, shift_right(answer)).argmax(-1) == answer).all(dim=1).sum())
            for part, answer in parts
        )
    return right


def config_of(without, seed):
    """How the model of one run is trained."""
    *_, times = VARIANTS[without]
    return replace(CONFIG, epochs=times * CONFIG.epochs, seed=seed)


def do_run(without, seed, folder):
    """Train one variant with one seed, and measure: the run's record."""
    kind, order, _ = VARIANTS[without]
    config = config_of(without, seed)
    model, log = train_adder(config, SIZES | {"max_len": 2 * max(TESTED) + 1}, kind, order)
    kept = files.WEIGHTS_DIGEST, "order", "parameters", "training", "best_epoch", "seconds"
    return {
        "without": without,
        "seed": seed,
        **{key: log[key] for key in kept},
        "val_exact_match": log["epochs"][log["best_epoch"] - 1]["val"]["exact_match"],
        "n": TEST_SIZE,
        "right": [{"digits": n, "right": count_right(model, n, order)} for n in TESTED],
    }


def summary(records):
    """Text: the mean share right, in the worst class, for each variant and length."""
    lines = ["share right in the worst class, mean of the seeds, for numbers of", ""]
    lines[1] = f"{'without':36}" + "".join(f"{n:7}" for n in TESTED) + " digits"
    for variant in VARIANTS:
        chosen = [record for record in records if record["without"] == variant]
        shares = [
            [min(test["right"].values()) / record["n"] for test in record["right"]]
            for record in chosen
        ]
        means = [math.fsum(column) / len(column) for column in zip(*shares)]
        lines.append(f"{variant:36}" + "".join(f"{share:7.0%}" for share in means))
    return "\n".join(lines)


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser, seeds=(0, 1, 2))
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=cli.RESULTS_DIR / "beyond" / "any_length",
        help="folder of ablations.jsonl",
    )
    args = parser.parse_args(arguments)
    # Do the runs that are not in the file yet, unless it is of other settings; print what there is.
    make_data()
    todo = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    path = args.output_dir / "ablations.jsonl"
    refuse_others(
        path, lambda record: {"training": asdict(config_of(record["without"], record["seed"]))}
    )
    records = studies.do_runs(do_run, todo, path, KEYS, args)
    with files.reading(path, MOVE_AWAY):
        print(summary(records))
