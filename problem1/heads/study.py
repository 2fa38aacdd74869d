"""The whole study of one model's heads: which problems, which measurements, and what they come to."""

from dataclasses import dataclass

import torch

from dataset import encode_problems
from heads.ablation import METHODS, baseline, gradient_importance, measure_ablation, rankings
from heads.examination import Examination, stratify, unseen_pairs
from heads.interchange import CONDITIONS, SEARCHES, Interchange, find_smallest_set, measure_probes, measure_sites
from heads.pruning import MINIMAL, SMALL, greedy_order, measure_orders, random_orders
from heads.sites import all_heads, parse_head, without_heads
from learning.exhaustive import MOST_PAIRS, check_all_pairs, count_pairs, predict_forced

STRATIFIED = 480
PAIRS = 1100
PROBED = 4000
RANDOM_ORDERS = 20


@dataclass
class Sets:
    """Problems never seen in training.

    test: source and target tokens of the test problems.
    choosing, reporting: their two halves: where a removal of many heads stops is chosen on one, reported on the other.
    stratified: as many problems of every combination of carry pattern and cascade length, none of them a test problem,
        on which heads are ranked: long cascades, rare among all problems, count here.
    pool: all other numbers `(a, b)`, in random order, from which pairs for interchanges are drawn.
    training: source tokens of the training problems.
    """

    test: tuple
    choosing: tuple
    reporting: tuple
    stratified: tuple
    pool: tuple
    training: torch.Tensor


def choose_problems(train, test, num_digits, num_samples=None):
    """The `Sets` for datasets of training and test problems; `num_samples` limits the test problems and the stratified
    ones."""
    a, b = unseen_pairs(num_digits, torch.cat([train.inputs, test.inputs]), seed=0)
    chosen = stratify(a, b, num_digits, min(STRATIFIED, num_samples or STRATIFIED))
    rest = torch.ones(len(a), dtype=torch.bool)
    rest[chosen] = False
    kept = test.inputs[:num_samples], test.targets[:num_samples]
    halves = (tuple(tokens[half::2] for tokens in kept) for half in (0, 1))
    return Sets(kept, *halves, encode_problems(a[chosen], b[chosen], num_digits),
                (a[rest], b[rest]), train.inputs)


def verdicts(records):
    """Each head as `critical` (5 points or more lost by every method of ablation), `redundant` (less than 1 by every
    method), or `depends on the method`, from the records of `measure_ablation` on one set."""
    losses = {}
    for record in records:
        losses.setdefault(record["head"], []).append(-record["exact_match_change"]["mean"])
    return {head: "critical" if min(values) >= SMALL else "redundant" if max(values) < MINIMAL
            else "depends on the method"
            for head, values in losses.items()}


def prunable_alone(records):
    """For each method, the share of heads that cost less than 1 and less than 5 points when they alone are ablated."""
    shares = []
    for method in METHODS:
        losses = [-record["exact_match_change"]["mean"] for record in records if record["method"] == method]
        shares.append({"method": method, "heads": len(losses),
                       **{name: sum(loss < tolerance for loss in losses) / len(losses)
                       for name, tolerance in (("share_1_point", MINIMAL), ("share_5_points", SMALL))}})
    return shares


def study_ablation(test, stratified, num_digits):
    """Ablation of each head on both sets, gradient importance, rankings and verdicts: `(ablation record, importance
    record)`."""
    ablation = {"baseline": {"test": baseline(test), "stratified": baseline(stratified)},
                "records": measure_ablation(test, num_digits, {"set": "test"})
                + measure_ablation(stratified, num_digits, {"set": "stratified"})}
    on = {name: [record for record in ablation["records"] if record["set"] == name] for name in ("test", "stratified")}
    ablation |= {"verdicts": verdicts(on["test"]), "prunable_alone": prunable_alone(on["test"])}
    return ablation, rankings(on["stratified"], gradient_importance(stratified))


def study_pruning(choosing, reporting, stratified, importance):
    """Removal of many heads at once, ordered on the stratified set (and at random), stopped on one half of the test
    problems and reported on the other."""
    def ascending(measure):
        return [parse_head(head) for head in reversed(importance["ranking"][measure])]

    orders = {"greedy": greedy_order(stratified), "ablation": ascending("exact match, zero"),
              "gradient": ascending("gradient"),
              **random_orders(stratified.model, RANDOM_ORDERS)}
    return {"heads": len(all_heads(stratified.model)), "orders": measure_orders(choosing, reporting, orders)}


def check_pruned(model, pruning, num_digits, training):
    """Every pair of numbers, answered without the most heads that greedy removal took for less than 1 point where that
    was chosen; None if there are too many pairs to go through."""
    if count_pairs(num_digits) > MOST_PAIRS:
        return None
    greedy = pruning["orders"][0]
    removed = greedy["heads"][:greedy["prunable_1_point"]]
    smaller = without_heads(model, removed)
    record = check_all_pairs(smaller, num_digits, training, predict=predict_forced)
    del record["error_list"]
    return {"removed": removed, "share_removed": len(removed) / pruning["heads"],
            "parameters": sum(parameter.numel() for parameter in smaller.parameters()),
            "parameters_before": sum(parameter.numel() for parameter in model.parameters()), **record}


def study_carry(model, sets, num_digits, batch_size=512, num_samples=None, save=lambda record: None):
    """Interchanges and probes for the carry into every column.

    Args:
        num_samples: None, or the most pairs of each condition and problems to probe.
        save: called with the record so far after each column.

    Returns:
        The record: `conditions` in words, records of `sites` (see `measure_sites`) and of `sets` (`find_smallest_set`),
            and `probes`.
    """
    count, probed = (min(default, num_samples or default) for default in (PAIRS, PROBED))
    record = {"conditions": CONDITIONS, "sites": [], "sets": [], "probes": []}
    for sites, sets_found in interchanges(model, sets, num_digits, count, batch_size):
        record["sites"] += sites
        record["sets"] += sets_found
        save(record)
    if record["sites"]:
        problems = [numbers[-probed:] for numbers in sets.pool]
        record["probes"] = measure_probes(Examination(model, *encode_problems(*problems, num_digits), batch_size),
                                          num_digits)
    return record


def interchanges(model, sets, num_digits, count, batch_size):
    """For each column that a carry can enter, the records of its sites (see `measure_sites`) and of the sets found
    among them (`find_smallest_set`), on at most `count` pairs of each condition."""
    for column in range(1, num_digits + 1):
        try:
            interchange = Interchange(model, sets.pool, sets.training, num_digits, column, count, batch_size)
        except ValueError:  # small numbers, nearly all of them seen in training
            continue
        sites = measure_sites(interchange)
        yield sites, [find_smallest_set(interchange, sites, conditions, heads_only)
                      for conditions in SEARCHES if conditions[0] in interchange.conditions
                      for heads_only in (False, True)]


def study_briefly(model, sets, num_digits, batch_size=512, num_samples=None):
    """What is compared between training seeds, in less time than the whole study takes.

    Returns:
        The record: `verdicts` of the heads and shares `prunable_alone` on the reporting half of the test problems, the
        `greedy` order of removal (see `measure_orders`), and the `sets` that hold a carry (see `study_carry`).
    """
    choosing, reporting, stratified = (Examination(model, *problems, batch_size)
                                       for problems in (sets.choosing, sets.reporting, sets.stratified))
    ablations = measure_ablation(reporting, num_digits, {"set": "test"})
    greedy, = measure_orders(choosing, reporting, {"greedy": greedy_order(stratified)})
    return {"verdicts": verdicts(ablations), "prunable_alone": prunable_alone(ablations), "greedy": greedy,
            "sets": [found for _, each in interchanges(model, sets, num_digits, min(PAIRS, num_samples or PAIRS),
                                                       batch_size) for found in each]}
