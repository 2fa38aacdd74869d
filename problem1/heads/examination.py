"""A model examined on fixed sets of problems: what it answers as it is, and with outputs replaced.

Shapes in comments: N problems, T digits of the sum, S source tokens, n digits of a number, H heads,
D width of one head. Targets and answers are in the order in which the model writes.
"""

from typing import NamedTuple

import torch

from dataset import decode_problems, encode_problems, in_order, number_range, shift_right, to_digits
from heads.carries import carry_pattern, cascade_length
from heads.exhaustive import MOST_PAIRS, all_pairs, count_pairs, pair_index
from heads.sites import ablated, recorded_outputs, target_labels

STRATIFIED = 480
RESAMPLES = 1000


class Sets(NamedTuple):
    """Problems never seen in training, each set `(source, target)`, except for the last two.

    test: the test problems. choosing, reporting: their two halves.
    stratified: equally many other problems of every combination of carry pattern and cascade
    length. Heads are ranked on these, because long cascades are rare among all problems.
    pool: digits `(a, b)` of all other problems, in random order.
    training: source tokens of the training problems.
    """

    test: tuple
    choosing: tuple
    reporting: tuple
    stratified: tuple
    pool: tuple
    training: torch.Tensor


def choose_problems(train, test, order, num_samples=None):
    """The `Sets` for datasets of training and test problems in this order of writing.

    `num_samples` limits the test problems and the stratified ones.
    """
    a, b = unseen_pairs(torch.cat([train.inputs, test.inputs]))
    chosen = stratify(a, b, min(STRATIFIED, num_samples or STRATIFIED))
    rest = torch.ones(len(a), dtype=torch.bool)
    rest[chosen] = False
    kept = test.inputs[:num_samples], test.targets[:num_samples]
    halves = (tuple(tokens[half::2] for tokens in kept) for half in (0, 1))
    stratified = encode(a[chosen], b[chosen], order)
    return Sets(kept, *halves, stratified, (a[rest], b[rest]), train.inputs)


def encode(a, b, order):
    """Source and target of digits `a [N, n]`, `b [N, n]`, the target in the order of writing."""
    source, target = encode_problems(a, b)
    return source, in_order(target, order)


def unseen_pairs(excluded):
    """Digits `a [N, n]`, `b [N, n]` of the problems that are not in `excluded [M, S]`, shuffled.

    All there are; of numbers of more than three digits, a million drawn at random.
    """
    n = excluded.size(1) // 2
    generator = torch.Generator().manual_seed(0)
    if count_pairs(n) <= MOST_PAIRS:
        a, b = all_pairs(n, 0, count_pairs(n))
        shuffled = torch.randperm(len(a), generator=generator)
        a, b = a[shuffled], b[shuffled]
    else:
        low, high = number_range(n)
        drawn = torch.randint(low, high + 1, (2, MOST_PAIRS), generator=generator)
        a, b = (to_digits(numbers, n) for numbers in drawn)
    unseen = ~torch.isin(pair_index(a, b), pair_index(*decode_problems(excluded)))
    return a[unseen], b[unseen]


def stratify(a, b, total):
    """Indices of about `total` of the problems `a [N, n]`, `b [N, n]`, never more.

    Equally many, the first ones, of every combination of carry pattern and cascade length that is
    there. If there are more combinations than `total`, one problem of some of them.
    """
    strata = carry_pattern(a, b) * (a.size(1) + 1) + cascade_length(a, b)
    present = strata.unique()
    order = torch.randperm(len(present), generator=torch.Generator().manual_seed(0))
    each = max(1, total // len(present))
    chosen = present[order[:total]].sort().values.tolist()
    return torch.cat([(strata == stratum).nonzero().flatten()[:each] for stratum in chosen])


class Answers(NamedTuple):
    """What a model answered."""

    tokens: torch.Tensor  # [N, T], decoded greedily and free-running
    right: torch.Tensor  # [N, T], whether each token is right
    logits: torch.Tensor  # [N, T, vocab_size], with teacher forcing
    margin: torch.Tensor  # [N, T], of these logits, see `margins`

    @property
    def matches(self):
        """Whether every digit is right, `[N]`."""
        return self.right.all(dim=1)


class Examination:
    """A model, in evaluation mode, and a set of problems, `batch_size` of them in one pass.

    Attributes:
        source, target: tokens of the problems, `[N, S]` and `[N, T]`.
        labels: of the target's positions.
        outputs: `{block: [N, H, T, D]}` of the undisturbed model, with teacher forcing.
        clean: the undisturbed model's `Answers`.
    """

    def __init__(self, model, source, target, batch_size=512):
        device = next(model.parameters()).device
        self.model, self.batch_size = model, batch_size
        self.source, self.target = source.to(device), target.to(device)
        self.labels = list(target_labels(source.size(1) // 2, model.training_info["order"]))
        memory = []
        with recorded_outputs(model) as kept, torch.no_grad():
            for rows in self.rows().split(batch_size):
                memory.append(model.encode(self.source[rows]))
                model.decode(shift_right(self.target[rows]), memory[-1])
        self.memory = torch.cat(memory)  # [N, S, d_model]
        self.outputs = {block: torch.cat(parts) for block, parts in kept.items()}
        self.clean = self.answer()

    def rows(self):
        """The indices of all problems, `[N]`."""
        return torch.arange(len(self.source), device=self.source.device)

    @torch.no_grad()
    def logits(self, rows, tokens, sites=(), outputs=None):
        """Logits `[B, T, vocab_size]` of the problems `rows [B]` after the tokens `[B, T]`.

        The outputs at `sites` are replaced by `outputs`, or by zeros (see `heads.sites.ablated`).
        """
        outputs = outputs and {site.block: outputs[site.block] for site in sites}
        in_encoder = any(site.block.startswith("encoder") for site in sites)
        parts = []
        for part, before in zip(rows.split(self.batch_size), tokens.split(self.batch_size)):
            here = outputs and {
                block: value if len(value) == 1 else value[part] for block, value in outputs.items()
            }
            with ablated(self.model, sites, here):
                encode = self.model.encode
                memory = encode(self.source[part]) if in_encoder else self.memory[part]
                hidden = self.model.decode(shift_right(before), memory)  # [B, T, d_model]
                parts.append(self.model.output_projection(hidden))
        return torch.cat(parts)

    def matches(self, sites=(), outputs=None):
        """Whether every digit of each answer is right, `[N]`, with outputs replaced.

        One pass with teacher forcing decides it (see `heads.exhaustive.check_all_pairs`).
        """
        predicted = self.logits(self.rows(), self.target, sites, outputs).argmax(dim=-1)
        return (predicted == self.target).all(dim=1)

    def answer(self, sites=(), outputs=None, rows=None):
        """The model's `Answers` to the problems `rows` (None: all), with outputs replaced.

        All positions of a pass are decoded at once: the first pass reads the right digits, each
        later pass those of the pass before it (Jacobi decoding: Santilli et al. 2023,
        arXiv:2305.10427). A causal decoder's pass number t fixes digit t, so T passes give what
        decoding digit by digit gives. An answer that no longer changes is ready earlier.
        """
        rows = self.rows() if rows is None else rows.to(self.source.device)
        target = self.target[rows]
        forced = self.logits(rows, target, sites, outputs)
        tokens = forced.argmax(dim=-1)
        pending = (tokens != target).any(dim=1).nonzero().flatten()
        for _ in range(target.size(1) - 1):
            if not len(pending):
                break
            said = self.logits(rows[pending], tokens[pending], sites, outputs).argmax(dim=-1)
            unsettled = (said != tokens[pending]).any(dim=1)
            tokens[pending] = said
            pending = pending[unsettled]
        return Answers(tokens, tokens == target, forced, margins(forced, target))


def margins(logits, target):
    """Logit of the right token minus the highest other: `[N, T, vocab_size]` -> `[N, T]`."""
    index = target.unsqueeze(-1)  # [N, T, 1]
    others = logits.scatter(-1, index, float("-inf")).amax(dim=-1)
    return logits.gather(-1, index).squeeze(-1) - others


class Bootstrap:
    """Percentile bootstrap over n problems (Efron 1979): 95% intervals of means.

    The resamples are the same for every measure. A difference between two models on the same
    problems is paired if the differences are given problem by problem. An interval of no width says
    only that no problem of the set made a difference.
    """

    def __init__(self, n):
        drawn = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(0))
        ones = torch.ones(RESAMPLES, n)
        self.counts = torch.zeros(RESAMPLES, n).scatter_add_(1, drawn, ones)  # [resamples, n]

    def summary(self, values, mask=None):
        """`{"mean": ..., "interval": [low, high]}` of `values [N]` or `[N, R]`, R draws a problem.

        Over the problems of `mask [N]` alone if given. Draws are resampled as problems are, so that
        the interval holds the chance of both.
        """
        counts = self.counts if mask is None else self.counts[:, mask]
        values = values.float() if mask is None else values[mask].float()
        values = values.unsqueeze(1) if values.dim() == 1 else values
        means = counts @ values / counts.sum(dim=1, keepdim=True).clamp(min=1)
        generator = torch.Generator().manual_seed(0)
        draws = torch.randint(means.size(1), means.shape, generator=generator)
        means = means.gather(1, draws).mean(dim=1)  # [resamples]
        interval = torch.quantile(means, torch.tensor([0.025, 0.975])).tolist()
        return {"mean": values.mean().item(), "interval": interval}
