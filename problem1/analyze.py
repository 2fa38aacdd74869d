"""Show where the attention heads look, measure what each is worth, and trace how they pass on a carry.

Writes pictures to results/attention_patterns/ and records with figures to results/head_analysis/; for the model that
writes right to left, to these folders in results/right_to_left/.
"""

import support.interrupt  # first: Ctrl-C while torch loads

import time
from functools import partial
from pathlib import Path

import torch

from dataset import AdditionDataset, encode_problems, numbers_of
from generate_data import ensure_data
from heads.ablation import measure_pairs
from heads.examination import Examination, stratify
from heads.figures import (
    plot_breakdown,
    plot_case,
    plot_head,
    plot_importance,
    plot_overview,
    plot_pruning,
    plot_rank_correlation,
    plot_route,
    plot_seeds,
    plot_sites,
)
from heads.patterns import attention_weights, measure_patterns, source_labels, target_labels
from heads.pruning import measure_subsets
from heads.sites import KINDS, Site, kind_of
from heads.study import (
    check_pruned,
    choose_problems,
    study_ablation,
    study_briefly,
    study_carry,
    study_pruning,
)
from inference import parse_problem
from learning.carries import carry_pattern, cascade_length
from learning.checkpoint import load_model, results_of, runs_of
from model import ORDERS
from support.cli import DATA_DIR, Parser, UserError, choose_device, run, whole_number
from support.digests import KEY, file_digest, records_of_other_weights, weights_digest
from support.files import locked, save_figure, write_json

MOST_CASES = 16
LEAST_JUDGED = 0.5  # exact match below which nothing is said of the heads


def make_parser():
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--problem", default=None, help="draw all heads on this problem alone, such as 374+814"
    )
    parser.add_argument(
        "--seeds",
        type=whole_number(0),
        nargs="+",
        default=None,
        help="repeat the study on the models of these training seeds, which python seeds.py leaves in "
        "runs/, and compare them",
    )
    parser.add_argument(
        "--order", choices=ORDERS, default=ORDERS[0], help="the order in which the model writes"
    )
    parser.add_argument(
        "--model-path",
        type=Path,
        default=None,
        help="the trained model (default: best_model.pth in --results-dir)",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="folder of the problems; made if empty"
    )
    parser.add_argument(
        "--results-dir",
        type=Path,
        default=None,
        help="folder of the trained model (default: that of --model-path, or else results/ or "
        "results/right_to_left/)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=None,
        help="folder for pictures and records (default: --results-dir)",
    )
    parser.add_argument(
        "--batch-size", type=whole_number(1), default=512, help="problems in one pass"
    )
    parser.add_argument(
        "--num-samples",
        type=whole_number(1),
        default=None,
        help="the most problems of each set to use (default: all)",
    )
    parser.add_argument(
        "--device", default=None, help="cpu, cuda or mps; by default the best one present"
    )
    return parser


def describe(a, b, num_digits):
    """What a problem asks of an adder, in words."""
    a, b = torch.tensor([a]), torch.tensor([b])
    pattern, cascade = int(carry_pattern(a, b, num_digits)), int(cascade_length(a, b, num_digits))
    carrying = [f"a{10**k}" for k in range(num_digits) if pattern >> k & 1]
    if not carrying:
        return "no carry"
    columns = f"column{'s' if len(carrying) > 1 else ''} of {', '.join(reversed(carrying))}"
    onwards = (
        f", handed on through {cascade} sum{'s' if cascade > 1 else ''} of 9" if cascade else ""
    )
    return f"carry out of the {columns}{onwards}"


def make_case(model, a, b, num_digits):
    """The record of one problem for `plot_case`: what the model answers, and every head's attention with the real
    digits as labels."""
    source, target = encode_problems(torch.tensor([a]), torch.tensor([b]), num_digits)
    device = next(model.parameters()).device
    answer = model.generate(source.to(device), num_digits + 1).cpu()
    shown, written = (
        ["?" if token > 9 else str(token) for token in tokens[0].tolist()]
        for tokens in (answer, model.written(answer))
    )
    tokens = [*str(a), "+", *str(b)]
    labels = {
        "encoder.self": (tokens, tokens),
        "decoder.self": (written, ["^", *written[:-1]]),
        "decoder.cross": (written, tokens),
    }
    maps = [
        {
            "head": Site(block, head).name(),
            "weights": weights[0, head].tolist(),
            "queries": labels[kind_of(Site(block))][0],
            "keys": labels[kind_of(Site(block))][1],
        }
        for block, weights in attention_weights(model, source, answer).items()
        for head in range(weights.size(1))
    ]
    wrong = "" if answer.equal(target) else f", wrong: {a + b}"
    return {
        "problem": f"{a} + {b}",
        "answer": "".join(shown) + wrong,
        "why": describe(a, b, num_digits),
        "maps": maps,
    }


def draw_cases(model, pairs, num_digits, folder):
    """A picture for each pair of numbers; returns their records of `make_case`."""
    cases = [make_case(model, a, b, num_digits) for a, b in pairs]
    for (a, b), case in zip(pairs, cases):
        save_figure(folder / f"case_{a}_{b}.png", plot_case(case))
    return cases


def draw_patterns(model, test_set, num_digits, batch_size, folder):
    """The maps of all heads and of chosen test problems; returns the records of `measure_patterns`, and that of the
    last of the problems."""
    records = measure_patterns(
        attention_weights(model, *test_set, batch_size), num_digits, model.config.order
    )
    for record in records:
        save_figure(folder / f"{record['head']}.png", plot_head(record))
    for kind in KINDS:
        save_figure(
            folder / f"overview_{kind}.png",
            plot_overview([record for record in records if record["kind"] == kind]),
        )
    a, b = numbers_of(test_set[0], num_digits)
    chosen = stratify(a, b, num_digits, MOST_CASES)
    pairs = list(zip(a[chosen].tolist(), b[chosen].tolist()))
    cases = draw_cases(model, pairs + ([(663, 497)] if num_digits == 3 else []), num_digits, folder)
    return records, cases[-1]


def compare_seeds(seeds, args, device):
    """The study on the models of several training seeds: `seeds.json` in head_analysis/, written as each seed ends."""
    folder = (args.output_dir or args.results_dir) / "head_analysis"
    records = []
    for seed in seeds:
        model, about = load_model(
            runs_of(args.order) / f"seed_{seed}" / "best_model.pth",
            device,
            remedy=f"run python seeds.py --order {args.order} --seeds {seed}",
        )
        record = study_briefly(
            model, load_sets(args, about), about["num_digits"], args.batch_size, args.num_samples
        )
        records.append({"seed": seed, KEY: weights_digest(model.state_dict()), **record})
        write_json(folder / "seeds.json", records)
        print(
            f"seed {seed}: {count(record['verdicts'])}; greedy removal of {record['greedy']['prunable_1_point']} "
            "heads costs less than a point",
            flush=True,
        )
    save_figure(folder / "seeds.png", plot_seeds(records))


def count(verdicts):
    """`5 critical, 9 redundant, 10 depends on the method`."""
    return ", ".join(
        f"{sum(value == name for value in verdicts.values())} {name}"
        for name in ("critical", "redundant", "depends on the method")
    )


def load_problems(data_dir, about):
    """The training and the test problems of a model, as datasets; made if the folder is empty.

    Raises:
        UserError: if the data are not those that the model was trained on.
    """
    ensure_data(data_dir, about["num_digits"])
    train, test = (AdditionDataset(data_dir / f"{split}.json") for split in ("train", "test"))
    if file_digest(data_dir / "train.json") != about["train_sha256"]:
        raise UserError(
            f"{data_dir} does not hold the training problems of the model, without which seen and "
            "unseen problems cannot be told apart: name the folder that does with --data-dir"
        )
    return train, test


def load_sets(args, about):
    """The problems to study on."""
    return choose_problems(
        *load_problems(args.data_dir, about), about["num_digits"], args.num_samples
    )


def analyze(args, model, about):
    """Draw `--problem`, or run every measurement on the model and write the records and figures."""
    num_digits = about["num_digits"]
    output_dir = args.output_dir or args.results_dir
    pictures, folder = output_dir / "attention_patterns", output_dir / "head_analysis"
    if args.problem:
        try:
            pair = parse_problem(args.problem, num_digits)
        except ValueError as error:
            raise UserError(error) from None
        draw_cases(model, [pair], num_digits, pictures)
        print(f"drawn in {pictures / f'case_{pair[0]}_{pair[1]}.png'}")
        return

    start, digest = time.perf_counter(), weights_digest(model.state_dict())

    def done(what):
        print(f"{time.perf_counter() - start:4.0f} s  {what}", flush=True)

    def save(name, record):
        write_json(folder / f"{name}.json", {KEY: digest} | record)

    def draw(name, figure):
        save_figure(folder / f"{name}.png", figure)

    sets = load_sets(args, about)
    patterns, example = draw_patterns(model, sets.test, num_digits, args.batch_size, pictures)
    save("patterns", {"heads": patterns, "example": example})
    done(f"attention maps in {pictures}")

    test, choosing, reporting, stratified = (
        Examination(model, *problems, args.batch_size)
        for problems in (sets.test, sets.choosing, sets.reporting, sets.stratified)
    )
    exact_match = test.clean.matches.float().mean().item()
    if exact_match < LEAST_JUDGED:
        print(
            f"the model answers {exact_match:.2%} of the test problems right: the heads of one that does not add are "
            "not judged; train it for longer",
            flush=True,
        )
        return say_what_is_stale(output_dir, digest)

    ablation, importance = study_ablation(test, stratified, num_digits)
    save("ablation", ablation)
    save("importance", importance)
    on_test = [record for record in ablation["records"] if record["set"] == "test"]
    on_stratified = [record for record in ablation["records"] if record["set"] == "stratified"]
    draw(
        "head_importance",
        plot_importance(
            on_test, importance["importance"]["gradient"], ablation["baseline"]["test"]
        ),
    )
    draw("ablation_breakdown", plot_breakdown(on_stratified))
    draw("rank_correlation", plot_rank_correlation(importance["rank_correlation"]))
    done(f"ablation: {count(ablation['verdicts'])}")

    pruning = study_pruning(choosing, reporting, stratified, importance)
    pruning["subsets"] = measure_subsets(
        stratified, reporting, save=lambda subsets: save("pruning", pruning | {"subsets": subsets})
    )
    draw("pruning", plot_pruning(pruning["orders"], pruning["subsets"]))
    greedy = pruning["orders"][0]
    lost = greedy["exact_match"][0] - greedy["exact_match"][greedy["prunable_1_point"]]
    done(
        f"pruning: greedy removal of {greedy['prunable_1_point']} of {pruning['heads']} heads, chosen on one half of "
        f"the test problems, costs {lost:.2%} on the other"
    )

    pairs = measure_pairs(stratified)
    save("pairs", {"pairs": pairs})
    done(
        f"pairs of heads: {sum(record['backup'] for record in pairs)} of {len(pairs)} cost more together than apart"
    )

    carry = study_carry(
        model, sets, num_digits, args.batch_size, args.num_samples, save=partial(save, "carry")
    )
    save("carry", carry)
    if carry["sites"]:
        draw(
            "carry_sites",
            plot_sites(
                carry["sites"],
                ["carry", "same carry"],
                "Outputs of one site injected from another problem: answers with "
                "exactly the digits that the other carry implies (carry), changed answers (same carry: control)",
            ),
        )
        draw(
            "carry_route",
            plot_route(
                [
                    record
                    for record in carry["sets"]
                    if record["heads_only"] and record["searched_on"][0] == "carry"
                ],
                {record["head"]: record["mean_weights"] for record in patterns},
                source_labels(num_digits),
                target_labels(num_digits, model.config.order),
            ),
        )
    for record in carry["sets"]:
        done(
            f"carry into column {record['column']}: {' '.join(record['sites'])}: "
            + ", ".join(
                f"{name} {score['exact']:.0%}" for name, score in record["conditions"].items()
            )
        )

    pruning["pruned_model"] = check_pruned(model, pruning, num_digits, sets.training)
    save("pruning", pruning)
    pruned = pruning["pruned_model"]
    if pruned:
        done(
            f"the pruned model answers {1 - pruned['errors'] / pruned['pairs']:.2%} of all {pruned['pairs']:,} pairs"
        )
    say_what_is_stale(output_dir, digest)


def say_what_is_stale(folder, digest):
    """Name the records in a folder that were made from other weights than those of `digest`."""
    stale = records_of_other_weights(folder, digest)
    if stale:
        print(
            f"still of other weights: {', '.join(str(path.relative_to(folder)) for path in stale)}"
        )


def main(arguments=None):
    args = make_parser().parse_args(arguments)
    args.results_dir = args.results_dir or (
        args.model_path.parent if args.model_path else results_of(args.order)
    )
    device = choose_device(args.device)
    if args.seeds:
        with locked(args.output_dir or args.results_dir):
            return compare_seeds(args.seeds, args, device)
    model, about = load_model(args.model_path or args.results_dir / "best_model.pth", device)
    with locked(args.output_dir or args.results_dir):
        analyze(args, model, about)


if __name__ == "__main__":
    run(main)
