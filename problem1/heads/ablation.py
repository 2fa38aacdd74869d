"""What the model loses without a head: ablation, gradient importance, rankings, and heads that stand in for each other.

Shapes in comments: N problems, H heads, T digits of the sum, D width of one head.
"""

from itertools import combinations, product
from math import comb

import torch

from dataset import numbers_of, shift_right
from heads.examination import Bootstrap, summary
from heads.patterns import target_labels
from heads.sites import all_heads, attention_blocks, intervening
from learning.carries import carry_pattern, cascade_length
from learning.evaluation import wilson_interval
from support.cli import Progress

METHODS = ("zero", "mean", "resample")
DRAWS = 16  # of other problems, when outputs are resampled
BACKUP_LEVEL = 0.05  # chance of calling any pair of heads a backup wrongly


def replacements(examination, method, block):
    """What takes the outputs `[N, H, T, D]` of a block in a method of ablation: a list, one entry a draw.

    zero: nothing (None). mean: the mean over the problems, at each position. resample: the outputs in other problems of
    the set, `DRAWS` times drawn at random (by rotation of a random order, so that none keeps its own).
    """
    value = examination.outputs[block]
    if method == "zero":
        return [None]
    if method == "mean":
        return [value.mean(dim=0, keepdim=True)]
    orders = [torch.randperm(len(value), generator=torch.Generator().manual_seed(seed)) for seed in range(DRAWS)]
    return [value[order.roll(1)[order.argsort()]] for order in orders]


def baseline(examination):
    """The undisturbed model on the same problems."""
    clean = examination.clean
    matches = int(clean.matches.sum())
    return {"n": len(clean.matches), "exact_match": matches / len(clean.matches),
            "exact_match_interval": wilson_interval(matches, len(clean.matches)),
            "token_accuracy": clean.right.float().mean().item(), "margin": clean.margin.mean().item()}


def measure_ablation(examination, num_digits, about):
    """Ablate each head by each method.

    Returns:
        A list of records: `about`, `head`, `method`, and the paired changes of the free-running answers against the
        undisturbed model with bootstrap 95% intervals: `exact_match_change`, `token_accuracy_change`, `margin_change`
        (logits, teacher forcing); `exact_match_change` again `by_carry_pattern` and `by_cascade_length`, and the change
        of each digit's accuracy, `by_output_digit`, in the order of writing.
    """
    a, b = numbers_of(examination.source.cpu(), num_digits)
    pattern, cascade = carry_pattern(a, b, num_digits), cascade_length(a, b, num_digits)
    bootstrap, clean = Bootstrap(len(a)), examination.clean
    heads, labels = all_heads(examination.model), target_labels(num_digits, examination.model.config.order)

    def by_class(match, classes, form):
        """The change of exact match in each class of the problems, with how many there are."""
        return {format(key, form): {"n": int((classes == key).sum()), **summary(bootstrap, match, classes == key)}
                for key in classes.unique().tolist()}

    progress = Progress("ablations", len(heads) * len(METHODS))
    records = []
    for method, site in product(METHODS, heads):
        drawn = [examination.answer([site], value if value is None else {site.block: value})
                 for value in replacements(examination, method, site.block)]
        match = torch.stack([answers.matches.float() for answers in drawn], dim=1) - clean.matches.float().unsqueeze(1)
        digits = torch.stack([answers.right.float() for answers in drawn], dim=2) - clean.right.float().unsqueeze(2)
        margin = torch.stack([answers.margin for answers in drawn], dim=2) - clean.margin.unsqueeze(2)
        match, digits, margin = match.cpu(), digits.cpu(), margin.cpu()
        records.append({
            **about, "head": site.name(), "method": method, "exact_match_change": summary(bootstrap, match),
            "token_accuracy_change": summary(bootstrap, digits.mean(dim=1)),
            "margin_change": summary(bootstrap, margin.mean(dim=1)),
            "by_carry_pattern": by_class(match, pattern, f"0{num_digits}b"),
            "by_cascade_length": by_class(match, cascade, "d"),
            "by_output_digit": {label: summary(bootstrap, digit)
                                for label, digit in zip(labels, digits.unbind(dim=1))}})
        progress.update(len(records))
    return records


def gradient_importance(examination):
    """E |dL / dg| of a gate g = 1 on each head's output (Michel et al. 2019, arXiv:1905.10650, equation 2): `{head:
    importance}`.

    The gradient is taken problem by problem, and L is the cross-entropy of the whole answer, with teacher forcing.
    """
    model, total = examination.model, {}
    for rows in examination.rows().split(examination.batch_size):
        gates = {block: torch.ones(len(rows), attention.num_heads, 1, 1, device=rows.device, requires_grad=True)
                 for block, attention in attention_blocks(model).items()}

        def gate(block):
            return lambda output: output * gates[block]

        source, target = examination.source[rows], examination.target[rows]
        with intervening(model, {block: gate(block) for block in gates}), torch.enable_grad():
            log_probability = model(source, shift_right(target)).log_softmax(dim=-1)
            loss = -log_probability.gather(-1, target.unsqueeze(-1)).sum()
        for block, gradient in zip(gates, torch.autograd.grad(loss, list(gates.values()))):
            total[block] = total.get(block, 0) + gradient.abs().sum(dim=(0, 2, 3))
    n = len(examination.source)
    return {site.name(): (total[site.block][site.head] / n).item() for site in all_heads(model)}


def rank(values):
    """Ranks of `values [K]` from 0, ties sharing the mean of theirs: `[K]`."""
    values = torch.as_tensor(values, dtype=torch.float64)
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts.double() + 1) / 2)[inverse]


def rank_correlation(first, second):
    """Spearman's rank correlation of two lists of values; None if all of one are equal."""
    ranks = torch.stack([rank(first), rank(second)])
    return torch.corrcoef(ranks)[0, 1].item() if (ranks.std(dim=1) > 0).all() else None


def rankings(ablations, gradients):
    """Heads ranked by each measure of importance, and how far the rankings agree.

    Args:
        ablations: the records of `measure_ablation` on one set.
        gradients: `gradient_importance`.

    Returns:
        A dict: `importance`, `{measure: {head: value}}`, higher is more important (loss of exact match and of margin by
        each method of ablation, and the gradient); `ranking`, `{measure: [heads, the most important first]}`;
        `tied`, how many heads share their value with another, which then share the mean of their ranks;
        `rank_correlation`, `{measure: {measure: Spearman's}}`.
    """
    importance = {f"{what}, {method}": {record["head"]: -record[f"{key}_change"]["mean"] for record in ablations
                                        if record["method"] == method}
                  for what, key in (("exact match", "exact_match"), ("margin", "margin")) for method in METHODS}
    importance["gradient"] = gradients
    return {"importance": importance,
            "ranking": {measure: sorted(values, key=values.get, reverse=True)
                        for measure, values in importance.items()},
            "tied": {measure: sum(values.count(value) > 1 for value in values)
                     for measure, values in ((name, list(each.values())) for name, each in importance.items())},
            "rank_correlation": {one: {other: rank_correlation(list(importance[one].values()),
                                                               list(importance[other].values()))
                                       for other in importance} for one in importance}}


def measure_pairs(examination):
    """Ablate every two heads at once (zero), against ablating each alone: heads that stand in for each other show here.

    Returns:
        A list of records: the `heads`, the exact match that each alone costs, `single_losses`, and the `excess` that
        the two together cost beyond the sum of these, paired problem by problem, with a bootstrap 95% interval; the
        largest first. `backup` says whether more problems have an excess than a deficit (sign test), corrected for the
        number of pairs (Holm 1979): among all pairs together the chance of a wrong one is at most `BACKUP_LEVEL`.
    """
    clean = examination.clean.matches.float()
    heads = all_heads(examination.model)
    alone = {site: clean - examination.matches([site]).float() for site in heads}
    bootstrap = Bootstrap(len(clean))
    pairs = list(combinations(heads, 2))
    progress = Progress("pairs of heads", len(pairs))
    records, chances = [], []
    for one, other in pairs:
        excess = (clean - examination.matches([one, other]).float() - alone[one] - alone[other]).cpu()
        records.append({"heads": [one.name(), other.name()], "n": len(clean),
                        "single_losses": [alone[one].mean().item(), alone[other].mean().item()],
                        "excess": summary(bootstrap, excess)})
        chances.append(sign_test(int((excess > 0).sum()), int((excess < 0).sum())))
        progress.update(len(records))
    for record, accepted in zip(records, holm(chances, BACKUP_LEVEL)):
        record["backup"] = accepted
    return sorted(records, key=lambda record: -record["excess"]["mean"])


def sign_test(more, less):
    """The chance of at least `more` of `more + less` signs being positive if either sign is as likely."""
    return sum(comb(more + less, count) for count in range(more, more + less + 1)) / 2 ** (more + less)


def holm(chances, level):
    """Which of several tests with these chances under their null hypotheses hold together at this level (Holm 1979)."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    accepted = [False] * len(chances)
    for place, number in enumerate(order):
        if chances[number] > level / (len(chances) - place):
            break
        accepted[number] = True
    return accepted
