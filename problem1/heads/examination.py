"""A model examined on fixed sets of problems: what it answers as it is, and with outputs replaced.

Shapes in comments: N problems, T digits of the sum, S source tokens, n digits of a number, H heads,
D width of one head. Targets and answers are in the order in which the model writes.
"""

from typing import NamedTuple

from support.cli import UserError

import torch

from attention import create_causal_mask
from dataset import encode_problems, in_order, number_range, shift_right, to_digits
from heads import batches
from heads.carries import carry_pattern, cascade_length
from heads.exhaustive import MOST_PAIRS, all_pairs, count_pairs, find_unseen
from heads.sites import ablated, recorded_outputs, target_labels
from model import Seq2SeqTransformer

STRATIFIED = 480
RESAMPLES = 1000


class Sets(NamedTuple):
    """Sets of problems, each `(source, target)`, except for the last two.

    test: the test problems, none of which is in the training file. choosing, reporting: their two
    halves.
    stratified: equally many problems of every combination of carry pattern and cascade length that
    training never shows, digits exchanged or not. Heads are ranked on these, because long cascades
    are rare among all problems.
    pool: digits `(a, b)` of all other such problems, in random order.
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
    """Digits `a [N, n]`, `b [N, n]` of the problems that training on `excluded [M, S]` never shows.

    All there are, shuffled; of numbers of more than three digits, a million drawn at random.
    """
    n = excluded.size(1) // 2
    generator = torch.Generator().manual_seed(0)
    if count_pairs(n) <= MOST_PAIRS:
        a, b = all_pairs(n)
        shuffled = torch.randperm(len(a), generator=generator)
        a, b = a[shuffled], b[shuffled]
    else:
        low, high = number_range(n)
        drawn = torch.randint(low, high + 1, (2, MOST_PAIRS), generator=generator)
        a, b = (to_digits(numbers, n) for numbers in drawn)
    unseen = find_unseen(a, b, excluded)
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
    """A model, in evaluation mode, and a set of problems.

    The undisturbed model is run once, with teacher forcing. What is in front of the first layer
    that an intervention changes is taken from that run.

    Args:
        model: the model.
        source, target: tokens of the problems, `[N, S]` and `[N, T]`.
        batch_size: problems in one pass; None: as `heads.batches` says.

    Attributes:
        labels: of the target's positions.
        outputs: `{block: [N, H, T, D]}` of the undisturbed model.
        clean: the undisturbed model's `Answers`.

    Raises:
        UserError: if the model does more than to run its layers one after the other.
    """

    def __init__(self, model, source, target, batch_size=None):
        if getattr(type(model), "encode", Seq2SeqTransformer.encode) != Seq2SeqTransformer.encode:
            raise UserError(
                f"the layers of a {type(model).__name__} cannot be run one by one, so its "
                "heads are not examined: take a model with sinusoidal positions"
            )
        device = next(model.parameters()).device
        self.models, self.batch_size = batches.copies(model), batch_size
        self.source, self.target = source.to(device), target.to(device)
        self.labels = list(target_labels(source.size(1) // 2, model.training_info["order"]))
        inputs, mask = {}, create_causal_mask(target.size(1), device)

        def keep(stack, layer, x):
            inputs.setdefault((stack, layer), []).append(x)

        with recorded_outputs(model) as kept, torch.no_grad():
            for rows in self.rows().split(batch_size or batches.batch_size(device)):
                x = model.embed(self.source[rows])  # [B, S, d_model]
                for number, layer in enumerate(model.encoder_layers):
                    keep("encoder", number, x)
                    x = layer(x)
                keep("encoder", len(model.encoder_layers), x)
                memory = model.encoder_norm(x)
                x = model.embed(shift_right(self.target[rows]))  # [B, T, d_model]
                for number, layer in enumerate(model.decoder_layers):
                    keep("decoder", number, x)
                    x = layer(x, memory, None, mask)
                keep("decoder", len(model.decoder_layers), x)
        self.inputs = {place: torch.cat(parts) for place, parts in inputs.items()}
        self.outputs = {block: torch.cat(parts) for block, parts in kept.items()}
        self.clean = self.answer()

    @property
    def model(self):
        """The model examined."""
        return self.models[0]

    def rows(self):
        """The indices of all problems, `[N]`."""
        return torch.arange(len(self.source), device=self.source.device)

    def run(self, model, rows, sites, outputs, tokens=None, memory=None):
        """Logits `[B, T, vocab_size]` of the problems `rows [B]`, and the encoder's output.

        The outputs at `sites` are replaced by `outputs`, or by zeros (see `heads.sites.ablated`).
        The decoder reads `tokens [B, T]`, by default the right digits. `memory` is the encoder's
        output if an earlier run with the same sites has it.
        """
        starts = {}  # in each stack the layer before which nothing is changed
        for stack, layers in (("encoder", model.encoder_layers), ("decoder", model.decoder_layers)):
            places = [site.block.split(".") for site in sites]
            changed = [int(layer) for name, layer, _ in places if name == stack]
            starts[stack] = min(changed, default=len(layers))
        first = starts["encoder"]
        if tokens is not None or first < len(model.encoder_layers):
            starts["decoder"] = 0
        here = outputs and {
            site.block: value if len(value) == 1 else value[rows]
            for site in sites
            for value in [outputs[site.block]]
        }
        with ablated(model, sites, here):
            if memory is None:
                x = self.inputs["encoder", first][rows]  # [B, S, d_model]
                for layer in model.encoder_layers[first:]:
                    x = layer(x)
                memory = model.encoder_norm(x)
            first = starts["decoder"]
            if tokens is None:
                x = self.inputs["decoder", first][rows]  # [B, T, d_model]
            else:
                x = model.embed(shift_right(tokens))
            mask = create_causal_mask(x.size(1), x.device)
            for layer in model.decoder_layers[first:]:
                x = layer(x, memory, None, mask)
            return model.output_projection(model.decoder_norm(x)), memory

    def in_batches(self, function, rows):
        """The results of `function(model, part)` for the parts of `rows`, joined: a tuple."""
        parts = batches.split(rows, self.batch_size)
        results = list(batches.in_batches(function, self.models, parts))
        return tuple(map(torch.cat, zip(*results)))

    def logits(self, sites=(), outputs=None):
        """Logits `[N, T, vocab_size]` with teacher forcing and with outputs replaced."""
        return self.in_batches(
            lambda model, rows: self.run(model, rows, sites, outputs)[:1], self.rows()
        )[0]

    def matches(self, sites=(), outputs=None):
        """Whether every digit of each answer is right, `[N]`, with outputs replaced.

        One pass with teacher forcing decides it (see `heads.exhaustive.find_wrong`).
        """
        return (self.logits(sites, outputs).argmax(dim=-1) == self.target).all(dim=1)

    def answer(self, sites=(), outputs=None, rows=None, guess=None):
        """The model's `Answers` to the problems `rows` (None: all), with outputs replaced.

        All positions of a pass are decoded at once: the first pass reads the right digits, each
        later pass those of the pass before it (Jacobi decoding: Santilli et al. 2023,
        arXiv:2305.10427). A causal decoder's pass number t fixes digit t, so T passes give what
        decoding digit by digit gives. An answer that no longer changes is ready earlier. A `guess
        [N, T]` of all answers is read by the second pass: if it is good, there is no third.
        """

        def answer(model, rows):
            target = self.target[rows]
            forced, memory = self.run(model, rows, sites, outputs)
            tokens = forced.argmax(dim=-1)
            pending = (tokens != target).any(dim=1).nonzero().flatten()
            read = tokens[pending] if guess is None else guess[rows[pending]]
            for _ in range(target.size(1) - (guess is None)):
                if not len(pending):
                    break
                said, _ = self.run(model, rows[pending], sites, outputs, read, memory[pending])
                said = said.argmax(dim=-1)
                unsettled = (said != read).any(dim=1)
                tokens[pending] = said
                pending, read = pending[unsettled], said[unsettled]
            return tokens, tokens == target, forced, margins(forced, target)

        rows = self.rows() if rows is None else rows.to(self.source.device)
        return Answers(*self.in_batches(answer, rows))


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

    def summary(self, values):
        """`{"mean": ..., "interval": [low, high]}` of `values [N]` or `[N, R]`, R draws a problem.

        Draws are resampled as problems are, so that the interval holds the chance of both.
        """
        (summary,) = self.by_class(values, torch.ones(len(values), 1))
        return summary

    def by_class(self, values, classes):
        """A `summary` of the values in each class: `classes [N, C]` has 1 for its problems."""
        values = values.float().view(len(values), 1, -1)  # [N, 1, R]
        sizes = self.counts @ classes  # [resamples, C]
        sums = self.counts @ (values * classes.unsqueeze(2)).flatten(1)
        means = sums.view(*sizes.shape, -1) / sizes.clamp(min=1).unsqueeze(2)  # [resamples, C, R]
        generator = torch.Generator().manual_seed(0)
        draws = torch.randint(means.size(2), (RESAMPLES, means.size(2)), generator=generator)
        means = means.gather(2, draws.unsqueeze(1).expand_as(means)).mean(dim=2)
        intervals = torch.quantile(means, torch.tensor([0.025, 0.975]), dim=0).T.tolist()
        whole = (values.mean(dim=2) * classes).sum(dim=0) / classes.sum(dim=0)
        return [
            {"mean": mean, "interval": interval}
            for mean, interval in zip(whole.tolist(), intervals)
        ]
