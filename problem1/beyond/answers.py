"""All that the page can ask of the models: from plain values to plain values; what is wrong with a question is a
UserError.

Shapes in comments: N problems, H heads, T digits of the sum (or queries), S keys, D width of one head.
"""

from copy import deepcopy
from functools import lru_cache

import torch

from dataset import digits_of, encode_problems, number_range, shift_right
from heads.ablation import METHODS
from heads.examination import Examination, unseen_pairs
from heads.interchange import (CONDITIONS, all_sites, carry_into, column_sums, conditions_of, draw_pairs, implied_sum,
                               site_name)
from heads.patterns import axis_labels, source_labels, target_labels
from heads.sites import ablated, all_heads, recorded
from learning.carries import cascade_length
from support.cli import UserError

COUNTED = 1000
NINES = "goes on through a 9"
OFFERED = ("carry", "same carry", "other digits")  # NINES takes the place of carry where the column sums to 9


class Subject:
    """A model, and what is needed to ask about it.

    Args:
        model: the model, in evaluation mode, on the CPU.
        num_digits: digits of each number.
        training: source tokens of its training problems; none of the problems here is one of them.
        found: the sets of sites that the study found to hold a carry, as in carry.json; empty if it was not made.
    """

    def __init__(self, model, num_digits, training, found):
        self.model, self.num_digits, self.training = model, num_digits, training
        a, b = (numbers[:COUNTED] for numbers in unseen_pairs(num_digits, training, seed=0))
        self.numbers, self.long = (a, b), cascade_length(a, b, num_digits) > 0
        # A copy, so that counting on it does not hold up the answers: an intervention changes the model that it is on.
        self.unseen = Examination(deepcopy(model), *encode_problems(a, b, num_digits))
        self.means = {block: value.mean(dim=0, keepdim=True) for block, value in self.unseen.outputs.items()}
        self.heads = {site.name(): site for site in all_heads(model)}
        self.sites = {site_name(site, model, num_digits): site for site in all_sites(self.unseen)}
        self.found = [{key: record[key] for key in ("column", "searched_on", "heads_only", "sites")}
                      for record in found]
        self.labels = target_labels(num_digits, model.config.order)

    def examine(self, a, b):
        """The `Examination` of one problem; UserError unless `a` and `b` are numbers that the model was trained to
        add."""
        low, high = number_range(self.num_digits)
        for number in (a, b):
            check_number("a number to add", number, low, high)
        return Examination(self.model, *encode_problems(torch.tensor([a]), torch.tensor([b]), self.num_digits))

    def digits(self, tokens, right, logits=None):
        """The digits `tokens [T]` in the order of writing beside those that are `right [T]`: a list of dicts, with the
        probabilities of all ten digits if there are `logits [T, vocab_size]`."""
        shown = [{"label": label, "digit": show(token), "right": show(good)}
                 for label, token, good in zip(self.labels, tokens.tolist(), right.tolist())]
        if logits is not None:
            probabilities = logits.softmax(dim=-1)
            for digit, row, token in zip(shown, plain(probabilities, 6), tokens.tolist()):
                digit |= {"probability": row[token], "probabilities": row[:10]}
        return shown


class Answers:
    """The questions, about the models `subjects`, `{name: Subject}`."""

    def __init__(self, subjects):
        self.subjects = subjects
        self.count = lru_cache(maxsize=1024)(self._count)

    def groups(self):
        """The questions by what they work on (see `support.server.Server`)."""
        return [{question.__name__: question for question in (self.models, self.solve, self.donor, self.move)},
                {"accuracy": self.accuracy}]

    def models(self):
        """The models, their heads and sites in the order in which they act, and what can be asked of them."""
        return {"methods": METHODS, "conditions": OFFERED, "models": {
            name: {"num_digits": subject.num_digits, "heads": list(subject.heads), "sites": list(subject.sites),
                   "positions": {"encoder": source_labels(subject.num_digits), "decoder": subject.labels},
                   "found": subject.found} for name, subject in self.subjects.items()}}

    @torch.no_grad()
    def solve(self, model, a, b, off, by):
        """The answer to a + b without the heads `off`, taken out `by` a method, digit by digit, and the attention of
        every head on the way to it."""
        subject = self.find(model)
        sites, problem = self.check_off(subject, off, by), subject.examine(a, b)
        outputs, other = subject.means, None
        if by == "resample":
            first, second = subject.numbers
            number = (a + b) % len(first)  # of the problem from which the outputs are: any other, the same each time
            number = (number + int(first[number] == a and second[number] == b)) % len(first)
            outputs = {block: value[number:number + 1] for block, value in subject.unseen.outputs.items()}
            other = [int(first[number]), int(second[number])]
        outputs = None if by == "zero" else outputs
        tokens = problem.answer(sites, outputs).tokens
        with recorded(subject.model) as kept, ablated(subject.model, sites, outputs):
            logits = subject.model(problem.source, shift_right(tokens))
        maps = []
        for block, (weights,) in kept.items():
            queries, keys = axis_labels(block, subject.num_digits, subject.model.config.order)
            maps += [{"head": f"{block}.{head}", "queries": queries, "keys": keys, "weights": each}
                     for head, each in enumerate(plain(weights[0], 4))]
        return {"source": [*str(a), "+", *str(b)], "source_labels": source_labels(subject.num_digits),
                "digits": subject.digits(tokens[0], problem.target[0], logits[0]),
                "intact": [show(token) for token in problem.clean.tokens[0].tolist()],
                "resampled_from": other, "maps": maps}

    def accuracy(self, model, off, by):
        """How many unseen problems are right without the heads `off`, and with all heads; `long`: those of them in
        which a carry is handed on through a column that sums to 9."""
        self.check_off(self.find(model), off, by)
        return {"without": self.count(model, frozenset(off), by), "intact": self.count(model, frozenset(), "zero")}

    def _count(self, model, off, by):
        subject = self.subjects[model]
        sites, outputs = [subject.heads[head] for head in off], subject.means
        if by == "resample":  # from the problem before it, in a random order
            outputs = {site.block: subject.unseen.outputs[site.block].roll(1, dims=0) for site in sites}
        right = subject.unseen.matches(sites, None if by == "zero" else outputs)
        return {name: {"n": int(group.sum()), "right": int(right[group].sum())}
                for name, group in (("all", torch.ones_like(right)), ("short", ~subject.long), ("long", subject.long))}

    def donor(self, model, a, b, column, condition, number):
        """An unseen problem that makes a condition of `heads.interchange` with a + b in a column; which of them, a
        number from 0 says."""
        subject = self.find(model)
        self.check_column(subject, column)
        subject.examine(a, b)
        check_number("the number of the donor", number, 0, 10 ** 6)
        offered = [name for name in OFFERED if name in conditions_of(column, subject.num_digits)]
        if condition not in offered:
            raise UserError(f"no condition of this column is called {short(condition)}: choose from "
                            f"{', '.join(offered)}")
        pool = torch.tensor([a]), torch.tensor([b])
        nines = column < subject.num_digits and int(column_sums(*pool, subject.num_digits)[0, column]) == 9
        condition = NINES if nines and condition == "carry" else condition
        drawn = draw_pairs(pool, subject.training, subject.num_digits, column, condition, 2, seed=number)
        if not len(drawn.gain):
            why = ("its digits in that column sum to 9" if nines and condition != NINES else
                   "the answer that it implies is no sum of two such numbers, or there is none unseen")
            raise UserError(f"no donor for {a} + {b} makes the condition '{condition}' in this column: {why}")
        return {"a": int(drawn.donor[0]), "b": int(drawn.donor[1]), "condition": CONDITIONS[condition]}

    @torch.no_grad()
    def move(self, model, a, b, donor_a, donor_b, column, sites):
        """The answer to a + b with the outputs at `sites` put in from the donor problem, beside the answer that the
        donor's carry into the column implies."""
        subject = self.find(model)
        self.check_column(subject, column)
        base, donor = subject.examine(a, b), subject.examine(donor_a, donor_b)
        chosen = [subject.sites[name] for name in check_names("site", sites, subject.sites)]
        carries = [bool(carry_into(torch.tensor([x]), torch.tensor([y]), subject.num_digits)[0, column])
                   for x, y in ((a, b), (donor_a, donor_b))]
        total = torch.tensor([a + b])
        if carries[0] != carries[1]:
            total = implied_sum(torch.tensor([a]), torch.tensor([b]), column, torch.tensor([carries[1]]))
        implied = subject.model.written(digits_of(total, subject.num_digits + 1))[0]
        moved = base.answer(chosen, donor.outputs).tokens[0]
        return {"carry": carries[0], "donor_carry": carries[1], "as_implied": moved.equal(implied),
                "before": subject.digits(base.clean.tokens[0], base.target[0]),
                "moved": subject.digits(moved, implied), "implied": subject.digits(implied, implied)}

    def find(self, model):
        """The subject of that name."""
        if not isinstance(model, str) or model not in self.subjects:
            raise UserError(f"no model is called {short(model)}: choose from {', '.join(self.subjects)}")
        return self.subjects[model]

    def check_off(self, subject, off, by):
        """The sites of the heads `off`; UserError unless there are such heads and such a method."""
        if by not in METHODS:
            raise UserError(f"no method is called {short(by)}: choose from {', '.join(METHODS)}")
        return [subject.heads[name] for name in check_names("head", off, subject.heads)]

    def check_column(self, subject, column):
        check_number("the column that the carry enters", column, 1, subject.num_digits)


def check_number(what, value, low, high):
    """UserError unless `value` is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{what} must be a whole number from {low:,} to {high:,}, not {short(value)}")


def check_names(what, names, known):
    """The list `names`; UserError unless it is one, without repetition, of names that are `known`."""
    if not isinstance(names, list):
        raise UserError(f"the {what}s must be a list of names, not {short(names)}")
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise UserError(f"no {what} is called {short(name)}: they are called as {next(iter(known))}")
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
