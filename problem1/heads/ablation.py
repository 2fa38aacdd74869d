"""What the model loses without a head: ablation, gradient importance, rankings, backup heads.

Shapes in comments: N problems, H heads, T digits of the sum, D width of one head, R draws.
"""

from itertools import combinations, product
from math import comb

from support.cli import Progress
from support.plots import wilson_interval

import torch

from dataset import decode_problems, shift_right
from heads import batches
from heads.carries import carry_pattern, cascade_length
from heads.examination import Bootstrap
from heads.sites import all_heads, attention_blocks, head_record, intervening

METHODS = ("zero", "mean", "resample")
VERDICTS = ("critical", "intermediate", "constant", "misleading", "redundant")
# Of other problems, when outputs are resampled. On 2,000 problems an interval is then up to 3.5
# points wide; with one draw it is 4.3, with 16 2.3.
DRAWS = 4
MINIMAL, SMALL = 0.01, 0.05  # losses of exact match: one point, five points
BACKUP_LEVEL = 0.05  # the chance of calling any pair of heads a backup wrongly


def study_ablation(test, stratified):
    """Ablation of each head on two `Examination`s; rankings and pairs on the stratified one.

    Returns:
        A record that holds the records `ablation`, `importance` and `pairs`.
    """
    on_test = measure_ablation(test, "test")
    on_stratified = measure_ablation(stratified, "stratified")
    ablation = {
        "baseline": {"test": baseline(test), "stratified": baseline(stratified)},
        "records": on_test + on_stratified,
        "verdicts": verdicts(on_test),
        "undecided": undecided(on_test),
        "prunable_alone": prunable_alone(on_test),
    }
    return {
        "ablation": ablation,
        "importance": rankings(on_stratified, gradient_importance(stratified)),
        "pairs": {"pairs": measure_pairs(stratified)},
    }


def baseline(examination):
    """The undisturbed model on the same problems."""
    clean = examination.clean
    n, matches = len(clean.matches), int(clean.matches.sum())
    record = {"n": n, "exact_match": matches / n}
    record["exact_match_interval"] = wilson_interval(matches, n)
    record["token_accuracy"] = clean.right.float().mean().item()
    return record | {"margin": clean.margin.mean().item()}


def replacements(examination, method, blocks):
    """What takes the outputs of blocks in a method of ablation: `{block: [N, H, T, D]}` a draw.

    zero: nothing (None). mean: the mean over the problems, at each position. resample: the outputs
    in other problems of the set, drawn at random (by rotation of a random order, so that no problem
    keeps its own).
    """
    outputs = {block: examination.outputs[block] for block in blocks}
    if method == "zero":
        return [None]
    if method == "mean":
        return [{block: value.mean(dim=0, keepdim=True) for block, value in outputs.items()}]
    drawn, n = [], len(examination.source)
    for seed in range(DRAWS):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        other = order.roll(1)[order.argsort()]
        drawn.append({block: value[other] for block, value in outputs.items()})
    return drawn


def measure_ablation(examination, name):
    """Ablate each head by each method, on the set of problems called `name`.

    Returns:
        A list of records: the paired changes of the free-running answers against the undisturbed
        model with bootstrap 95% intervals (`margin_change`: logits, teacher forcing); that of exact
        match again by class of problem, and that of the accuracy of each digit.
    """
    a, b = decode_problems(examination.source.cpu())
    pattern, cascade = carry_pattern(a, b), cascade_length(a, b)
    bootstrap, clean = Bootstrap(len(a)), examination.clean
    heads = all_heads(examination.model)

    def by_class(match, classes, form):
        """The change of exact match in each class of the problems, with how many there are."""
        keys, counts = classes.unique(return_counts=True)
        summaries = bootstrap.by_class(match, (classes.unsqueeze(1) == keys).float())
        return {
            format(key, form): {"n": n} | summary
            for key, n, summary in zip(keys.tolist(), counts.tolist(), summaries)
        }

    progress, records = Progress("ablations", len(heads) * len(METHODS)), []
    for method, site in product(METHODS, heads):
        drawn = [
            examination.answer([site], outputs)
            for outputs in replacements(examination, method, [site.block])
        ]
        match = [answers.matches.float() - clean.matches.float() for answers in drawn]
        digits = [answers.right.float() - clean.right.float() for answers in drawn]
        margin = [answers.margin - clean.margin for answers in drawn]
        match = torch.stack(match, dim=-1).cpu()  # [N, R]
        digits = torch.stack(digits, dim=-1).cpu()  # [N, T, R]
        margin = torch.stack(margin, dim=-1).cpu()  # [N, T, R]
        by_digit = map(bootstrap.summary, digits.unbind(dim=1))
        record = {"set": name} | head_record(site) | {"method": method}
        record["exact_match_change"] = bootstrap.summary(match)
        record["token_accuracy_change"] = bootstrap.summary(digits.mean(dim=1))
        record["margin_change"] = bootstrap.summary(margin.mean(dim=1))
        record["by_carry_pattern"] = by_class(match, pattern, f"0{a.size(1)}b")
        record["by_cascade_length"] = by_class(match, cascade, "d")
        record["by_output_digit"] = dict(zip(examination.labels, by_digit))
        records.append(record)
        progress.update(len(records))
    return records


def losses(records, method, key="exact_match_change"):
    """`{head: exact match lost}` by one method, from the records of `measure_ablation`."""
    chosen = [record for record in records if record["method"] == method]
    return {record["head"]: -record[key]["mean"] for record in chosen}


def verdicts(records):
    """Each head's verdict, from the records of `measure_ablation` on one set.

    `critical`: 5 points or more lost by every method. `redundant`: less than 1 by every method.
    `constant`: 1 or more by zero alone, so that the head's mean does what the head does.
    `misleading`: 1 or more by resampling alone, so that the head does harm if it is wrong, and no
    harm if it is silent. `intermediate`: all others.
    """
    zeros, means, others = (losses(records, method) for method in METHODS)

    def verdict(zero, mean, other):
        if min(zero, mean, other) >= SMALL:
            return "critical"
        if max(mean, other) < MINIMAL:
            return "redundant" if zero < MINIMAL else "constant"
        return "misleading" if max(zero, mean) < MINIMAL else "intermediate"

    return {head: verdict(zeros[head], means[head], others[head]) for head in zeros}


def undecided(records):
    """The heads that another set of problems might judge otherwise.

    By some method the interval of their loss holds a limit, one point or five.
    """
    close = [
        record["head"]
        for record in records
        for low, high in [record["exact_match_change"]["interval"]]
        if any(low <= -limit <= high for limit in (MINIMAL, SMALL))
    ]
    return list(dict.fromkeys(close))


def prunable_alone(records):
    """For each method, the share of heads that cost less than 1 and 5 points when alone ablated."""
    shares = []
    for method in METHODS:
        values = losses(records, method).values()
        one, five = (sum(v < limit for v in values) / len(values) for limit in (MINIMAL, SMALL))
        share = {"share_1_point": one, "share_5_points": five}
        shares.append({"method": method, "heads": len(values)} | share)
    return shares


def gradient_importance(examination):
    """E |dL / dg| of a gate g = 1 on each head's output: `{head: importance}`.

    Michel et al. 2019 (arXiv:1905.10650), equation 2. The gradient is taken problem by problem, and
    L is the cross-entropy of the whole answer, with teacher forcing.
    """
    model, blocks = examination.model, attention_blocks(examination.model)
    total = dict.fromkeys(blocks, 0)
    for rows in batches.split(examination.rows(), examination.batch_size):
        source, target = examination.source[rows], examination.target[rows]
        gates = {
            block: source.new_ones(len(rows), module.num_heads, 1, 1).float().requires_grad_()
            for block, module in blocks.items()
        }
        gating = {block: gate.mul for block, gate in gates.items()}
        with intervening(model, gating), torch.enable_grad():
            log_probability = model(source, shift_right(target)).log_softmax(dim=-1)
            loss = -log_probability.gather(-1, target.unsqueeze(-1)).sum()
        for block, gradient in zip(gates, torch.autograd.grad(loss, list(gates.values()))):
            total[block] = total[block] + gradient.abs().sum(dim=(0, 2, 3))  # [H]
    n = len(examination.source)
    return {site.name(): (total[site.block][site.head] / n).item() for site in all_heads(model)}


def rank_correlation(first, second):
    """Spearman's rank correlation of two lists of values; None if all of one are equal."""

    def ranks(values):
        """From 0; ties share the mean of their ranks."""
        values = torch.tensor(values, dtype=torch.float64)
        _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
        return (counts.cumsum(0) - (counts.double() + 1) / 2)[inverse]

    both = torch.stack([ranks(first), ranks(second)])
    return torch.corrcoef(both)[0, 1].item() if (both.std(dim=1) > 0).all() else None


def rankings(records, gradients):
    """Heads ranked by each measure of importance, and how far the rankings agree.

    The measures are the loss of exact match and of margin by each method of ablation, from the
    records of `measure_ablation` on one set, and `gradient_importance`.

    Returns:
        `importance`, `{measure: {head: value}}`; `ranking`, `{measure: [heads, the most important
        first]}`; `tied`, how many heads share their value; `rank_correlation` of all measures.
    """
    importance = {
        f"{name}, {method}": losses(records, method, key)
        for name, key in (("exact match", "exact_match_change"), ("margin", "margin_change"))
        for method in METHODS
    } | {"gradient": gradients}
    record = {"importance": importance, "ranking": {}, "tied": {}, "rank_correlation": {}}
    for measure, heads in importance.items():
        values = list(heads.values())
        record["ranking"][measure] = sorted(heads, key=heads.get, reverse=True)
        record["tied"][measure] = sum(values.count(value) > 1 for value in values)
        record["rank_correlation"][measure] = {
            other: rank_correlation(values, list(heads.values()))
            for other, heads in importance.items()
        }
    return record


def measure_pairs(examination):
    """Ablate every two heads at once (zero), against each alone: backup heads show here.

    Returns:
        A list of records: the exact match that each alone costs, and the `excess` that the two cost
        together beyond that, paired problem by problem; the largest first. `backup` says whether
        more problems have an excess than a deficit (sign test), corrected for the number of pairs
        (Holm 1979): the chance of one wrong backup among all pairs is at most `BACKUP_LEVEL`.
    """
    clean = examination.clean.matches.float()
    heads = all_heads(examination.model)
    alone = {site: clean - examination.matches([site]).float() for site in heads}
    bootstrap, pairs = Bootstrap(len(clean)), list(combinations(heads, 2))
    progress, records, chances = Progress("pairs of heads", len(pairs)), [], []
    for pair in pairs:
        together = clean - examination.matches(pair).float()
        excess = (together - alone[pair[0]] - alone[pair[1]]).cpu()
        record = {"heads": [site.name() for site in pair], "n": len(clean)}
        record["single_losses"] = [alone[site].mean().item() for site in pair]
        records.append(record | {"excess": bootstrap.summary(excess)})
        chances.append(sign_test(int((excess > 0).sum()), int((excess < 0).sum())))
        progress.update(len(records))
    for record, accepted in zip(records, holm(chances, BACKUP_LEVEL)):
        record["backup"] = accepted
    return sorted(records, key=lambda record: -record["excess"]["mean"])


def sign_test(more, less):
    """The chance of `more` or more positive signs of `more + less` if both signs are as likely."""
    total = more + less
    return sum(comb(total, count) for count in range(more, total + 1)) / 2**total


def holm(chances, level):
    """Which of several tests with these chances hold together at this level (Holm 1979)."""
    accepted = [False] * len(chances)
    for place, number in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[number] > level / (len(chances) - place):
            break
        accepted[number] = True
    return accepted
