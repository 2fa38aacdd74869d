"""Where each head looks: attention maps and what they amount to.

Shapes in comments: N problems, H heads, T queries, S keys, n digits of a number.
"""

import torch

from dataset import ORDERS, decode_problems, padding_mask, shift_right, to_numbers
from heads import batches
from heads.carries import carries_out, cascade_length
from heads.examination import Bootstrap, encode, stratify
from heads.sites import Site, axis_labels, head_record, kind_of, recorded

SPARSE = 0.01
MOST_CASES = 8
EXAMPLE = torch.tensor([[6, 6, 3]]), torch.tensor([[4, 9, 7]])  # drawn for every 3-digit model


def study_maps(model, source, target, batch_size):
    """The mean maps of all heads on these problems (`heads`), and of single ones (`cases`)."""
    weights = attention_weights(model, source, target, batch_size)
    a, b = decode_problems(source)
    chosen = stratify(a, b, MOST_CASES)
    a, b = a[chosen], b[chosen]
    if a.size(1) == 3:
        a, b = torch.cat([a, EXAMPLE[0]]), torch.cat([b, EXAMPLE[1]])
    cases = [make_case(model, *digits) for digits in zip(a.split(1), b.split(1))]
    heads = measure_patterns(weights, source.size(1) // 2, model.training_info["order"])
    return {"heads": heads, "cases": cases}


@torch.no_grad()
def attention_weights(model, source, target, batch_size=None):
    """Attention weights of every block, `{block: [N, H, T, S]}`, with teacher forcing."""
    device = next(model.parameters()).device
    size = batch_size or batches.batch_size(device)
    with recorded(model) as weights:
        for part, answer in zip(source.split(size), target.split(size)):
            part = part.to(device)
            model(part, shift_right(answer.to(device)), padding_mask(part))
    return {block: torch.cat(parts).cpu() for block, parts in weights.items()}


def make_case(model, a, b):
    """The record of one problem, digits `a [1, n]`, `b [1, n]`, for `figures.plot_case`.

    It holds the model's answer, and every head's attention with the real digits as labels.
    """
    order = model.training_info["order"]
    source, target = encode(a, b, order)
    answer = model.generate(source.to(next(model.parameters()).device), target.size(1)).cpu()
    first, second = to_numbers(a).item(), to_numbers(b).item()
    tokens = [*str(first), "+", *str(second)]
    written = ["?" if token > 9 else str(token) for token in answer[0].tolist()]
    held = ["^", *written[:-1]]
    labels = {"encoder.self": (tokens, tokens), "decoder.self": (written, held)}
    maps = []
    for block, weights in attention_weights(model, source, answer).items():
        queries, keys = labels.get(kind_of(block), (written, tokens))
        for head, each in enumerate(weights[0].tolist()):
            fields = {"weights": each, "queries": queries, "keys": keys}
            maps.append(head_record(Site(block, head)) | fields)
    shown = "".join(written if order == ORDERS[0] else written[::-1])
    shown += "" if answer.equal(target) else f", wrong: {first + second}"
    problem = {"problem": f"{first} + {second}", "answer": shown, "why": describe(a, b)}
    return problem | {"maps": maps}


def describe(a, b):
    """What a problem, digits `a [1, n]`, `b [1, n]`, asks of an adder, in words."""
    n, cascade = a.size(1), int(cascade_length(a, b))
    carrying = [f"a{10 ** (n - 1 - i)}" for i, out in enumerate(carries_out(a, b)[0]) if out]
    if not carrying:
        return "no carry"
    columns = f"column{'s' if len(carrying) > 1 else ''} of {', '.join(carrying)}"
    sums = f"{cascade} sum{'s' if cascade > 1 else ''} of 9"
    return f"carry out of the {columns}" + (f", handed on through {sums}" if cascade else "")


def measure_patterns(weights, n, order):
    """What each head's attention amounts to, from `{block: weights [N, H, T, S]}`.

    Returns:
        A list of records, one a head, with the `mean_weights` over problems `[T][S]`, the labels of
        `queries` and `keys`, and the measures of `head_measures` with bootstrap 95% intervals.
    """
    records = []
    for block, values in weights.items():
        queries, keys = axis_labels(block, n, order)
        bootstrap = Bootstrap(len(values))
        for head in range(values.size(1)):
            measures = head_measures(
                values[:, head], kind_of(block), list(queries.values()), list(keys.values())
            )
            record = head_record(Site(block, head)) | {"kind": kind_of(block), "n": len(values)}
            record |= {"queries": list(queries), "keys": list(keys)}
            record["mean_weights"] = values[:, head].mean(dim=0).tolist()
            for name, value in measures.items():
                record[name] = None if value is None else bootstrap.summary(value)
            records.append(record)
    return records


def head_measures(weights, kind, query_columns, key_columns):
    """The measures of one head's weights `[N, T, S]`, means over queries.

    Each query and key has a column or None. Returns `{name: [N] or None}`, None where the measure
    has no meaning.

    - `entropy`: -sum w log w, in nats; `entropy_share`: over its largest value, log of the count of
      keys that the query may see (a query that sees one key does not count).
    - `own_column`: attention to the input digits of the query's own column (encoder: of a digit's
      column, itself included; decoder: of the column of the digit it produces, so that the highest
      has none); `larger_of_two`: the share of it that the digit with more of it has, 0.5 if both
      digits of a column are read alike.
    - `right_column`: attention to the input digits of the column to the right, where the carry
      comes from (units have none).
    - `plus`: to `+`. `diagonal`: of position t to position t (self-attention). `first`, `last`: to
      the first key, and to the last that the query may see.
    - `largest`: the largest weight. `sparsity`: the share of the visible keys with less than 1% of
      the attention.
    """
    visible = torch.ones(weights.shape[1:], dtype=torch.bool)  # [T, S]
    if kind == "decoder.self":
        visible = visible.tril()
    count = visible.sum(dim=1)  # [T]
    several = count > 1
    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(dim=-1)  # [N, T]

    def to_column(offset):
        """Attention to the digits of the column `offset` to the right; the larger digit's share."""
        wanted = torch.tensor(
            [[None not in (q, k) and k == q - offset for k in key_columns] for q in query_columns]
        )  # [T, S]
        rows = wanted.any(dim=1)
        if kind == "decoder.self" or not rows.any():
            return None, None
        to_digits = (weights * wanted)[:, rows]
        both = to_digits.sum(dim=-1)  # [N, queries that have such a column]
        return both.mean(dim=1), (to_digits.amax(dim=-1) / both.clamp_min(1e-30)).mean(dim=1)

    own_column, larger_of_two = to_column(0)
    last = (count - 1).view(1, -1, 1).expand(len(weights), -1, 1)  # [N, T, 1]
    inside, crossing = kind == "decoder.self", kind == "decoder.cross"
    share = entropy[:, several] / count[several].float().log()
    return {
        "entropy": entropy.mean(dim=1),
        "entropy_share": share.mean(dim=1),
        "own_column": own_column,
        "larger_of_two": larger_of_two,
        "right_column": to_column(1)[0],
        "plus": None if inside else weights[..., key_columns.index(None)].mean(dim=1),
        "diagonal": None if crossing else weights.diagonal(dim1=1, dim2=2).mean(dim=1),
        "first": weights[..., 0].mean(dim=1),
        "last": weights.gather(2, last).squeeze(2).mean(dim=1),
        "largest": weights.amax(dim=-1).mean(dim=1),
        "sparsity": ((weights < SPARSE) & visible).sum(dim=(1, 2)) / visible.sum(),
    }
