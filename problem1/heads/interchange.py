"""Which sites hold a carry: outputs of one run put into another (interchange intervention).

After Geiger et al. 2021 (arXiv:2106.02997) and, for addition, Quirke & Barez 2023
(arXiv:2310.13121). If a site holds the carry into a column, then its output from a problem with the
other carry, put there, must change the answer to exactly the digits that the other carry implies.
Columns are counted from the right: units are 0, the overflow of n digits is column n.
Shapes in comments: N pairs of problems, T digits of the sum, n digits of a number.
"""

from itertools import product
from typing import NamedTuple

from support.cli import Progress
from support.plots import wilson_interval

import torch

from dataset import ORDERS, decode_problems, in_order, number_range, to_digits, to_numbers
from heads.carries import carries_out, cascade_length
from heads.examination import Examination, encode
from heads.exhaustive import find_unseen
from heads.sites import Site, site_record

PAIRS = 1100  # of each condition
PROBED = 4000  # problems
PARTS = 11  # one pair in so many is searched on, the others score; of few pairs one in two
ENOUGH = 0.95
LARGEST_SET = 8
CANDIDATES = 24
TRIES = 200

RANDOM_SETS, RANDOM_PAIRS = 10, 200  # of a control, and the pairs that each is tried on

CONTROL, ARRIVES, NINES = "same carry", "arrives through a 9", "goes on through a 9"
SEARCHES = (("carry", "other digits"), (NINES,))
CONDITIONS = {
    "carry": "the donor has the same digits in the column, and the other carry into it",
    CONTROL: "control: the donor has the same digits in the column and the same carry into it; "
    "the answer must stay",
    "other digits": "the donor has other digits in the column, and the other carry into it: a site "
    "that holds the digit of the sum, not the carry, fails",
    ARRIVES: "as carry, and the column to the right sums to 9 in both, so that the "
    "carry comes from farther off",
    NINES: "as carry, and the column itself sums to 9, so that the carry must go on to the next",
}


def study_carry(model, sets, batch_size, num_samples=None):
    """Interchanges and probes for the carry into every column, on `examination.Sets`.

    `num_samples` limits the pairs of each condition and the problems to probe.

    Returns:
        A record: `conditions` in words, and the records of `measure_sites`, of `find_smallest_set`
        (`sets`) and of `measure_probes`.
    """
    record = {"conditions": CONDITIONS, "sites": [], "sets": [], "probes": []}
    for sites, found in interchanges(model, sets, batch_size, num_samples):
        record["sites"] += sites
        record["sets"] += found
    if record["sites"]:
        a, b = (digits[-min(PROBED, num_samples or PROBED) :] for digits in sets.pool)
        problems = encode(a, b, model.training_info["order"])
        record["probes"] = measure_probes(Examination(model, *problems, batch_size))
    return record


def interchanges(model, sets, batch_size, num_samples=None):
    """For each column that a carry can enter, records of its sites and of the sets among them."""
    count = min(PAIRS, num_samples or PAIRS)
    for column in range(1, sets.training.size(1) // 2 + 1):
        try:
            interchange = Interchange(model, sets.pool, sets.training, column, count, batch_size)
        except ValueError:  # small numbers, nearly all of them seen in training
            continue
        sites = measure_sites(interchange)
        searches = [search for search in SEARCHES if search[0] in interchange.conditions]
        progress, found = Progress(f"sets of sites, column {column}", len(searches)), []
        for search in searches:
            record = find_smallest_set(interchange, sites, search)
            found.append(record | examine_set(interchange, record))
            progress.update(len(found))
        yield sites, found


class Pairs(NamedTuple):
    """Base problems and a donor for each, digits `(a [N, n], b [N, n])`, of one condition.

    `gain [N]`: the donor has a carry. `impossible`: how many base problems were passed over because
    the answer that the other carry implies is no sum of two such numbers (`00..` of three digits).
    """

    base: tuple
    donor: tuple
    gain: torch.Tensor
    impossible: int


def column_sums(a, b):
    """`[N, n]`, of which `[:, k]` is the sum of the digits in column k."""
    return (a + b).flip(1)


def carry_into(a, b):
    """`[N, n + 1]` bools, of which `[:, k]` says whether a carry enters column k."""
    out = carries_out(a, b).flip(1)
    return torch.cat([torch.zeros_like(out[:, :1]), out], dim=1)


def implied_sum(a, b, column, gain):
    """The sum `[N]`, an integer, if a carry entered the column where `gain [N]`, and else none."""
    change = gain.long() - carry_into(a, b)[:, column].long()
    return to_numbers(a) + to_numbers(b) + change * 10**column


def conditions_of(column, n):
    """The conditions that can be made in a column of numbers of n digits."""
    made = {"other digits": column < n, ARRIVES: column >= 2, NINES: column < n}
    return [condition for condition in CONDITIONS if made.get(condition, True)]


def draw_pairs(pool, seen, column, condition, count, seed=0):
    """Up to `count` `Pairs` for a condition, half of them with a donor that has a carry.

    Args:
        pool: base problems to choose from, digits `(a, b)`, none of them seen in training.
        seen: source tokens of the training problems; no donor is one of them.
    """
    a, b = pool
    n = a.size(1)
    low, high = number_range(n)

    # The base problems: those that suit the condition, and for which an answer is implied.
    sums, carry = column_sums(a, b), carry_into(a, b)[:, column]
    suits, possible = torch.ones_like(carry), torch.ones_like(carry)
    if column < n:
        suits = (sums[:, column] == 9) == (condition == NINES)
    if condition == ARRIVES:
        suits &= sums[:, column - 1] == 9
    if condition != CONTROL:
        implied = implied_sum(a, b, column, ~carry)
        possible = (implied >= 2 * low) & (implied <= 2 * high)
    groups = [(suits & (carry == value)).nonzero().flatten() for value in (False, True)]
    kept = [group[possible[group]][: count // 2] for group in groups]
    passed = [group[group <= last[-1]] for group, last in zip(groups, kept) if len(last)]
    impossible = sum(int((~possible[group]).sum()) for group in passed)
    chosen = torch.cat(kept)
    base, sums, carry = torch.stack([a[chosen], b[chosen]]), sums[chosen], carry[chosen]

    # The donors: unseen problems at random, with the digits of the base in the agreeing columns.
    agreeing = [] if condition == "other digits" else [column]
    if condition == ARRIVES:
        agreeing.append(column - 1)
    generator = torch.Generator().manual_seed(seed)
    donor, found = base.clone(), torch.zeros_like(carry)
    for _ in range(TRIES):
        numbers = torch.randint(low, high + 1, base.shape[:2], generator=generator)
        tried = to_digits(numbers.flatten(), n).view(base.shape)  # [2, N, n]
        for k in agreeing:
            if k < n:
                tried[..., n - 1 - k] = base[..., n - 1 - k]
        differs = carry_into(*tried)[:, column] != carry
        good = ~found & (tried[..., 0] > 0).all(dim=0) & (differs == (condition != CONTROL))
        good &= find_unseen(*tried, seen)
        if condition == "other digits":
            new = column_sums(*tried)[:, column]
            good &= (new != 9) & (new != sums[:, column])
        donor[:, good] = tried[:, good]
        found |= good
        if found.all():
            break
    base, donor = base[:, found], donor[:, found]
    return Pairs(tuple(base), tuple(donor), carry_into(*donor)[:, column], impossible)


class Interchange:
    """Pairs for every condition in one column, and the model's runs on their two sides.

    The arguments are those of `draw_pairs`. `condition [N]` is the number of each pair's condition
    in `conditions`; `expected [N, T]` are the digits that the injected carry implies.

    Raises:
        ValueError: if there are no two pairs for the condition carry.
    """

    def __init__(self, model, pool, seen, column, count, batch_size=None):
        n, order = seen.size(1) // 2, model.training_info["order"]
        drawn = {
            condition: draw_pairs(pool, seen, column, condition, count, seed)
            for seed, condition in enumerate(conditions_of(column, n))
        }
        drawn = {condition: pairs for condition, pairs in drawn.items() if len(pairs.gain) > 1}
        if "carry" not in drawn:
            raise ValueError(f"no two unseen problems differ in the carry into column {column}")
        self.column, self.conditions = column, list(drawn)
        self.impossible = {condition: pairs.impossible for condition, pairs in drawn.items()}
        bases, donors, gains, _ = zip(*drawn.values())
        a, b = map(torch.cat, zip(*bases))
        sizes = torch.tensor([len(gain) for gain in gains])
        self.gain = torch.cat(gains)
        self.condition = torch.arange(len(sizes)).repeat_interleave(sizes)
        parts = PARTS if count >= 20 * PARTS else 2
        self.for_search = torch.cat([torch.arange(size) for size in sizes]) % parts == 0
        self.base = Examination(model, *encode(a, b, order), batch_size)
        donor = map(torch.cat, zip(*donors))
        self.donor = Examination(model, *encode(*donor, order), batch_size)
        expected = to_digits(implied_sum(a, b, column, self.gain), n + 1)
        self.expected = in_order(expected, order).to(self.base.target.device)

    def inject(self, sites, rows):
        """Put the donor's outputs at `sites` into the base, for the pairs `rows [N]`.

        Returns:
            exact `[N]`: the answer is exactly what the injected carry implies; in the control, the
            answer has changed. changed `[N, T]`: the digit differs from the undisturbed one.
            shift `[N]`: how far the logits of the implied digits rise over those of the base's.
        """
        answers = self.base.answer(sites, self.donor.outputs, rows, self.expected)
        expected, before = self.expected[rows], self.base.target[rows]
        exact = (answers.tokens == expected).all(dim=1)
        control = (expected == before).all(dim=1)
        rise = answers.logits - self.base.clean.logits[rows]
        shift = rise.gather(2, expected.unsqueeze(2)) - rise.gather(2, before.unsqueeze(2))
        changed = answers.tokens != self.base.clean.tokens[rows]
        return (exact ^ control).cpu(), changed.cpu(), shift.sum(dim=(1, 2)).cpu()

    def describe(self, sites, rows):
        """What `inject` does to each of the pairs `rows [N]`: a dict for each."""
        answers = self.base.answer(sites, self.donor.outputs, rows, self.expected).tokens
        order = self.base.model.training_info["order"]

        def problem(source):
            return " + ".join(str(to_numbers(number).item()) for number in decode_problems(source))

        def written(tokens):
            digits = in_order(tokens, order)[0].tolist()
            return "".join("?" if token > 9 else str(token) for token in digits)

        pairs = []
        for row, after in zip(rows.split(1), answers.split(1)):
            base, donor = self.base.source[row], self.donor.source[row]  # [1, S] each
            pair = {"base": problem(base), "donor": problem(donor)}
            pair |= {"before": written(self.base.clean.tokens[row]), "after": written(after)}
            pair |= {"implied": written(self.expected[row])}
            pair |= {"cascade_length": int(cascade_length(*decode_problems(base.cpu())))}
            pairs.append(pair)
        return pairs

    def follow_last_digit(self, rows):
        """In which of the pairs `rows [N]` a step follows the digit written last: bools `[N]`.

        No head is touched. The step of the column, units first, reads the donor's digit of the
        column to the right, and is to write the digit that the donor's carry implies.
        """
        given = self.base.target.clone()
        given[:, self.column - 1] = self.donor.target[:, self.column - 1]
        (logits,) = self.base.in_batches(
            lambda model, part: self.base.run(model, part, (), None, given[part])[:1], rows
        )
        written = logits[:, self.column].argmax(dim=-1)
        return (written == self.expected[rows, self.column]).cpu()

    def rows(self, *conditions, searching):
        """Indices `[N]` of the pairs of these conditions: those to search on, or to score on."""
        numbers = [self.conditions.index(name) for name in conditions if name in self.conditions]
        chosen = torch.isin(self.condition, torch.tensor(numbers))
        return (chosen & (self.for_search == searching)).nonzero().flatten()

    def scores(self, sites, searching):
        """A record for each condition of `inject`, on the pairs to search on or to score on.

        `exact` is a share of `n` pairs, with its Wilson interval; `carry_injected` and
        `carry_removed` are `[exact, n]`; `changed` is a share for each digit.
        """
        rows = self.rows(*self.conditions, searching=searching)
        exact, changed, shift = self.inject(sites, rows)
        records = {}
        for number, condition in enumerate(self.conditions):
            here, gain = self.condition[rows] == number, self.gain[rows]
            n, right = int(here.sum()), int(exact[here].sum())
            record = {"n": n, "exact": share(exact[here]), "interval": wilson_interval(right, n)}
            for name, group in (("carry_injected", here & gain), ("carry_removed", here & ~gain)):
                record[name] = [int(exact[group].sum()), int(group.sum())]
            shares = changed[here].float().mean(dim=0).tolist()
            record["changed"] = dict(zip(self.base.labels, shares))
            records[condition] = record | {"shift": shift[here].mean().item()}
        return records


def share(bools):
    """The share of True."""
    return bools.float().mean().item()


def all_sites(examination):
    """Every head and every feed-forward network at every position."""
    sizes = {block: map(range, value.shape[1:3]) for block, value in examination.outputs.items()}
    return [Site(block, *place) for block, size in sizes.items() for place in product(*size)]


def name_site(examination, site):
    """`heads.sites.site_record` of a site of the model examined."""
    order = examination.model.training_info["order"]
    return site_record(site, examination.source.size(1) // 2, order)


def measure_probes(examination):
    """How well a linear probe reads the carry into each column from each site: no cause is shown.

    A ridge classifier is fitted by least squares on one half of the problems, scored on the other.
    `majority` is the share of the commoner answer there.
    """
    carries = carry_into(*decode_problems(examination.source.cpu()))
    fitted = torch.arange(len(carries)) % 2 == 0
    common = carries[~fitted].float().mean(dim=0).tolist()
    records = []
    for site in all_sites(examination):
        x = examination.outputs[site.block][:, site.head, site.position].cpu().double()  # [N, D]
        spread = x[fitted].std(dim=0, correction=0).clamp_min(1e-6)
        x = (x - x[fitted].mean(dim=0)) / spread
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        gram = x[fitted].T @ x[fitted] + torch.eye(x.size(1), dtype=x.dtype)
        signs = 2 * carries[fitted].double() - 1
        weights = torch.linalg.solve(gram, x[fitted].T @ signs)  # [D + 1, n + 1]
        right = (x[~fitted] @ weights > 0) == carries[~fitted]
        accuracy = right.float().mean(dim=0).tolist()
        for column in range(1, carries.size(1)):
            scored = {"column": column, "accuracy": accuracy[column]}
            scored |= {"majority": max(common[column], 1 - common[column]), "n": len(right)}
            records.append(name_site(examination, site) | scored)
    return records


def measure_sites(interchange):
    """The `Interchange.scores` of every site alone, on the pairs to search on: a record each."""
    sites = all_sites(interchange.base)
    progress = Progress(f"sites, column {interchange.column}", len(sites))
    records = []
    for site in sites:
        record = name_site(interchange.base, site) | {"column": interchange.column}
        records.append(record | {"conditions": interchange.scores([site], searching=True)})
        progress.update(len(records))
    return records


def find_smallest_set(interchange, site_records, conditions):
    """A small set of sites of heads that holds the carry, by greedy search.

    The candidates are the sites that shift the answer most when alone. Sites are added until 95% of
    the answers, in each of `conditions`, are the implied ones, or adding does not help; then those
    are taken out again without which that share is as high. The control counts against a set.

    Args:
        interchange: the pairs.
        site_records: `measure_sites` of them.
        conditions: what the set is to carry, such as `("carry", "other digits")`.

    Returns:
        A record; its `conditions` are scored on the other pairs, and `search` is the lowest of the
        shares on the pairs searched on, after each addition.
    """
    conditions = [condition for condition in conditions if condition in interchange.conditions]
    alone = [
        (sum(record["conditions"][condition]["shift"] for condition in conditions), site)
        for record, site in zip(site_records, all_sites(interchange.base))
        if not site.block.endswith("ffn")
    ]
    ordered = sorted(alone, key=lambda pair: -pair[0])
    candidates = [site for _, site in ordered[:CANDIDATES]]
    rows = interchange.rows(*conditions, CONTROL, searching=True)
    groups = [torch.isin(rows, interchange.rows(name, searching=True)) for name in conditions]
    control = torch.isin(rows, interchange.rows(CONTROL, searching=True))

    def score(chosen):
        exact, _, shift = interchange.inject(chosen, rows)
        shares = [share(exact[group]) for group in groups]
        against = share(exact[control]) if control.any() else 0.0
        return sum(shares) / len(shares) - against, shift[~control].mean().item(), min(shares)

    chosen, search = [], []
    while len(chosen) < min(LARGEST_SET, len(candidates)) and (not search or search[-1] < ENOUGH):
        left = [site for site in candidates if site not in chosen]
        best, site = max((score([*chosen, site]), site) for site in left)
        chosen.append(site)
        search.append(best[2])
    chosen = chosen[: search.index(max(search)) + 1]
    for site in list(chosen):
        fewer = [other for other in chosen if other != site]
        if fewer and score(fewer)[2] >= min(ENOUGH, max(search)):
            chosen = fewer
    named = [name_site(interchange.base, site) for site in chosen]
    names = [record.pop("site") for record in named]
    scores = interchange.scores(chosen, searching=False)
    record = {"column": interchange.column, "searched_on": conditions, "sites": names}
    record |= {"site_fields": named, "conditions": scores}
    return record | {"impossible": interchange.impossible, "search": search}


def examine_set(interchange, record):
    """A control of a set of sites, from a record of `find_smallest_set`; an example, its failures.

    Returns:
        `random_sets`: the shares of answers as implied with as many other sites of heads, drawn at
        random. `example`: the first pair whose answer changes to the implied one, or None.
        `failures`: all pairs whose answer does not. A pair has the problems `base` and `donor` in
        words, the answers `before` and `after`, the `implied` one, and the base's `cascade_length`.
        `last_digit`, units first: the share of pairs that follow the digit written last where a
        carry arrives through a 9 (see `Interchange.follow_last_digit`).
    """
    heads = [site for site in all_sites(interchange.base) if not site.block.endswith("ffn")]
    names = [name_site(interchange.base, site)["site"] for site in heads]
    chosen = [heads[names.index(name)] for name in record["sites"]]
    rows = interchange.rows(record["searched_on"][0], searching=False)

    others = [site for site in heads if site not in chosen]
    generator, shares = torch.Generator().manual_seed(0), []
    for _ in range(RANDOM_SETS):
        drawn = torch.randperm(len(others), generator=generator)[: len(chosen)].tolist()
        exact, _, _ = interchange.inject([others[i] for i in drawn], rows[:RANDOM_PAIRS])
        shares.append(share(exact))

    pairs = interchange.describe(chosen, rows)
    right = [pair for pair in pairs if pair["after"] == pair["implied"]]
    wrong = [pair for pair in pairs if pair["after"] != pair["implied"]]
    found = {"random_sets": shares, "example": right[0] if right else None, "failures": wrong}
    arriving = interchange.rows(ARRIVES, searching=False)
    if interchange.base.model.training_info["order"] == ORDERS[1] and len(arriving):
        found["last_digit"] = share(interchange.follow_last_digit(arriving))
    return found
