"""Draw what study.py measured, and take the recommended model apart: figures and recommended.json in results/study/.

Needs the records of study.py and the weights of the recommended variant (python train.py).
"""

import support.interrupt  # first: Ctrl-C while torch loads

from functools import partial
from pathlib import Path

import torch

from analysis import classify_group, find_failures, load_group, measure_group
from checkpoint import load_model
from support.cli import DATA_DIR, RESULTS_DIR, Parser, Progress, UserError, run
from support.digests import KEY, weights_digest
from support.files import save_figure, write_json
from generate_data import NEGATIVES, TEST_LENGTHS, draw_sorted, draw_test_sets, ensure_data
from study import RUNS_DIR, read_records
from study_analysis import measure_pairs, pair_errors
from study_plots import (plot_bias, plot_dilution, plot_gap, plot_grid, plot_neighbour_head, plot_pairs, plot_parts, plot_shortcut,
                         plot_ties, plot_untrained_rows)
from variants import CELLS, GRID, RECOMMENDED
from verification import applies, judge, window_margins

MOST_FAILURES = 50
LONGEST = {512: 1000, 1024: 1000}  # length: sequences of each set
SEED = 641
# Figures of few variants; one that has no records is left out.
COMPARED = ("sinusoidal-mean-plain", "causal-mean-plain", "local_bias-mean-augmented", "local_bias-max-augmented", "relative_bias-max-augmented",
            RECOMMENDED)
SCALING = ("relative_bias-max-augmented", "relative_bias-max-augmented-scaled", "sinusoidal-max-augmented", "sinusoidal-max-augmented-scaled",
           GRID)
LEARNED = ("learned-mean-plain", "learned-max-augmented", "learned_offset-max-augmented")


def make_long_sets(length, size):
    """Test sets of a length that the data folder has none of, as `load_group` returns them; each length has a seed of its own."""
    sets = draw_test_sets(size, lambda generator: draw_sorted(length, generator), SEED + 1000 + length, set())
    return {kind: (torch.tensor(sequences), torch.tensor([1] * (size // 2) + [0] * (size - size // 2))) for kind, sequences in sets.items()}


def examine(model, data_dir):
    """The recommended model beyond its runs: lengths to 1,024, every failure up to `MOST_FAILURES`, the comparison it makes, its bias."""
    accuracy, failures = [], []
    lengths = [*TEST_LENGTHS, *LONGEST]
    progress = Progress("sequence values", sum(lengths))
    for number, length in enumerate(lengths):
        about = {"encoding": RECOMMENDED, "set": "length", "length": length, "gap_source": None}
        sets = make_long_sets(length, LONGEST[length]) if length in LONGEST else load_group(data_dir, about)
        logits = classify_group(model, sets)
        accuracy += measure_group(logits, sets, about)
        failures += find_failures(logits, sets, about, most=MOST_FAILURES)
        progress.update(sum(lengths[:number + 1]))
    tables = {name: measure_pairs(model, each) for name, each in [("alone", 1), ("eight of each", 8)]}
    return {KEY: weights_digest(model.state_dict()), "accuracy": accuracy, "failures_of_each_set_at_most": MOST_FAILURES, "failures": failures,
            "every_window": judge(window_margins(model)) if applies(model) else None,
            "pair_errors": {name: pair_errors(table) for name, table in tables.items()},
            "pair_margins": {name: table.tolist() for name, table in tables.items()},
            "bias": {"reach": model.pos_encoding.reach, "weights": model.pos_encoding.weights.tolist()}}


def main(arguments=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--runs-dir", type=Path, default=RUNS_DIR, help="folder of the records of study.py")
    parser.add_argument("--results-dir", type=Path, default=RESULTS_DIR, help="folder of the trained models, one folder each")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="folder of the data; made if empty")
    parser.add_argument("--output-dir", type=Path, default=RUNS_DIR.parent, help="folder for the figures and recommended.json")
    args = parser.parse_args(arguments)
    records = list(read_records(args.runs_dir).values())
    if not records:
        raise UserError(f"{args.runs_dir} holds no records: make them with python study.py")
    model, _ = load_model(args.results_dir / RECOMMENDED / "best_model.pth")
    ensure_data(args.data_dir)
    examined = examine(model, args.data_dir)
    write_json(args.output_dir / "recommended.json", examined)

    figures = {"shortcut": plot_shortcut(records), "pairs": plot_pairs(examined["pair_margins"]["alone"], examined["pair_errors"]["alone"]),
               "bias": plot_bias(examined["bias"]["weights"], examined["bias"]["reach"])}
    parts = {name for record in records if record["variant"] not in CELLS for name in (record["variant"], record["parent"])}
    for name, plot, names in [*((f"grid_{negatives}", partial(plot_grid, negatives=negatives), CELLS) for negatives in NEGATIVES),
                              ("parts", plot_parts, parts), ("untrained_rows", plot_untrained_rows, LEARNED), ("dilution", plot_dilution, COMPARED),
                              ("neighbour_head", plot_neighbour_head, SCALING), ("gap", plot_gap, COMPARED), ("ties", plot_ties, COMPARED)]:
        if chosen := [record for record in records if record["variant"] in names]:
            figures[name] = plot(chosen)
    for name, figure in figures.items():
        save_figure(args.output_dir / f"{name}.png", figure)
    print(f"{len(figures)} figures of {len(records)} runs, and recommended.json, written to {args.output_dir}")


if __name__ == "__main__":
    run(main)
