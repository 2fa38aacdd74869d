"""How many heads can go at once: removal orders, and for each attention type the subsets of its heads."""

from itertools import combinations
from math import comb

import torch

from heads.examination import margins
from heads.sites import KINDS, all_heads, kind_of
from support.cli import Progress

MINIMAL, SMALL = 0.01, 0.05
LOWEST = 0.5
MOST_EXACT = 8  # heads of a type of which all subsets are tried: 256
SAMPLED = 16  # subsets of each size that are tried of more heads


def prunable(curve, tolerance):
    """How many heads can be removed along a curve before more than `tolerance` of exact match is lost for the first
    time.

    Args:
        curve: exact match with 0, 1, 2, ... heads removed.
        tolerance: 0.01 is one point.
    """
    count = 0
    while count + 1 < len(curve) and curve[0] - curve[count + 1] < tolerance:
        count += 1
    return count


def exact_match(examination, sites, outputs=None):
    """Exact match, free-running, without the heads `sites`."""
    return examination.matches(sites, outputs).float().mean().item()


def greedy_order(examination):
    """Heads in the order in which they are best removed: each time the one without which most answers stay right.

    Among equals, the one that leaves the largest mean margin. Ends where fewer than half of the answers are right.

    Returns:
        A list of `Site`s.
    """
    removed, left = [], all_heads(examination.model)
    progress = Progress("greedy removals", len(left))
    while left:
        def kept(site):
            logits = examination.logits(examination.rows(), examination.target, [*removed, site])
            right = (logits.argmax(dim=-1) == examination.target).all(dim=1)
            return right.float().mean().item(), margins(logits, examination.target).mean().item()
        score, best = max((kept(site), site) for site in left)
        if score[0] < LOWEST:
            break
        removed.append(best)
        left.remove(best)
        progress.update(len(removed))
    return removed


def removal_curve(examination, order, outputs=None):
    """Exact match with the first 0, 1, 2, ... heads of `order` removed, until fewer than half of the answers are
    right."""
    curve = []
    for count in range(len(order) + 1):
        curve.append(exact_match(examination, order[:count], outputs))
        if curve[-1] < LOWEST:
            break
    return curve


def measure_orders(choosing, reporting, orders):
    """Removal curves on two sets that took no part in the ordering: where to stop is chosen on one, what that costs is
    reported on the other.

    Args:
        choosing, reporting: the `Examination`s of the two sets.
        orders: `{name of the order: [Site, ...]}`.

    Returns:
        A list of records: `order`, `heads` in the order of removal, `chosen_on` and `exact_match`, the curves on the
        two sets (the second of `n` problems), and how many heads can go by the first with less than 1 and less than 5
        points lost: `prunable_1_point`, `prunable_5_points`.
    """
    progress = Progress("removal curves", len(orders))
    records = []
    for name, order in orders.items():
        chosen_on, reported = removal_curve(choosing, order), removal_curve(reporting, order)
        records.append({"order": name, "n": len(reporting.source), "heads": [site.name() for site in order],
                        "chosen_on": chosen_on, "exact_match": reported,
                        "prunable_1_point": prunable(chosen_on, MINIMAL),
                        "prunable_5_points": prunable(chosen_on, SMALL)})
        progress.update(len(records))
    return records


def random_orders(model, count, seed=0):
    """`{"random 1": [Site, ...], ...}`: the heads in random orders."""
    heads = all_heads(model)
    generator = torch.Generator().manual_seed(seed)
    return {f"random {number + 1}": [heads[i] for i in torch.randperm(len(heads), generator=generator).tolist()]
            for number in range(count)}


def measure_subsets(ranked, scored, save=lambda records: None):
    """For each attention type, subsets of its heads removed at once. Of up to `MOST_EXACT` heads all are tried, so that
    nothing is assumed about an order; of more, for each size `SAMPLED` at random and the greedy one (the best of one
    head less, and the head without which it is best).

    Args:
        ranked: the `Examination` on which the subsets are tried.
        scored: the one on which the best subset of each size is scored.
        save: called with the records so far after each size.

    Returns:
        A list of records, one for each attention type and number of heads removed: how many `subsets` were tried, and
        whether these are all (`exact`); `best`, `mean` and `worst` exact match over them (the mean without the greedy
        one), the `best_heads`, and `best_scored`, their exact match on the other set.
    """
    heads = all_heads(ranked.model)
    groups = {kind: [site for site in heads if kind_of(site) == kind] for kind in KINDS}
    progress = Progress("sizes of subsets", sum(len(group) + 1 for group in groups.values()))
    generator = torch.Generator().manual_seed(0)
    records = []
    for kind, group in groups.items():
        best = ()
        for size in range(len(group) + 1):
            exact = len(group) <= MOST_EXACT or comb(len(group), size) <= SAMPLED
            tried = {subset: exact_match(ranked, subset) for subset in
                     (combinations(group, size) if exact else draw_subsets(group, size, SAMPLED, generator))}
            mean = sum(tried.values()) / len(tried)
            if not exact:
                grown = {tuple(site for site in group if site in best or site == added): None for added in group
                         if added not in best}
                tried |= {subset: exact_match(ranked, subset) for subset in grown if len(subset) == size}
            best = max(tried, key=tried.get)
            records.append({"kind": kind, "removed": size, "of": len(group), "subsets": len(tried), "exact": exact,
                            "n": len(ranked.source), "best": tried[best], "mean": mean, "worst": min(tried.values()),
                            "best_heads": [site.name() for site in best], "best_scored": exact_match(scored, best)})
            save(records)
            progress.update(len(records))
    return records


def draw_subsets(group, size, count, generator):
    """Up to `count` different subsets of `size` of the heads in `group`, at random: a set of tuples in the order of
    `group`."""
    draws = (torch.randperm(len(group), generator=generator)[:size].sort().values.tolist() for _ in range(count))
    return {tuple(group[i] for i in draw) for draw in draws}
