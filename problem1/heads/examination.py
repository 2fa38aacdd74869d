"""A model examined on a fixed set of problems: what it answers as it is, and with outputs inside it replaced.

Shapes in comments: N problems, T digits of the sum, S source tokens, n digits of a number; K measures.
"""

from typing import NamedTuple

import torch

from dataset import number_range, numbers_of, shift_right
from heads.sites import ablated, recorded_outputs
from learning.carries import carry_pattern, cascade_length
from learning.exhaustive import MOST_PAIRS, all_pairs, count_pairs, pair_index

BOOTSTRAP = 1000


class Answers(NamedTuple):
    """What a model answered.

    tokens: `[N, T]`, decoded greedily and free-running.
    right: `[N, T]`, whether each token is right.
    logits: `[N, T, vocab_size]`, with teacher forcing.
    margin: `[N, T]`, of those logits: that of the right token minus the highest of the others.
    """

    tokens: torch.Tensor
    right: torch.Tensor
    logits: torch.Tensor
    margin: torch.Tensor

    @property
    def matches(self):
        """Whether every digit is right, `[N]`."""
        return self.right.all(dim=1)


class Examination:
    """A model, a set of problems, and the outputs inside the undisturbed model.

    Args:
        model: the model, in evaluation mode.
        source, target: tokens of the problems, `[N, S]` and `[N, T]`, as in the data files.
        batch_size: problems in one pass.

    `source` and `target` are those tokens, the target in the order in which the model writes, as all its answers are;
    `outputs`, `{block: [N, H, T, D]}`, are those of the undisturbed model with teacher forcing;
    `clean` are its `Answers`.
    """

    def __init__(self, model, source, target, batch_size=512):
        device = next(model.parameters()).device
        self.model, self.batch_size = model, batch_size
        self.source, self.target = source.to(device), model.written(target.to(device))
        outputs, self.memory = {}, []
        with recorded_outputs(model) as kept, torch.no_grad():
            for rows in self.rows().split(batch_size):
                self.memory.append(model.encode(self.source[rows]))
                model.decode(shift_right(self.target[rows]), self.memory[-1])
        self.memory = torch.cat(self.memory)
        self.outputs = {block: torch.cat(parts) for block, parts in kept.items()}
        self.clean = self.answer()

    def rows(self):
        return torch.arange(len(self.source), device=self.source.device)

    @torch.no_grad()
    def logits(self, rows, tokens, sites=(), outputs=None):
        """Logits `[B, T, vocab_size]` of the problems `rows [B]` after the tokens `[B, T]`, with outputs replaced."""
        if not len(rows):
            return torch.zeros(0, self.target.size(1), self.model.config.vocab_size, device=self.target.device)
        if outputs is not None:
            outputs = {site.block: outputs[site.block] for site in sites}
        in_encoder = any(site.block.startswith("encoder") for site in sites)
        parts = []
        for part, before in zip(rows.split(self.batch_size), tokens.split(self.batch_size)):
            here = outputs and {block: value if len(value) == 1 else value[part] for block, value in outputs.items()}
            with ablated(self.model, sites, here):
                memory = self.model.encode(self.source[part]) if in_encoder else self.memory[part]
                parts.append(self.model.output_projection(self.model.decode(shift_right(before), memory)))
        return torch.cat(parts)

    def matches(self, sites=(), outputs=None):
        """Whether every digit of each answer is right, `[N]`, with outputs replaced.

        One pass with teacher forcing decides it: if every digit is right after a right prefix, decoding takes that very
            path.
        """
        return (self.logits(self.rows(), self.target, sites, outputs).argmax(dim=-1) == self.target).all(dim=1)

    def answer(self, sites=(), outputs=None, rows=None):
        """The model's `Answers` to the problems `rows` (None: all), with the outputs at `sites` replaced by `outputs`,
        or by zeros (see `ablated`).

        Decoding is greedy and free-running, but all positions of a pass at once: the first pass reads the right digits,
        the next what the pass before it said, and so on (Jacobi decoding: Santilli et al. 2023, arXiv:2305.10427). A
        causal decoder's pass number t fixes digit t whatever the first guess was, so T passes give just what decoding
        digit by digit gives, and a problem whose answer no longer changes has it sooner.
        """
        rows = self.rows() if rows is None else rows.to(self.source.device)
        target = self.target[rows]
        forced = self.logits(rows, target, sites, outputs)
        tokens = forced.argmax(dim=-1)
        pending = (tokens != target).any(dim=1).nonzero().flatten()
        for _ in range(target.size(1) - 1):
            said = self.logits(rows[pending], tokens[pending], sites, outputs).argmax(dim=-1)
            unsettled = (said != tokens[pending]).any(dim=1)
            tokens[pending] = said
            pending = pending[unsettled]
        return Answers(tokens, tokens == target, forced, margins(forced, target))


def margins(logits, target):
    """Logit of the right token minus the highest of the others, `[B, T]`, for logits `[B, T, vocab_size]`."""
    right = logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return right - logits.scatter(-1, target.unsqueeze(-1), float("-inf")).amax(dim=-1)


class Bootstrap:
    """Percentile bootstrap over problems (Efron 1979): 95% intervals of means, the same resamples for every measure.

    A difference between two models on the same problems is paired by giving the differences problem by problem. An
    interval of no width says only that no problem of the set made a difference.
    """

    def __init__(self, n, seed=0, resamples=BOOTSTRAP):
        self.seed, generator = seed, torch.Generator().manual_seed(seed)
        drawn = torch.randint(n, (resamples, n), generator=generator)
        self.counts = torch.zeros(resamples, n).scatter_add_(1, drawn, torch.ones(resamples, n))

    def interval(self, values, mask=None):
        """Interval `[2]` of the mean of `values [N, R]`, R draws of each problem, over the problems of `mask [N]` alone
        if given. Draws are resampled as problems are, so that the interval holds the chance of both."""
        counts = self.counts if mask is None else self.counts[:, mask]
        values = values if mask is None else values[mask]
        means = counts @ values.float() / counts.sum(dim=1, keepdim=True).clamp(min=1)
        draws = torch.randint(means.size(1), means.shape, generator=torch.Generator().manual_seed(self.seed))
        return torch.quantile(means.gather(1, draws).mean(dim=1), torch.tensor([0.025, 0.975]))


def summary(bootstrap, values, mask=None):
    """`{"mean": ..., "interval": [low, high]}` of `values`, `[N]`, or `[N, R]` if each problem was drawn R times, over
    the problems of `mask [N]` alone if given."""
    interval = bootstrap.interval(values if values.dim() == 2 else values.unsqueeze(1), mask).tolist()
    return {"mean": (values if mask is None else values[mask]).float().mean().item(), "interval": interval}


def unseen_pairs(num_digits, excluded_sources, seed):
    """Pairs of numbers that are not among the problems `excluded_sources [M, S]`, in random order: `a [N]`, `b [N]`.

    All there are; of numbers of more than three digits, a million drawn at random.
    """
    low, high = number_range(num_digits)
    generator = torch.Generator().manual_seed(seed)
    if count_pairs(num_digits) <= MOST_PAIRS:
        a, b = all_pairs(num_digits, 0, count_pairs(num_digits))
        order = torch.randperm(len(a), generator=generator)
        a, b = a[order], b[order]
    else:
        a, b = torch.randint(low, high + 1, (2, MOST_PAIRS), generator=generator)
    unseen = ~torch.isin(pair_index(a, b, num_digits),
                         pair_index(*numbers_of(excluded_sources, num_digits), num_digits))
    return a[unseen], b[unseen]


def stratify(a, b, num_digits, total, seed=0):
    """Indices of about `total` of the problems `a [N]`, `b [N]`, never more: equally many, the first ones, of every
    combination of carry pattern and cascade length that is there; if there are more combinations than that, one of
    some."""
    strata = carry_pattern(a, b, num_digits) * (num_digits + 1) + cascade_length(a, b, num_digits)
    present = strata.unique()
    per_stratum = max(1, total // len(present))
    chosen = present[torch.randperm(len(present), generator=torch.Generator().manual_seed(seed))[:total]].sort().values
    return torch.cat([(strata == stratum).nonzero().flatten()[:per_stratum] for stratum in chosen.tolist()])
