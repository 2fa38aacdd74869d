"""How many heads can go at once: orders of removal, and subsets of each attention type."""

from itertools import combinations
from math import comb

from support.cli import Progress

import torch

from heads.ablation import MINIMAL, SMALL
from heads.examination import margins
from heads.exhaustive import MOST_PAIRS, check_all_pairs, count_pairs
from heads.sites import KINDS, ablated, all_heads, attention_blocks, kind_of

RANDOM_ORDERS = 20
LOWEST = 0.5  # exact match at which a removal ends
MOST_EXACT = 8  # heads of a type of which all subsets are tried: 256
SAMPLED = 16  # subsets of each size that are tried of more heads


def study_pruning(choosing, reporting, stratified, ranking, training_sources):
    """Removal of many heads at once, on three `Examination`s.

    Orders are found on the stratified problems (or at random), stopped on one half of the test
    problems and reported on the other. `ranking` is that of `heads.ablation.rankings`.

    Returns:
        A record: how many `heads`, the `orders`, `subsets`, and the `pruned_model`: every pair of
        numbers answered without the heads that greedy removal took, for less than one point.
    """
    heads = {site.name(): site for site in all_heads(stratified.model)}
    orders = {"greedy": greedy_order(stratified)}
    for name, measure in (("ablation", "exact match, zero"), ("gradient", "gradient")):
        orders[name] = [heads[head] for head in reversed(ranking[measure])]
    orders |= random_orders(stratified.model, RANDOM_ORDERS)
    records = measure_orders(choosing, reporting, orders)
    removed = records[0]["heads"][: records[0]["prunable_1_point"]]
    return {
        "heads": len(heads),
        "orders": records,
        "subsets": measure_subsets(stratified, reporting),
        "pruned_model": check_pruned(stratified.model, removed, training_sources),
    }


def prunable(curve, tolerance):
    """How many heads can go before `tolerance` of exact match (0.01: a point) or more is lost.

    `curve` is the exact match with 0, 1, 2, ... heads removed.
    """
    lost = (count for count, match in enumerate(curve) if curve[0] - match >= tolerance)
    return next(lost, len(curve)) - 1


def exact_match(examination, sites):
    """Exact match, free-running, without the heads `sites`."""
    return examination.matches(sites).float().mean().item()


def greedy_order(examination):
    """Heads in order, each time the one without which most answers stay right: a list of `Site`s.

    Among equals, the one that leaves the largest mean margin. Ends where fewer than half of the
    answers are right.
    """
    removed, left = [], all_heads(examination.model)
    progress = Progress("greedy removals", len(left))

    def kept(site):
        logits = examination.logits(examination.rows(), examination.target, [*removed, site])
        right = (logits.argmax(dim=-1) == examination.target).all(dim=1)
        return right.float().mean().item(), margins(logits, examination.target).mean().item()

    while left:
        score, best = max((kept(site), site) for site in left)
        if score[0] < LOWEST:
            break
        removed.append(best)
        left.remove(best)
        progress.update(len(removed))
    return removed


def removal_curve(examination, order):
    """Exact match without the first 0, 1, 2, ... heads of `order`, until it is below one half."""
    curve = []
    for count in range(len(order) + 1):
        curve.append(exact_match(examination, order[:count]))
        if curve[-1] < LOWEST:
            break
    return curve


def measure_orders(choosing, reporting, orders):
    """Removal curves of `{name: [Site, ...]}` on two `Examination`s that took no part in ordering.

    Returns:
        A list of records: `chosen_on` and `exact_match` are the curves on the two, of one length,
        and by the first of them `prunable_1_point` and `prunable_5_points` heads can go for less.
    """
    progress, records = Progress("removal curves", len(orders)), []
    for name, order in orders.items():
        chosen_on = removal_curve(choosing, order)
        heads, n = [site.name() for site in order], len(reporting.source)
        record = {"order": name, "n": n, "heads": heads, "chosen_on": chosen_on}
        record["exact_match"] = [exact_match(reporting, order[:k]) for k in range(len(chosen_on))]
        record["prunable_1_point"] = prunable(chosen_on, MINIMAL)
        record["prunable_5_points"] = prunable(chosen_on, SMALL)
        records.append(record)
        progress.update(len(records))
    return records


def random_orders(model, count):
    """`{"random 1": [Site, ...], ...}`: the heads in random orders."""
    heads = all_heads(model)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(heads), generator=generator).tolist() for _ in range(count)]
    return {f"random {k}": [heads[i] for i in order] for k, order in enumerate(orders, 1)}


def measure_subsets(ranked, scored):
    """For each attention type, subsets of its heads removed at once.

    Of up to `MOST_EXACT` heads all subsets are tried, so that nothing is assumed about an order. Of
    more, `SAMPLED` of each size are tried at random. Subsets are tried on the `Examination`
    `ranked`; the best one is scored on the other.

    Returns:
        A list of records, one for each attention type and number of heads removed: how many
        `subsets` were tried, whether these are all (`exact`), and their exact match.
    """
    heads = all_heads(ranked.model)
    groups = {kind: [site for site in heads if kind_of(site.block) == kind] for kind in KINDS}
    progress = Progress("sizes of subsets", sum(len(group) + 1 for group in groups.values()))
    generator = torch.Generator().manual_seed(0)
    records = []
    for kind, size in [(name, size) for name in KINDS for size in range(len(groups[name]) + 1)]:
        group = groups[kind]
        exact = len(group) <= MOST_EXACT or comb(len(group), size) <= SAMPLED
        subsets = combinations(group, size) if exact else draw_subsets(group, size, generator)
        tried = {subset: exact_match(ranked, subset) for subset in subsets}
        best = max(tried, key=tried.get)
        record = {"kind": kind, "removed": size, "of": len(group), "subsets": len(tried)}
        record |= {"exact": exact, "n": len(ranked.source), "best": tried[best]}
        record |= {"mean": sum(tried.values()) / len(tried), "worst": min(tried.values())}
        record["best_heads"] = [site.name() for site in best]
        records.append(record | {"best_scored": exact_match(scored, best)})
        progress.update(len(records))
    return records


def draw_subsets(group, size, generator):
    """Up to `SAMPLED` different subsets of `size` of the heads in `group`, at random."""
    drawn = (torch.randperm(len(group), generator=generator)[:size].sort() for _ in range(SAMPLED))
    return dict.fromkeys(tuple(group[i] for i in subset.values.tolist()) for subset in drawn)


def check_pruned(model, removed, training_sources):
    """Every pair of numbers, answered without the heads `removed`; None if there are too many."""
    if count_pairs(training_sources.size(1) // 2) > MOST_PAIRS:
        return None
    with ablated(model, removed):
        record = check_all_pairs(model, training_sources)
    del record["error_list"]
    total = sum(parameter.numel() for parameter in model.parameters())
    one = next(iter(attention_blocks(model).values()))
    # A head has its rows of W_q, W_k and W_v with their biases, and its columns of W_o.
    fewer = len(removed) * one.d_k * (4 * one.d_model + 3)
    counts = {"parameters": total - fewer, "parameters_before": total}
    share = {"removed": removed, "share_removed": len(removed) / len(all_heads(model))}
    return share | counts | record
