"""Show where the attention heads look, measure what each is worth, and trace how a carry travels.

Pictures go to attention_patterns/, records with figures to head_analysis/, beside the model.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import cli, files

import torch

from dataset import AdditionDataset, to_digits
from generate_data import ensure_data
from heads import figures
from heads.ablation import VERDICTS, study_ablation
from heads.examination import Examination, choose_problems
from heads.exhaustive import parse_problem
from heads.interchange import study_carry
from heads.patterns import make_case, study_maps
from heads.pruning import study_pruning
from heads.sites import KINDS
from model import load_model

SMALLER_DIR = cli.HERE / "runs" / "analysis"  # for fewer problems than there are
LEAST_JUDGED = 0.5  # exact match below which nothing is said of the heads


def main(arguments=None):
    args = parse_arguments(arguments)
    path = args.model_path or (args.results_dir or cli.RESULTS_DIR) / "best_model.pth"
    output_dir = args.output_dir or args.results_dir or path.parent
    committed = output_dir.resolve().is_relative_to(cli.RESULTS_DIR)
    if args.num_samples and committed and not args.output_dir:
        output_dir = SMALLER_DIR
        print(f"a smaller analysis: its pictures and records go to {output_dir}", flush=True)
    model = load_model(path, cli.choose_device(args.device))
    with files.locked(output_dir):
        if args.problem is None:
            analyze(model, args, output_dir)
        else:
            draw_problem(model, args.problem, output_dir / "attention_patterns")


def analyze(model, args, output_dir):
    """Every measurement on the model: records in `output_dir`, and figures drawn from these."""
    digest = files.weights_digest(model)
    # A thread of its own draws while the next step is measured.
    with ThreadPoolExecutor(1) as artist:
        try:
            drawn = list(measure(model, args, output_dir, digest, artist.submit))
        except BaseException:
            artist.shutdown(cancel_futures=True)
            raise
    for picture in drawn:
        picture.result()  # raises what went wrong there
    name_stale_records(output_dir, digest)


def measure(model, args, output_dir, digest, submit):
    """Take the measurements step by step, and yield what `submit` gives for each figure.

    The records are rounded first, as in their files, so that a file gives the same figure.
    """
    start = time.perf_counter()
    pictures, folder = output_dir / "attention_patterns", output_dir / "head_analysis"

    def save(name, record):
        files.write_json(folder / f"{name}.json", {files.WEIGHTS_DIGEST: digest} | record)

    def draw(name, plot, *records):
        return submit(draw_figure, folder / f"{name}.png", plot, *records)

    def done(what):
        print(f"{time.perf_counter() - start:4.0f} s  {what}", flush=True)

    # 1. Load problems that are not in the training file. Heads are ranked on one set of them and
    # scored on others, so that no head looks important by the luck of its own set.
    train, test = load_problems(args.data_dir, model)
    sets = choose_problems(train, test, model.training_info["order"], args.num_samples)
    on_test, choosing, reporting, stratified = (
        Examination(model, *problems, args.batch_size) for problems in sets[:4]
    )

    # 2. Maps: the attention weights say where each head looks, but not whether it matters.
    maps = files.rounded(study_maps(model, *sets.test, args.batch_size))
    save("patterns", {"heads": maps["heads"], "example": maps["cases"][-1]})
    for record in maps["heads"]:
        yield submit(draw_figure, pictures / f"{record['head']}.png", figures.plot_head, record)
    for kind in KINDS:
        of_kind = [record for record in maps["heads"] if record["kind"] == kind]
        path = pictures / f"overview_{kind}.png"
        yield submit(draw_figure, path, figures.plot_overview, of_kind)
    for case in maps["cases"]:
        yield submit(draw_case, case, pictures)
    done(f"attention maps in {pictures}")

    matches = on_test.clean.matches.float().mean().item()
    if matches < LEAST_JUDGED:
        print(
            f"the model answers {matches:.2%} of the test problems right: the heads of a model "
            "that does not add are not judged; train it for longer",
            flush=True,
        )
        return

    # 3. Ablation: a head matters if answers go wrong when its output is replaced. Three ways of
    # replacing it must agree before a head is called critical or redundant.
    losses = files.rounded(study_ablation(on_test, stratified))
    for name, record in losses.items():
        save(name, record)
    ablation, importance = losses["ablation"], losses["importance"]
    of_set = {"test": [], "stratified": []}
    for record in ablation["records"]:
        of_set[record["set"]].append(record)
    gradients, baseline = importance["importance"]["gradient"], ablation["baseline"]["test"]
    yield draw("head_importance", figures.plot_importance, of_set["test"], gradients, baseline)
    yield draw("ablation_breakdown", figures.plot_breakdown, of_set["stratified"])
    correlations = importance["rank_correlation"]
    yield draw("rank_correlation", figures.plot_rank_correlation, correlations)
    verdicts = list(ablation["verdicts"].values())
    done(f"ablation: {', '.join(f'{verdicts.count(name)} {name}' for name in VERDICTS)}")
    pairs = losses["pairs"]["pairs"]
    backups = sum(record["backup"] for record in pairs)
    done(f"pairs of heads: {backups} of {len(pairs)} cost more together than apart")

    # 4. Pruning: heads that are redundant alone may stand in for each other. So remove many at
    # once, with zeros or with their means in their place, and count how many can go before answers
    # are lost.
    ranking = importance["ranking"]
    pruning = study_pruning(choosing, reporting, stratified, ranking, sets)
    pruning = files.rounded(pruning)
    save("pruning", pruning)
    yield draw("pruning", figures.plot_pruning, pruning["orders"], pruning["subsets"])
    for pruned in pruning["pruned_models"]:
        done(
            f"pruning by {pruned['method']}: {len(pruned['removed'])} of {pruning['heads']} heads "
            f"removed, {pruned['exact_match']:.2%} of the other half of the test problems right, "
            f"{pruned['errors']:,} of {pruned['pairs']:,} unseen problems wrong"
        )

    # 5. Carry: a site holds the carry if its output, moved from another problem, changes the
    # answer to exactly the digits that the other problem's carry implies.
    carry = files.rounded(study_carry(model, sets, args.batch_size, args.num_samples))
    save("carry", carry)
    if carry["sites"]:
        yield draw("carry_sites", figures.plot_sites, carry["sites"])
        routes = [record for record in carry["sets"] if record["searched_on"][0] == "carry"]
        yield draw("carry_route", figures.plot_route, routes, maps["heads"])
    for record in carry["sets"]:
        scores = record["conditions"].items()
        shares = ", ".join(f"{name} {score['exact']:.0%}" for name, score in scores)
        done(f"carry into column {record['column']}: {' '.join(record['sites'])}: {shares}")


def load_problems(data_dir, model):
    """The training and the test problems of a model, as datasets; made if the folder is empty.

    Raises:
        UserError: if the data are not those that the model was trained on.
    """
    info = model.training_info
    ensure_data(data_dir, info["num_digits"])
    train, test = (
        AdditionDataset(data_dir / f"{split}.json", order=info["order"])
        for split in ("train", "test")
    )
    if files.file_digest(data_dir / "train.json") != info["train_sha256"]:
        raise cli.UserError(
            f"{data_dir} does not hold the training problems of the model, without which seen and "
            "unseen problems cannot be told apart: name the folder that does with --data-dir"
        )
    return train, test


def draw_problem(model, text, folder):
    """Draw all heads on the problem `text`, such as `374+814`."""
    n = model.training_info["num_digits"]
    try:
        numbers = parse_problem(text, n)
    except ValueError as error:
        raise cli.UserError(f"--problem: {error}") from None
    digits = (to_digits(torch.tensor([number]), n) for number in numbers)
    print(f"drawn in {draw_case(make_case(model, *digits), folder)}")


def draw_figure(path, plot, *records):
    files.save_figure(path, plot(*records))


def draw_case(case, folder):
    """Draw a record of `make_case`, and return the picture's path."""
    path = folder / f"case_{case['problem'].replace(' + ', '_')}.png"
    files.save_figure(path, figures.plot_case(case))
    return path


def name_stale_records(folder, digest):
    """Name the records in a folder that were made from other weights than those of `digest`."""
    stale = [str(path.relative_to(folder)) for path in files.stale_records(folder, digest)]
    if stale:
        print(f"still of other weights: {', '.join(stale)}")


def parse_arguments(arguments):
    parser = cli.Parser(description=__doc__)
    positive = cli.whole_number(1)
    samples = "the most problems of each set to use (default: all; fewer go to runs/analysis)"
    for option, kind, value, text in [
        ("--problem", str, None, "draw all heads on this problem alone, such as 374+814"),
        ("--model-path", Path, None, "the model (default: best_model.pth in --results-dir)"),
        ("--data-dir", Path, cli.DATA_DIR, "folder of the problems; made if empty"),
        ("--results-dir", Path, None, "folder of the model (default: its own, or results/)"),
        ("--output-dir", Path, None, "folder for pictures and records (default: --results-dir)"),
        ("--batch-size", positive, None, "problems in one pass (default: what suits the device)"),
        ("--num-samples", cli.whole_number(2), None, samples),
        ("--device", str, None, "cpu, cuda or mps; by default the best one present"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(main)
