"""What the page can ask of the models: from plain values to plain values.

What is wrong with a question is a UserError. Problems here are none of those in training.
Shapes in comments: N problems, n digits, T digits of the sum, H heads, D width of one head.
"""

from copy import deepcopy
from functools import lru_cache

from support.cli import UserError

import torch

from dataset import in_order, number_range, shift_right, to_digits, to_numbers
from heads.ablation import METHODS
from heads.carries import cascade_length
from heads.examination import Examination, encode, unseen_pairs
from heads.interchange import (
    CONDITIONS,
    CONTROL,
    NINES,
    all_sites,
    carry_into,
    conditions_of,
    draw_pairs,
    implied_sum,
)
from heads.sites import ablated, all_heads, axis_labels, recorded, site_record, source_labels

COUNTED = 1000
FOUND = ("column", "searched_on", "sites")
OFFERED = ("carry", CONTROL, "other digits", NINES)


class Subject:
    """A model, and what is needed to ask about it.

    Args:
        model: the model, in evaluation mode, on the CPU.
        training: source tokens of its training problems.
        found: sets of sites that hold a carry, dicts with the keys `FOUND`.
    """

    def __init__(self, model, training, found):
        self.model, self.training, self.found = model, training, found
        self.n, self.order = model.training_info["num_digits"], model.training_info["order"]
        self.a, self.b = (digits[:COUNTED] for digits in unseen_pairs(training))  # [N, n]
        self.long = cascade_length(self.a, self.b) > 0
        # A copy: an intervention changes the model, and counting must not hold up the answers.
        self.unseen = Examination(deepcopy(model), *encode(self.a, self.b, self.order))
        outputs = self.unseen.outputs.items()
        self.means = {block: value.mean(dim=0, keepdim=True) for block, value in outputs}
        self.heads = {site.name(): site for site in all_heads(model)}
        sites = all_sites(self.unseen)
        self.sites = {site_record(site, self.n, self.order)["site"]: site for site in sites}
        self.labels = self.unseen.labels

    def examine(self, a, b):
        """The `Examination` of one problem, and its digits `a [1, n]`, `b [1, n]`.

        Raises:
            UserError: unless `a` and `b` are numbers that the model was trained to add.
        """
        for number in (a, b):
            check_number("a number to add", number, *number_range(self.n))
        digits = to_digits(torch.tensor([a, b]), self.n).split(1)
        return Examination(self.model, *encode(*digits, self.order)), digits

    def show(self, tokens, right, logits=None):
        """The digits `tokens [T]` beside those that are `right [T]`: a list of dicts.

        With `logits [T, vocab_size]`, each has the probabilities of all ten digits as well.
        """
        shown = [
            {"label": label, "digit": show(token), "right": show(good)}
            for label, token, good in zip(self.labels, tokens.tolist(), right.tolist())
        ]
        if logits is not None:
            rows = plain(logits.softmax(dim=-1), 6)
            for digit, row, token in zip(shown, rows, tokens.tolist()):
                digit |= {"probability": row[token], "probabilities": row[:10]}
        return shown


class Answers:
    """The questions about the models `subjects`, `{name: Subject}`."""

    def __init__(self, subjects):
        self.subjects = subjects
        self.count = lru_cache(maxsize=1024)(self._count)

    def groups(self):
        """The questions by what they work on (see `support.server.Server`)."""
        shown = {"models": self.models, "solve": self.solve}
        return [shown | {"donors": self.donors, "move": self.move}, {"accuracy": self.accuracy}]

    def models(self):
        """The models, with heads and sites in the order of their work, and what can be asked."""
        models = {
            name: {
                "num_digits": subject.n,
                "heads": list(subject.heads),
                "sites": list(subject.sites),
                "positions": {"encoder": list(source_labels(subject.n)), "decoder": subject.labels},
                "found": subject.found,
            }
            for name, subject in self.subjects.items()
        }
        return {"methods": METHODS, "models": models}

    @torch.no_grad()
    def solve(self, model, a, b, off, by):
        """The answer to a + b without the heads `off`, and the attention of every head.

        `by` is the method of ablation. To resample, the heads' outputs in another problem are
        taken: any other one, but always the same one.
        """
        subject = self.find(model)
        sites, (problem, digits) = check_off(subject, off, by), subject.examine(a, b)
        outputs, other = {"zero": None, "mean": subject.means}.get(by), None
        if by == "resample":
            number = (a + b) % len(subject.a)
            same = subject.a[number].equal(digits[0][0]) and subject.b[number].equal(digits[1][0])
            number = (number + same) % len(subject.a)
            rows = slice(number, number + 1)
            outputs = {block: value[rows] for block, value in subject.unseen.outputs.items()}
            other = [int(to_numbers(each[rows])) for each in (subject.a, subject.b)]
        tokens = problem.answer(sites, outputs).tokens  # [1, T]
        with recorded(subject.model) as kept, ablated(subject.model, sites, outputs):
            logits = subject.model(problem.source, shift_right(tokens))
        maps = []
        for block, (weights,) in kept.items():
            queries, keys = map(list, axis_labels(block, subject.n, subject.order))
            maps += [
                {"head": f"{block}.{head}", "queries": queries, "keys": keys, "weights": each}
                for head, each in enumerate(plain(weights[0], 4))
            ]
        return {
            "source": [*str(a), "+", *str(b)],
            "source_labels": list(source_labels(subject.n)),
            "digits": subject.show(tokens[0], problem.target[0], logits[0]),
            "intact": [show(token) for token in problem.clean.tokens[0].tolist()],
            "resampled_from": other,
            "maps": maps,
        }

    def accuracy(self, model, off, by):
        """How many unseen problems are right without the heads `off`, and with all heads.

        In the `long` ones a carry is handed on through a column that sums to 9.
        """
        check_off(self.find(model), off, by)
        return {
            "without": self.count(model, frozenset(off), by),
            "intact": self.count(model, frozenset(), "zero"),
        }

    def _count(self, model, off, by):
        subject = self.subjects[model]
        sites, outputs = [subject.heads[head] for head in off], subject.means
        if by == "resample":  # from the problem before it, in a random order
            blocks = {site.block for site in sites}
            outputs = {block: subject.unseen.outputs[block].roll(1, dims=0) for block in blocks}
        right = subject.unseen.matches(sites, None if by == "zero" else outputs)
        groups = {"all": torch.ones_like(right), "short": ~subject.long, "long": subject.long}
        return {
            name: {"n": int(group.sum()), "right": int(right[group].sum())}
            for name, group in groups.items()
        }

    def donors(self, model, a, b, column, number):
        """Unseen problems to take the carry into a column of a + b from, one a condition.

        Returns:
            `{condition: {"a": ..., "b": ..., "words": ...}}`, without conditions that have no such
            problem. Other numbers `number` draw other problems.
        """
        subject = self.find(model)
        check_number("the column that the carry enters", column, 1, subject.n)
        _, digits = subject.examine(a, b)
        check_number("the number of the donor", number, 0, 10**6)
        donors = {}
        for condition in conditions_of(column, subject.n):
            if condition not in OFFERED:
                continue
            drawn = draw_pairs(digits, subject.training, column, condition, 2, seed=number)
            if len(drawn.gain):
                pair = {name: int(to_numbers(each)) for name, each in zip("ab", drawn.donor)}
                donors[condition] = pair | {"words": CONDITIONS[condition]}
        return donors

    @torch.no_grad()
    def move(self, model, a, b, donor_a, donor_b, column, sites):
        """The answer to a + b with the outputs at `sites` put in from the donor problem.

        Beside it stands the answer that the donor's carry into the column implies.
        """
        subject = self.find(model)
        check_number("the column that the carry enters", column, 1, subject.n)
        (base, digits), (donor, others) = subject.examine(a, b), subject.examine(donor_a, donor_b)
        chosen = [subject.sites[name] for name in check_names("site", sites, subject.sites)]
        carries = [carry_into(*each)[:, column] for each in (digits, others)]  # [1] each
        total = implied_sum(*digits, column, carries[1])
        implied = in_order(to_digits(total, subject.n + 1), subject.order)[0]  # [T]
        before, moved = base.clean.tokens[0], base.answer(chosen, donor.outputs).tokens[0]
        return {
            "carry": bool(carries[0]),
            "donor_carry": bool(carries[1]),
            "as_implied": moved.equal(implied),
            "before": subject.show(before, base.target[0]),
            "moved": subject.show(moved, implied),
            "implied": subject.show(implied, implied),
        }

    def find(self, model):
        """The subject of that name."""
        check_choice("model", model, self.subjects)
        return self.subjects[model]


def check_off(subject, off, by):
    """The sites of the heads `off`; UserError unless there are such heads and such a method."""
    check_choice("method", by, METHODS)
    return [subject.heads[name] for name in check_names("head", off, subject.heads)]


def check_number(what, value, low, high):
    """UserError unless `value` is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        text = f"a whole number from {low:,} to {high:,}"
        raise UserError(f"{what} must be {text}, not {short(value)}")


def check_choice(what, value, choices):
    """UserError unless `value` is one of the names `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"no {what} is called {short(value)}: choose from {', '.join(choices)}")


def check_names(what, names, known):
    """The list `names`; UserError unless it is one of `known` names, each of them once."""
    if not isinstance(names, list):
        raise UserError(f"the {what}s must be a list of names, not {short(names)}")
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise UserError(f"no {what} is called {short(name)}: one is {next(iter(known))}")
    if len(set(names)) < len(names):
        raise UserError(f"a {what} is named twice")
    return names


def short(value):
    """A value of a question, as an error shows it."""
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def show(token):
    """A digit, or `?` for a token that is none."""
    return str(token) if token < 10 else "?"


def plain(tensor, decimals):
    """A tensor as lists of numbers with so many decimals."""
    return tensor.double().round(decimals=decimals).tolist()
