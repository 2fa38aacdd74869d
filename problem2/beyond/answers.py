"""The questions that the page may ask of the models: from plain values to plain values.

A wrong question raises a UserError. Shapes in comments: L length, T queries, S keys, H heads, W
positions of the window that is shown.
"""

import random
from functools import lru_cache

from support.cli import UserError

import torch

from beyond.poolings import LowestPooling
from dataset import LARGEST_VALUE
from extrapolation.analysis import classify
from generate_data import NEGATIVES, draw_sorted
from model import LONGEST
from positional_encoding import PositionalEncoding, visualize_positional_encoding

KINDS = ("sorted", *NEGATIVES)
WINDOW = 256  # positions of an attention map
AROUND = 8  # offsets to either side at which a bias is told
# How many sequences of one length and class `by_length` tries: at most so many, and at most so
# many values in them together, but one at least.
MOST_TRIES, VALUES_TRIED = 16, 1024


class Answers:
    """The questions about `models`, `{name: model}`, in evaluation mode and on the CPU."""

    def __init__(self, models):
        self.by_name = models
        self.count_right = lru_cache(maxsize=1024)(self._count_right)

    def groups(self):
        """The questions, those that share a lock together (see `support.server.Server`)."""
        quick = (self.models, self.draw, self.classify, self.look)
        return [
            {question.__name__: question for question in quick},
            {"adds": self.adds},
            {"by_length": self.by_length},
        ]

    def models(self):
        """The models, and the kinds of sequences that can be drawn."""
        names = ("encoding_type", "pooling", "num_layers", "num_heads", "d_model")
        models = {}
        for name, model in self.by_name.items():
            models[name] = {key: getattr(model.config, key) for key in names}
            models[name]["most"] = model.longest
        return {"kinds": KINDS, "most": LONGEST, "models": models}

    def draw(self, kind, length, number):
        """A sequence of a kind; its `number` from 0 on says which of them."""
        check_kind(kind)
        check_number("the length", length, 2, LONGEST)
        check_number("the number of the sequence", number, 0, 10**6)
        return {"values": sequence_of(kind, length, random.Random(f"{kind} {length} {number}"))}

    @torch.no_grad()
    def classify(self, values, model):
        """What a model says of the values, or why it cannot answer.

        It says its `probability` of sorted, and the `margins` of all positions if the lowest
        decides.
        """
        check_values(values)
        chosen = self.find(model)
        if len(values) > chosen.longest:
            return {"error": too_long(model, chosen, len(values))}
        h = chosen.encode(torch.tensor([values]))
        logits = chosen.classifier(chosen.pooling(h, chosen.classifier))[0]
        answer = {"probability": plain(logits.softmax(dim=0)[1], 6)}
        if isinstance(chosen.pooling, LowestPooling):
            logits = chosen.classifier(h)[0]  # [L, 2]
            answer["margins"] = plain(logits[:, 1] - logits[:, 0], 3)
        return answer

    @torch.no_grad()
    def look(self, values, model, layer, head, at):
        """The attention of one head in the window around the position `at`.

        Also what the encoding adds to its scores, and whether it turns queries and keys.
        """
        check_values(values)
        chosen, length = self.find(model, len(values)), len(values)
        check_number("the layer", layer, 0, chosen.config.num_layers - 1)
        check_number("the head", head, 0, chosen.config.num_heads - 1)
        check_number("the position", at, 0, length - 1)
        positions, h = chosen.pos_encoding, chosen.embed(torch.tensor([values]))
        for each in chosen.layers[:layer]:
            h = each(h, None, positions)
        x, attention = chosen.layers[layer].norm1(h), chosen.layers[layer].self_attn
        _, weights = attention(x, x, x, None, positions)  # [1, H, T, S]
        _, _, bias = attention.queries_and_keys(x, x, positions)
        first, last = window(length, at)
        biases = None
        if bias is not None:
            row = bias.expand(weights.shape)[0, head, at]
            biases = []
            for key in range(max(0, at - AROUND), min(length, at + AROUND + 1)):
                value = plain(row[key], 4) if row[key].isfinite() else None
                biases.append({"offset": key - at, "bias": value})
        return {
            "first": first,
            "weights": plain(weights[0, head, first:last, first:last], 4),
            "biases": biases,
            "turns": type(positions).rotate is not PositionalEncoding.rotate,
        }

    @torch.no_grad()
    def adds(self, model, length, at):
        """What the encoding adds in the window around the position `at`, `[W][d_model]` or None."""
        check_number("the length", length, 1, LONGEST)
        check_number("the position", at, 0, length - 1)
        chosen = self.find(model, length)
        first, last = window(length, at)
        rows = visualize_positional_encoding(chosen.pos_encoding, length, chosen.d_model)
        rows = rows[first:last]
        return {"first": first, "rows": plain(torch.from_numpy(rows), 3) if rows.any() else None}

    def by_length(self, kind, length):
        """How many sequences of one length each model answers rightly, half of them of a kind."""
        check_kind(kind)
        check_number("the length", length, 2, LONGEST)
        results = {}
        for name, model in self.by_name.items():
            if length > model.longest:
                results[name] = {"error": too_long(name, model, length)}
            else:
                results[name] = self.count_right(name, kind, length)
        return results

    def _count_right(self, name, kind, length):
        tries = max(1, min(MOST_TRIES, VALUES_TRIED // length))
        generator = random.Random(f"{kind} {length}")
        kinds = ["sorted"] * tries + ([] if kind == "sorted" else [kind] * tries)
        sequences = torch.tensor([sequence_of(each, length, generator) for each in kinds])
        answers = classify(self.by_name[name], sequences).argmax(dim=1)
        right = answers == torch.tensor([int(each == "sorted") for each in kinds])
        return {"n": len(kinds), "right": int(right.sum())}

    def find(self, name, length=0):
        """The model of that name, which must take sequences of that length."""
        if not isinstance(name, str) or name not in self.by_name:
            known = ", ".join(self.by_name)
            raise UserError(f"no model is called {short(name)}: choose from {known}")
        if length > self.by_name[name].longest:
            raise UserError(too_long(name, self.by_name[name], length))
        return self.by_name[name]


def too_long(name, model, length):
    """Why a model takes no sequence of that length."""
    return f"{name} has positions for {model.longest} values; this sequence has {length:,}"


def window(length, at):
    """The positions that are shown, `WINDOW` around `at`: the first, and one past the last."""
    first = max(0, min(at - WINDOW // 2, length - WINDOW))
    return first, min(length, first + WINDOW)


def sequence_of(kind, length, generator):
    """A sequence of a kind and length; not all its values are the same."""
    while True:
        sequence = draw_sorted(length, generator)
        if sequence[0] < sequence[-1]:
            return sequence if kind == "sorted" else NEGATIVES[kind](sequence, generator)


def check_values(values):
    """UserError unless `values` is a list of 1 to `LONGEST` values that the models know."""
    if not isinstance(values, list) or not values:
        raise UserError(
            f"write a sequence of whole numbers from 0 to {LARGEST_VALUE}, such as 3 15 27"
        )
    if len(values) > LONGEST:
        raise UserError(f"a sequence has at most {LONGEST:,} values, not {len(values):,}")
    for value in values:
        check_number("a value", value, 0, LARGEST_VALUE)


def check_kind(kind):
    """UserError unless sequences of that kind can be drawn."""
    if kind not in KINDS:
        raise UserError(f"no kind of sequences is called {short(kind)}: one of {', '.join(KINDS)}")


def check_number(what, value, low, high):
    """UserError unless `value` is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise UserError(
            f"{what} must be a whole number from {low:,} to {high:,}, not {short(value)}"
        )


def short(value):
    """A value of a question, as an error shows it."""
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def plain(tensor, decimals):
    """A tensor as lists of numbers with so many decimals."""
    return tensor.double().round(decimals=decimals).tolist()
