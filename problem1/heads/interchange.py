"""Which sites hold a carry: outputs of one run put into another (interchange intervention).

After Geiger et al. 2021 (arXiv:2106.02997) and, for addition, Quirke & Barez 2023 (arXiv:2310.13121): if a site holds
the carry into a column, then putting there what it holds in a problem with the other carry must change the answer to
exactly the digits that the other carry implies. Columns are counted from the right, units are 0; column n of numbers of
n digits is the overflow.
Shapes in comments: N pairs of problems, T digits of the sum, n digits of a number.
"""

from dataclasses import dataclass

import torch

from dataset import digits_of, encode_problems, number_range, numbers_of
from heads.examination import Examination
from heads.patterns import source_labels, target_labels
from heads.sites import Site
from learning.carries import carries_out
from learning.evaluation import wilson_interval
from learning.exhaustive import pair_index
from support.cli import Progress

PARTS = 11  # one pair in so many is searched on, the others score; of few pairs one in two
ENOUGH = 0.95
LARGEST_SET = 8
CANDIDATES = 24

SEARCHES = (("carry", "other digits"), ("goes on through a 9",))
CONDITIONS = {
    "carry": "the donor has the same digits in the column, and the other carry into it",
    "same carry": "control: the donor has the same digits in the column and the same carry into it; the answer must "
                  "stay",
    "other digits": "the donor has other digits in the column, and the other carry into it: a site that holds the "
                    "digit of the sum, not the carry, fails",
    "arrives through a 9": "as carry, and the column to the right sums to 9 in both, so that the carry comes from "
                           "farther off",
    "goes on through a 9": "as carry, and the column itself sums to 9, so that the carry must go on to the next",
}


@dataclass
class Pairs:
    """Base problems with a donor each, `[N]`, that make one condition in one column.

    `gain [N]`: the donor has a carry. `impossible`: how many base problems were passed over because the answer that the
    other carry implies is no sum of two such numbers (`00..` of three digits).
    """

    base: tuple
    donor: tuple
    gain: torch.Tensor
    impossible: int


def column_sums(a, b, num_digits):
    """`[N, n]`, of which `[:, k]` is the sum of the digits in column k."""
    return (digits_of(a, num_digits) + digits_of(b, num_digits)).flip(1)


def carry_into(a, b, num_digits):
    """`[N, n + 1]` bools, of which `[:, k]` says whether a carry enters column k."""
    out = carries_out(a, b, num_digits).flip(1)
    return torch.cat([torch.zeros_like(out[:, :1]), out], dim=1)


def conditions_of(column, num_digits):
    """The conditions that can be made in a column."""
    possible = {"carry": True, "same carry": True, "other digits": column < num_digits,
                "arrives through a 9": column >= 2, "goes on through a 9": column < num_digits}
    return [condition for condition in CONDITIONS if possible[condition]]


def draw_pairs(pool, seen, num_digits, column, condition, count, seed=0):
    """Up to `count` pairs for a condition, half of them with a donor that has a carry into the column.

    Args:
        pool: base problems to choose from, `(a, b)`, none of them seen in training.
        seen: source tokens of the training problems; no donor is one of them.
    """
    generator = torch.Generator().manual_seed(seed)
    a, b = pool
    sums, carry = column_sums(a, b, num_digits), carry_into(a, b, num_digits)[:, column]
    if column < num_digits:
        suits = (sums[:, column] == 9) == (condition == "goes on through a 9")
    else:
        suits = torch.ones_like(carry)
    if condition == "arrives through a 9":
        suits &= sums[:, column - 1] == 9
    possible = torch.ones_like(carry)
    if condition != "same carry":
        implied = implied_sum(a, b, column, ~carry)
        possible = (implied >= 2 * number_range(num_digits)[0]) & (implied <= 2 * number_range(num_digits)[1])
    groups = [(suits & (carry == value)).nonzero().flatten() for value in (False, True)]
    kept = [group[possible[group]][:count // 2] for group in groups]
    impossible = sum(int((~possible[group[group <= last[-1]]]).sum()) for group, last in zip(groups, kept) if len(last))
    chosen = torch.cat(kept)
    a, b, carry = a[chosen], b[chosen], carry[chosen]
    low, high = number_range(num_digits)
    seen_index = pair_index(*numbers_of(seen, num_digits), num_digits)
    donors = torch.stack([a, b])
    found = torch.zeros_like(carry)
    agreeing = {"carry": [column], "same carry": [column], "other digits": [],
                "arrives through a 9": [column, column - 1], "goes on through a 9": [column]}[condition]
    for _ in range(200):
        tried = torch.randint(low, high + 1, donors.shape, generator=generator)
        for k in agreeing:
            if k < num_digits:
                power = 10 ** k
                tried += (donors // power % 10 - tried // power % 10) * power
        new_sums, new_carry = column_sums(*tried, num_digits), carry_into(*tried, num_digits)[:, column]
        good = (tried >= low).all(dim=0) & (new_carry == carry if condition == "same carry" else new_carry != carry)
        good &= ~torch.isin(pair_index(*tried, num_digits), seen_index)
        if condition == "other digits":
            good &= (new_sums[:, column] != 9) & (new_sums[:, column] != column_sums(a, b, num_digits)[:, column])
        good &= ~found
        donors[:, good] = tried[:, good]
        found |= good
        if found.all():
            break
    return Pairs((a[found], b[found]), tuple(donors[:, found]), carry_into(*donors[:, found], num_digits)[:, column],
                 impossible)


def implied_sum(a, b, column, gain):
    """The answer `[N]` to `a [N] + b [N]` if a carry entered the column where `gain [N]`, and none where not, against
    what is so: one more or one less in the column."""
    return a + b + (2 * gain.long() - 1) * 10 ** column


class Interchange:
    """Pairs for every condition in one column that two unseen problems make, and the model's runs on their two sides.

    `condition [N]` is the number of each pair's condition in `conditions`; `expected [N, T]` are the digits that the
    injected carry implies.

    Raises:
        ValueError: if there are no two pairs for the condition carry.
    """

    def __init__(self, model, pool, seen, num_digits, column, count, batch_size=512, seed=0):
        self.column, self.num_digits = column, num_digits
        self.parts = PARTS if count >= 20 * PARTS else 2
        self.labels = target_labels(num_digits, model.config.order)
        drawn = {condition: draw_pairs(pool, seen, num_digits, column, condition, count, seed + number)
                 for number, condition in enumerate(conditions_of(column, num_digits))}
        self.conditions = [condition for condition, pairs in drawn.items() if len(pairs.gain) > 1]
        self.impossible = {condition: drawn[condition].impossible for condition in self.conditions}
        if "carry" not in self.conditions:
            raise ValueError(f"no two unseen problems differ in the carry into column {column} alone")
        drawn = [drawn[condition] for condition in self.conditions]
        (a, b), (donor_a, donor_b) = ([torch.cat([getattr(pairs, side)[i] for pairs in drawn]) for i in range(2)]
                                      for side in ("base", "donor"))
        self.gain = torch.cat([pairs.gain for pairs in drawn])
        self.condition = torch.cat([torch.full((len(pairs.gain),), number) for number, pairs in enumerate(drawn)])
        self.base = Examination(model, *encode_problems(a, b, num_digits), batch_size)
        self.donor = Examination(model, *encode_problems(donor_a, donor_b, num_digits), batch_size)
        changed = carry_into(a, b, num_digits)[:, column] != self.gain
        total = torch.where(changed, implied_sum(a, b, column, self.gain), a + b)
        self.expected = model.written(digits_of(total, num_digits + 1).to(self.base.target.device))

    def inject(self, sites, rows):
        """Put the donor's outputs at `sites` into the base, for the pairs `rows [N]`: `(exact [N], changed [N, T],
        shift [N])` on the CPU.

        exact: the answer is exactly the digits that the injected carry implies; in the control, the answer has changed.
        changed: whether each digit differs from that of the undisturbed answer.
        shift: how far the logits of the implied digits have risen over those of the base's digits, where the two
            differ.
        """
        answers = self.base.answer(sites, self.donor.outputs, rows)
        expected, before = self.expected[rows], self.base.target[rows]
        exact = (answers.tokens == expected).all(dim=1)
        rise = answers.logits - self.base.clean.logits[rows]
        shift = rise.gather(2, expected.unsqueeze(2)) - rise.gather(2, before.unsqueeze(2))
        return (torch.where((expected == before).all(dim=1), ~exact, exact).cpu(),
                (answers.tokens != self.base.clean.tokens[rows]).cpu(), shift.sum(dim=(1, 2)).cpu())

    def of(self, *conditions, searching):
        """The pairs of these conditions `[N]`, as indices: those to search on, one in `PARTS`, or the others, to score
        on."""
        numbers = [self.conditions.index(name) for name in conditions if name in self.conditions]
        for_search = torch.arange(len(self.condition)) % self.parts == 0
        return (torch.isin(self.condition, torch.tensor(numbers)) & (for_search == searching)).nonzero().flatten()

    def scores(self, sites, searching):
        """The outputs at `sites` injected, for the pairs to search on or those to score on: for each condition of how
        many pairs (`n`) the answer is exactly the implied one (in the control: has changed), `exact`, with its Wilson
        interval; of how many carries injected and removed each, `carry_injected` and `carry_removed`, `[exact, n]`; the
        share of the pairs in which each digit `changed`, in the order of writing; and the mean `shift`."""
        rows = self.of(*self.conditions, searching=searching)
        exact, changed, shift = self.inject(sites, rows)
        records = {}
        for number, condition in enumerate(self.conditions):
            here, gain = self.condition[rows] == number, self.gain[rows]
            n, right = int(here.sum()), int(exact[here].sum())
            records[condition] = {
                "n": n, "exact": share(exact[here]), "interval": wilson_interval(right, n) if n else None,
                **{name: [int(exact[here & (gain == value)].sum()), int((here & (gain == value)).sum())]
                   for name, value in (("carry_injected", True), ("carry_removed", False))},
                "changed": dict(zip(self.labels, changed[here].float().mean(dim=0).tolist())) if n else None,
                "shift": shift[here].mean().item() if n else None}
        return records


def share(bools):
    """The share of True, or None of nothing."""
    return bools.float().mean().item() if len(bools) else None


def all_sites(examination):
    """Every head and every feed-forward network at every position."""
    return [Site(block, head, position) for block, value in examination.outputs.items()
            for head in range(value.size(1)) for position in range(value.size(2))]


def site_name(site, model, num_digits):
    """The name of a site with the label of its position: `encoder.0.self.2@a10`."""
    return site.name(source_labels(num_digits) if site.block.startswith("encoder")
                     else target_labels(num_digits, model.config.order))


def measure_probes(examination, num_digits):
    """How well a linear probe reads the carry into each column from each site: correlation, not cause.

    A ridge classifier is fitted by least squares on one half of the problems and scored on the other.

    Returns:
        A list of records: `site`, `column`, `accuracy` on the other half, `majority` (the share of the commoner answer
            there), `n` scored.
    """
    a, b = numbers_of(examination.source.cpu(), num_digits)
    carries = carry_into(a, b, num_digits).float()
    fitted = torch.arange(len(a)) % 2 == 0
    records = []
    for site in all_sites(examination):
        x = examination.outputs[site.block][:, site.head, site.position].cpu().double()
        x = torch.cat([(x - x[fitted].mean(dim=0)) / x[fitted].std(dim=0, correction=0).clamp_min(1e-6),
                       torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        gram = x[fitted].T @ x[fitted] + torch.eye(x.size(1), dtype=x.dtype)
        weights = torch.linalg.solve(gram, x[fitted].T @ (2 * carries[fitted].double() - 1))
        right = ((x[~fitted] @ weights > 0) == carries[~fitted].bool()).float().mean(dim=0)
        for column in range(1, num_digits + 1):
            common = carries[~fitted][:, column].mean().item()
            records.append({"site": site_name(site, examination.model, num_digits), "column": column,
                            "accuracy": right[column].item(),
                            "majority": max(common, 1 - common), "n": int((~fitted).sum())})
    return records


def measure_sites(interchange):
    """Every site alone, on the pairs to search on: a list of records of `site`, `column` and `conditions` (see
    `Interchange.scores`)."""
    sites = all_sites(interchange.base)
    progress = Progress(f"sites, column {interchange.column}", len(sites))
    records = []
    for site in sites:
        records.append({"site": site_name(site, interchange.base.model, interchange.num_digits),
                        "column": interchange.column,
                        "conditions": interchange.scores([site], searching=True)})
        progress.update(len(records))
    return records


def find_smallest_set(interchange, site_records, conditions, heads_only):
    """A small set of sites that holds the carry, by greedy search among those that shift the answer most when alone.

    One pair in `PARTS` is searched on, and shortlists the sites; the others score. Sites are added until 95% of the
    answers, in each of `conditions`, are the implied ones, or adding does not help; then those are taken out again
    without which that share is as high.

    Args:
        interchange: the pairs.
        site_records: `measure_sites` of them.
        conditions: what the set is to carry, such as `("carry", "other digits")`; the control counts against a set.
        heads_only: whether feed-forward networks are left out.

    Returns:
        A record: `column`, `searched_on`, `heads_only`, `sites`, `conditions` scored on the other pairs, `impossible`
        (see `Pairs`), and `search`, the lowest of the shares on the pairs searched on after each addition.
    """
    conditions = [condition for condition in conditions if condition in interchange.conditions]
    alone = [sum(record["conditions"][condition]["shift"] for condition in conditions) for record in site_records]
    sites = all_sites(interchange.base)
    order = sorted(range(len(sites)), key=lambda i: -alone[i])
    candidates = [sites[i] for i in order if not (heads_only and sites[i].block.endswith("ffn"))][:CANDIDATES]
    rows = interchange.of(*conditions, "same carry", searching=True)
    groups = {name: torch.isin(rows, interchange.of(name, searching=True)) for name in [*conditions, "same carry"]}

    def score(chosen):
        exact, _, shift = interchange.inject(chosen, rows)
        shares = [share(exact[groups[condition]]) for condition in conditions]
        control = share(exact[groups["same carry"]]) or 0.0
        return sum(shares) / len(shares) - control, shift[~groups["same carry"]].mean().item(), min(shares)

    chosen, search = [], []
    while len(chosen) < min(LARGEST_SET, len(candidates)) and (not search or search[-1] < ENOUGH):
        best, site = max((score([*chosen, site]), site) for site in candidates if site not in chosen)
        chosen.append(site)
        search.append(best[2])
    chosen = chosen[:search.index(max(search)) + 1]
    for site in list(chosen):
        fewer = [other for other in chosen if other != site]
        if fewer and score(fewer)[2] >= min(ENOUGH, max(search)):
            chosen = fewer
    return {"column": interchange.column, "searched_on": conditions, "heads_only": heads_only,
            "sites": [site_name(site, interchange.base.model, interchange.num_digits) for site in chosen],
            "conditions": interchange.scores(chosen, searching=False), "impossible": interchange.impossible,
            "search": search}
