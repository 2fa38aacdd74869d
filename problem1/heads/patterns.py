"""Where each head looks: attention maps and what they amount to.

Shapes in comments: N problems, H heads, T queries, S keys. Columns are counted from the right: units are column 0, and
a sum of numbers of n digits has the columns n to 0.
"""

import torch

from dataset import padding_mask, shift_right
from heads.examination import Bootstrap, summary
from heads.sites import Site, kind_of, recorded
from model import ORDERS

SPARSE = 0.01


def source_labels(num_digits):
    """What the source tokens are: `a100 a10 a1 + b100 b10 b1`."""
    powers = [10 ** k for k in range(num_digits - 1, -1, -1)]
    return [f"a{power}" for power in powers] + ["+"] + [f"b{power}" for power in powers]


def target_labels(num_digits, order):
    """The digits of the sum in the order of writing: `s1000 s100 s10 s1`, or right to left."""
    labels = [f"s{10 ** k}" for k in range(num_digits, -1, -1)]
    return labels if order == ORDERS[0] else labels[::-1]


def axis_labels(block, num_digits, order):
    """Labels of the queries and of the keys of an attention block.

    A query of the decoder is named by the digit that it produces, a key of its self-attention by the token that it
    holds: the start token, or a digit of the sum.
    """
    source, target = source_labels(num_digits), target_labels(num_digits, order)
    return {"encoder.self": (source, source), "decoder.self": (target, ["start"] + target[:-1]),
            "decoder.cross": (target, source)}[kind_of(Site(block))]


def columns(labels):
    """The column of each label, None for `+` and `start`."""
    return [len(label) - 2 if label[-1] in "01" else None for label in labels]


@torch.no_grad()
def attention_weights(model, source, target, batch_size=512):
    """Attention weights of every block, `{block: [N, H, T, S]}`, with teacher forcing: one full pass, no decoding."""
    device = next(model.parameters()).device
    with recorded(model) as weights:
        for part, answer in zip(source.to(device).split(batch_size), target.to(device).split(batch_size)):
            model(part, shift_right(model.written(answer)), padding_mask(part))
    return {block: torch.cat(parts).cpu() for block, parts in weights.items()}


def measure_patterns(weights, num_digits, order):
    """What each head's attention amounts to; means over queries, then over problems, with bootstrap 95% intervals.

    Args:
        weights: `{block: [N, H, T, S]}`.
        num_digits: digits of each number.
        order: in which the model writes.

    Returns:
        A list of records, one a head, with the `mean_weights` over problems `[T][S]`, `queries` and `keys` (labels),
        and as `{"mean": ..., "interval": ...}`, or None where it has no meaning:

        - `entropy`: -sum w log w, in nats; `entropy_share`: over its largest value, log of the number of keys that the
          query may see (a query that sees one key does not count).
        - `own_column`: attention to the input digits of the query's own column (encoder: of a digit's column, itself
          included; decoder: of the column of the digit it produces, so that the first has none); `larger_of_two`: the
          share of it that the digit with more of it has, 0.5 if both digits of a column are read alike.
        - `right_column`: attention to the input digits of the column to the right, where the carry comes from (units
          have none).
        - `plus`: to `+`. `diagonal`: of position t to position t (self-attention). `first`, `last`: to the first key,
          and to the last that the query may see.
        - `largest`: the largest weight. `sparsity`: the share of the keys that the query may see with less than 1% of
          it.
    """
    records = []
    for block, values in weights.items():
        queries, keys = axis_labels(block, num_digits, order)
        visible = torch.ones(len(queries), len(keys), dtype=torch.bool)
        if kind_of(Site(block)) == "decoder.self":
            visible = visible.tril()
        bootstrap = Bootstrap(len(values))
        for head in range(values.size(1)):
            measures = _head_measures(values[:, head], visible, columns(queries), columns(keys), kind_of(Site(block)))
            records.append({"head": Site(block, head).name(), "kind": kind_of(Site(block)), "n": len(values),
                            "queries": queries,
                            "keys": keys, "mean_weights": values[:, head].mean(dim=0).tolist(),
                            **{name: None if value is None else summary(bootstrap, value)
                               for name, value in measures.items()}})
    return records


def _head_measures(weights, visible, query_columns, key_columns, kind):
    """The measures of one head, `{name: [N] or None}`, from its weights `[N, T, S]`."""
    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(dim=-1)
    several = visible.sum(dim=1) > 1
    limit = visible.sum(dim=1).float().log()

    def to_column(offset):
        """Of the input digits of the column `offset` to the right: attention to them, and the share of it that the one
        with more has; over the queries that have such a column."""
        wanted = torch.tensor([[q is not None and k is not None and k == q - offset for k in key_columns]
                               for q in query_columns])
        rows = wanted.any(dim=1)
        if kind == "decoder.self" or not rows.any():
            return None, None
        to_digits = (weights * wanted)[:, rows]
        both = to_digits.sum(dim=-1)
        return both.mean(dim=1), (to_digits.amax(dim=-1) / both.clamp_min(1e-30)).mean(dim=1)

    own_column, larger_of_two = to_column(0)
    last = visible.long().cumsum(dim=1).argmax(dim=1)
    return {"entropy": entropy.mean(dim=1), "entropy_share": (entropy[:, several] / limit[several]).mean(dim=1),
            "own_column": own_column, "larger_of_two": larger_of_two, "right_column": to_column(1)[0],
            "plus": weights[..., key_columns.index(None)].mean(dim=1) if kind != "decoder.self" else None,
            "diagonal": None if kind == "decoder.cross" else weights.diagonal(dim1=1, dim2=2).mean(dim=1),
            "first": weights[..., 0].mean(dim=1),
            "last": weights.gather(2, last.view(1, -1, 1).expand(len(weights), -1, 1)).squeeze(2).mean(dim=1),
            "largest": weights.amax(dim=-1).mean(dim=1),
            "sparsity": ((weights < SPARSE) & visible).sum(dim=(1, 2)) / visible.sum()}
