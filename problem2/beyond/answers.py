"""All that the page can ask of the models: from plain values to plain values; what is wrong with a question is a
UserError.

Shapes in comments: L length, T queries, S keys, H heads, W positions of the window that is shown.
"""

import random
from functools import lru_cache

import torch

from dataset import LARGEST_VALUE
from extrapolation.analysis import classify
from generate_data import NEGATIVES, draw_sorted, is_sorted
from learning.evaluation import MOST_VALUES, most_values
from model import LowestPooling
from positional_encoding import visualize_positional_encoding
from positions.base import NoPositionalEncoding
from support.cli import UserError

KINDS = ("sorted", *NEGATIVES)
WINDOW = 256  # positions of an attention map
AROUND = 8  # offsets to either side of which a bias is told
MOST_TRIES, VALUES_TRIED = 16, 1024  # sequences of one length and class: so many, or values in them, but one at least


class Answers:
    """The questions, about `models`, `{name: model}`, in evaluation mode and on the CPU."""

    def __init__(self, models):
        self.by_name = models
        self.share_right = lru_cache(maxsize=1024)(self._share_right)

    def groups(self):
        """The questions by what may be asked at the same time (see `support.server.Server`)."""
        return [{question.__name__: question for question in (self.models, self.draw, self.classify, self.look)},
                {"adds": self.adds}, {"by_length": self.by_length}]

    def models(self):
        """The models, and the kinds of sequences that can be drawn."""
        return {"kinds": KINDS, "most": MOST_VALUES, "models": {
            name: {**{key: getattr(model.config, key)
                      for key in ("encoding_type", "pooling", "num_layers", "num_heads", "d_model")},
                   "most": most_values(model)}
            for name, model in self.by_name.items()}}

    def draw(self, kind, length, number):
        """A sequence of a kind; which of them, a number from 0 says."""
        check_kind(kind)
        check_number("the length", length, 2, MOST_VALUES)
        check_number("the number of the sequence", number, 0, 10 ** 6)
        return {"values": sequence_of(kind, length, random.Random(f"{kind} {length} {number}"))}

    @torch.no_grad()
    def classify(self, values):
        """Whether the values are sorted, and what each model says, or why it cannot: its `probability` of sorted, and
        where the lowest position decides, the `margins` of all."""
        check_values(values)
        answers = {}
        for name, model in self.by_name.items():
            if len(values) > most_values(model):
                answers[name] = {"error": too_long(name, model, len(values))}
                continue
            h = model.encode(torch.tensor([values]))
            logits = model.classifier(model.pooling(h, model.classifier))[0]
            answers[name] = {"probability": plain(logits.softmax(dim=0)[1], 6)}
            if isinstance(model.pooling, LowestPooling):
                logits = model.classifier(h)[0]
                answers[name]["margins"] = plain(logits[:, 1] - logits[:, 0], 3)
        return {"sorted": is_sorted(values), "models": answers,
                "descents": [i for i, (one, other) in enumerate(zip(values, values[1:])) if one > other]}

    @torch.no_grad()
    def look(self, values, model, layer, head, at):
        """The attention of one head in a window of at most `WINDOW` positions around the position `at`, and what the
        encoding adds to its scores and turns."""
        check_values(values)
        chosen = self.find(model, len(values))
        check_number("the layer", layer, 0, chosen.config.num_layers - 1)
        check_number("the head", head, 0, chosen.config.num_heads - 1)
        check_number("the position", at, 0, len(values) - 1)
        positions, h = chosen.pos_encoding, chosen.embed(torch.tensor([values]))
        for each in chosen.layers[:layer]:
            h = each(h, None, positions)
        layer = chosen.layers[layer]
        x = layer.norm1(h)
        _, weights = layer.self_attn(x, x, x, None, positions)  # [1, H, T, S]
        _, _, bias = layer.self_attn.queries_and_keys(x, x, positions)
        first, last = window(len(values), at)
        told = None
        if bias is not None:
            row = bias.expand(weights.shape)[0, head, at]
            told = [{"offset": key - at, "bias": plain(row[key], 4) if row[key].isfinite() else None}
                    for key in range(max(0, at - AROUND), min(len(values), at + AROUND + 1))]
        return {"first": first, "weights": plain(weights[0, head, first:last, first:last], 4), "biases": told,
                "turns": type(positions).rotate is not NoPositionalEncoding.rotate}

    @torch.no_grad()
    def adds(self, model, length, at):
        """What the encoding adds to the values' embeddings in the window around the position `at`, `[W][d_model]`; None
        if it adds nothing."""
        check_number("the length", length, 1, MOST_VALUES)
        check_number("the position", at, 0, length - 1)
        chosen = self.find(model, length)
        first, last = window(length, at)
        rows = visualize_positional_encoding(chosen.pos_encoding, length, chosen.config.d_model)[first:last]
        return {"first": first, "rows": plain(torch.from_numpy(rows), 3) if rows.any() else None}

    def by_length(self, kind, length):
        """Of sequences of one length, half of them sorted and half of a kind, how many each model answers rightly."""
        check_kind(kind)
        check_number("the length", length, 2, MOST_VALUES)
        return {name: {"error": too_long(name, model, length)} if length > most_values(model)
                else self.share_right(name, kind, length) for name, model in self.by_name.items()}

    def _share_right(self, name, kind, length):
        tries = max(1, min(MOST_TRIES, VALUES_TRIED // length))
        generator = random.Random(f"{kind} {length}")
        kinds = ["sorted"] * tries + [kind] * tries * (kind != "sorted")
        logits = classify(self.by_name[name], torch.tensor([sequence_of(each, length, generator) for each in kinds]))
        right = logits.argmax(dim=1) == torch.tensor([int(each == "sorted") for each in kinds])
        return {"n": len(kinds), "right": int(right.sum())}

    def find(self, name, length):
        """The model of that name; UserError if there is none, or it takes no sequences of that length."""
        if not isinstance(name, str) or name not in self.by_name:
            raise UserError(f"no model is called {short(name)}: choose from {', '.join(self.by_name)}")
        if length > most_values(self.by_name[name]):
            raise UserError(too_long(name, self.by_name[name], length))
        return self.by_name[name]


def too_long(name, model, length):
    """Why a model takes no sequence of that length."""
    return f"{name} has positions for {most_values(model)} values, and none beyond them; these are {length:,}"


def window(length, at):
    """The positions that are shown, first and one past the last: all, or `WINDOW` around `at`."""
    first = max(0, min(at - WINDOW // 2, length - WINDOW))
    return first, min(length, first + WINDOW)


def sequence_of(kind, length, generator):
    """A sequence of a kind and length; not all its values are the same."""
    while True:
        sequence = draw_sorted(length, generator)
        if sequence[0] < sequence[-1]:
            return sequence if kind == "sorted" else NEGATIVES[kind](sequence, generator)


def check_values(values):
    """UserError unless `values` is a list of 1 to `MOST_VALUES` whole numbers that the models know."""
    if not isinstance(values, list) or not values:
        raise UserError(f"a sequence is a list of whole numbers from 0 to {LARGEST_VALUE}, such as 3 15 27")
    if len(values) > MOST_VALUES:
        raise UserError(f"{len(values):,} values are too many: a sequence has at most {MOST_VALUES:,}")
    for value in values:
        check_number("a value", value, 0, LARGEST_VALUE)


def check_kind(kind):
    """UserError unless sequences of that kind can be drawn."""
    if kind not in KINDS:
        raise UserError(f"no kind of sequences is called {short(kind)}: choose from {', '.join(KINDS)}")


def check_number(what, value, low, high):
    """UserError unless `value` is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{what} must be a whole number from {low:,} to {high:,}, not {short(value)}")


def short(value):
    """A value of a question, as an error shows it."""
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def plain(tensor, decimals):
    """A tensor as lists of numbers with so many decimals."""
    return tensor.double().round(decimals=decimals).tolist()
