"""How many heads can go at once: orders of removal, and subsets of each attention type."""

import copy
from itertools import combinations
from math import comb

from support.cli import Progress

import torch
from torch import nn

from dataset import decode_problems, shift_right
from heads import batches
from heads.ablation import MINIMAL, SMALL, replacements
from heads.carries import cascade_length
from heads.examination import encode, margins
from heads.exhaustive import find_wrong, score
from heads.sites import KINDS, all_heads, attention_blocks, kind_of, recorded_outputs

RANDOM_ORDERS = 10
COUNTED = 20_000  # problems that a pruned model answers
LOWEST = 0.5  # exact match at which a removal ends
MOST_EXACT = 8  # heads of a type of which all subsets are tried: 256
SAMPLED = 16  # subsets of each size that are tried of more heads


def study_pruning(choosing, reporting, stratified, ranking, sets):
    """Removal of many heads at once, on three `Examination`s.

    A head that is removed is replaced by zeros, or by its mean over the training problems at each
    position, a constant. Orders are found on the stratified problems (or at random), stopped on one
    half of the test problems and reported on the other. `ranking` is that of
    `heads.ablation.rankings`, and `sets` are the `examination.Sets`.

    Returns:
        A record: how many `heads`, the `orders`, `subsets`, and `pruned_models`, see
        `measure_pruned`.
    """
    model = stratified.model
    heads = {site.name(): site for site in all_heads(model)}
    means = mean_outputs(model, sets.training)
    orders = {"greedy": greedy_order(stratified)}
    for name, measure in (("ablation", "exact match, zero"), ("gradient", "gradient")):
        orders[name] = [heads[head] for head in reversed(ranking[measure])]
    orders |= random_orders(model, RANDOM_ORDERS)
    by_means = {"greedy, mean": greedy_order(stratified, means)}
    records = measure_orders(choosing, reporting, orders)
    records += measure_orders(choosing, reporting, by_means, means)
    a, b = (digits[:COUNTED] for digits in sets.pool)
    pruned = [
        measure_pruned(reporting, record, removed, each, a, b)
        for record, each in ((records[0], None), (records[-1], means))
        for removed in sorted({record["prunable_1_point"], record["prunable_5_points"]})
    ]
    return {
        "heads": len(heads),
        "orders": records,
        "subsets": measure_subsets(stratified, reporting),
        "pruned_models": pruned,
    }


def prunable(curve, tolerance):
    """How many heads can go before `tolerance` of exact match (0.01: a point) or more is lost.

    `curve` is the exact match with 0, 1, 2, ... heads removed.
    """
    lost = (count for count, match in enumerate(curve) if curve[0] - match >= tolerance)
    return next(lost, len(curve)) - 1


def exact_match(examination, sites, outputs=None):
    """Exact match, free-running, with the heads `sites` replaced by `outputs`, or by zeros."""
    return examination.matches(sites, outputs).float().mean().item()


def mean_outputs(model, training_sources):
    """The mean output of each block over the training problems: `{block: [1, H, T, D]}`."""
    source, target = encode(*decode_problems(training_sources), model.training_info["order"])
    device, totals = next(model.parameters()).device, {}
    with recorded_outputs(model) as kept, torch.no_grad():
        for rows in batches.split(torch.arange(len(source)), None, device):
            model(source[rows].to(device), shift_right(target[rows].to(device)))
            for block, parts in kept.items():
                totals[block] = totals.get(block, 0) + parts.pop().sum(dim=0, keepdim=True)
    return {block: total / len(source) for block, total in totals.items()}


def greedy_order(examination, outputs=None):
    """Heads in order, each time the one without which most answers stay right: a list of `Site`s.

    A head that goes is replaced by `outputs`, or by zeros. Among equals, the one that leaves the
    largest mean margin. Ends where fewer than half of the answers are right.
    """
    removed, left = [], all_heads(examination.model)
    progress = Progress("greedy removals", len(left))

    def kept(site):
        logits = examination.logits([*removed, site], outputs)
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


def removal_curve(examination, order, outputs=None):
    """Exact match without the first 0, 1, 2, ... heads of `order`, until it is below one half."""
    curve = []
    for count in range(len(order) + 1):
        curve.append(exact_match(examination, order[:count], outputs))
        if curve[-1] < LOWEST:
            break
    return curve


def measure_orders(choosing, reporting, orders, outputs=None):
    """Removal curves of `{name: [Site, ...]}` on two `Examination`s that took no part in ordering.

    Heads are replaced by `outputs`, or by zeros.

    Returns:
        A list of records: `chosen_on` and `exact_match` are the curves on the two, of one length,
        and by the first of them `prunable_1_point` and `prunable_5_points` heads can go for less.
    """
    progress, records = Progress("removal curves", len(orders)), []
    for name, order in orders.items():
        chosen_on = removal_curve(choosing, order, outputs)
        heads, n = [site.name() for site in order], len(reporting.source)
        record = {"order": name, "n": n, "heads": heads, "chosen_on": chosen_on}
        record["exact_match"] = [
            exact_match(reporting, order[:k], outputs) for k in range(len(chosen_on))
        ]
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


def measure_pruned(reporting, order, removed, means, a, b):
    """The model without the first `removed` heads of an order, parameters and all.

    Args:
        reporting: an `Examination`.
        order: a record of `measure_orders`.
        means: None if the heads are replaced by zeros, or the outputs that replace them.
        a, b: digits `[N, n]` of problems to count on.

    Returns:
        A record: `left` and `removed` are names of heads; `exact_match` of the reporting problems,
        and as a check `exact_match_resampled`, with the heads' outputs in other problems; the
        `parameters` left; the `errors` in how many `pairs`, and the same `by_cascade_length`.
    """
    heads = {site.name(): site for site in all_heads(reporting.model)}
    gone = [heads[name] for name in order["heads"][:removed]]
    smaller = without_heads(reporting.model, gone, means)
    others = replacements(reporting, "resample", [site.block for site in gone])
    wrong, cascade = find_wrong(smaller, a, b), cascade_length(a, b)
    return {
        "method": "zero" if means is None else "mean",
        "removed": [site.name() for site in gone],
        "left": [name for name in heads if heads[name] not in gone],
        "exact_match": order["exact_match"][removed],
        "exact_match_resampled": sum(exact_match(reporting, gone, each) for each in others)
        / len(others),
        "parameters": sum(parameter.numel() for parameter in smaller.parameters()),
        "parameters_before": sum(parameter.numel() for parameter in reporting.model.parameters()),
        **score(wrong),
        "by_cascade_length": {
            str(key): score(wrong[cascade == key]) for key in cascade.unique().tolist()
        },
    }


def without_heads(model, heads, means=None):
    """A copy of a model that lacks these heads: their rows of W_q, W_k, W_v and columns of W_o.

    What `means` (see `mean_outputs`) put in their place is a constant, which W_o adds: at each
    position its own.
    """
    smaller = copy.deepcopy(model)
    for block, attention in attention_blocks(smaller).items():
        gone = [site.head for site in heads if site.block == block]
        if not gone:
            continue
        weight, bias = attention.W_o.weight.detach(), attention.W_o.bias.detach()
        kept = torch.ones(attention.num_heads, dtype=torch.bool, device=weight.device)
        kept[gone] = False
        kept = kept.repeat_interleave(attention.d_k)  # [d_model]
        if means is not None:
            constant = attention.combine_heads(means[block])[0] * ~kept  # [T, d_model]
            bias = bias + constant @ weight.T
        for name in ("W_q", "W_k", "W_v"):
            linear = getattr(attention, name)
            linear.weight = nn.Parameter(linear.weight.detach()[kept])
            linear.bias = nn.Parameter(linear.bias.detach()[kept])
        attention.W_o = PositionLinear(weight[:, kept], bias)
        attention.num_heads -= len(gone)
    return smaller


class PositionLinear(nn.Linear):
    """A linear layer `[B, T, in] -> [B, T, out]` whose bias may depend on the position."""

    def __init__(self, weight, bias):
        super().__init__(weight.size(1), weight.size(0), device="meta")  # draws no weights
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)  # [T, out] or [out]

    def forward(self, x):
        bias = self.bias if self.bias.dim() == 1 else self.bias[: x.size(1)]
        return x @ self.weight.T + bias
