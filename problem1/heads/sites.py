"""The places inside the model that can be watched and changed, and their names.

A head is called `encoder.0.self.2` or `decoder.1.cross.0`: stack, layer, kind of attention, number.
The heads of one attention are a block, `encoder.0.self`. A feed-forward network is a block with one
output, `encoder.0.ffn`. A site is one head at one position, or at all positions.
Shapes in comments: N problems, H heads (1 for a feed-forward network), T positions, D width of one
head, n digits of a number.
"""

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from dataset import ORDERS

KINDS = ("encoder.self", "decoder.self", "decoder.cross")


class Site(NamedTuple):
    """Head number `head` of `block`, at one position of the sequence or at all (None)."""

    block: str
    head: int = 0
    position: int | None = None

    def name(self):
        """`encoder.0.self.2`, without the position."""
        return self.block if self.block.endswith("ffn") else f"{self.block}.{self.head}"


def kind_of(block):
    """`encoder.self` for `encoder.0.self`."""
    stack, _, attention = block.split(".")
    return f"{stack}.{attention}"


def all_blocks(model):
    """`{block: module}` of the attentions and feed-forward networks, in the order of their work."""
    blocks = {}
    for i, layer in enumerate(model.encoder_layers):
        blocks |= {f"encoder.{i}.self": layer.self_attn, f"encoder.{i}.ffn": layer.feed_forward}
    for i, layer in enumerate(model.decoder_layers):
        blocks |= {f"decoder.{i}.self": layer.self_attn, f"decoder.{i}.cross": layer.cross_attn}
        blocks[f"decoder.{i}.ffn"] = layer.feed_forward
    return blocks


def attention_blocks(model):
    """`{block: MultiHeadAttention}`."""
    blocks = all_blocks(model).items()
    return {block: module for block, module in blocks if not block.endswith("ffn")}


def all_heads(model):
    """A `Site` for each head, at all positions."""
    blocks = attention_blocks(model).items()
    return [Site(block, head) for block, module in blocks for head in range(module.num_heads)]


def source_labels(n):
    """`{label: column}` of the source tokens `a100 a10 a1 + b100 b10 b1`; `+` has no column.

    Columns are counted from the right: units are column 0.
    """
    columns = range(n - 1, -1, -1)
    first, second = ({f"{number}{10**k}": k for k in columns} for number in "ab")
    return first | {"+": None} | second


def target_labels(n, order):
    """`{label: column}` of the digits of the sum in the order of writing: `s1000 s100 s10 s1`."""
    columns = range(n, -1, -1) if order == ORDERS[0] else range(n + 1)
    return {f"s{10**k}": k for k in columns}


def axis_labels(block, n, order):
    """`{label: column}` of the queries and of the keys of an attention block.

    A query of the decoder is named by the digit that it produces. A key of its self-attention is
    named by the token that it holds: the start token, or a digit of the sum.
    """
    source, target = source_labels(n), target_labels(n, order)
    held = {"start": None} | dict(list(target.items())[:-1])
    axes = {"encoder.self": (source, source), "decoder.self": (target, held)}
    return axes.get(kind_of(block), (target, source))


def head_record(site):
    """The fields that name a head in a record."""
    return {"head": site.name(), "block": site.block, "head_number": site.head}


def site_record(site, n, order):
    """The fields that name a site at one position in a record; `site` is `encoder.0.self.2@a10`."""
    labels = source_labels(n) if site.block.startswith("encoder") else target_labels(n, order)
    label = list(labels)[site.position]
    fields = {"block": site.block, "head_number": site.head, "position": label}
    return {"site": f"{site.name()}@{label}"} | fields


@contextmanager
def intervening(model, functions):
    """Within the block of code, let functions see and replace outputs, by PyTorch's own hooks.

    `functions` is `{block: function}`. Each is called with the output `[N, H, T, D]`, and returns
    the output that takes its place, or None to leave it. Inside another `intervening`, the outer
    function is called first.
    """
    modules = all_blocks(model)
    with ExitStack() as hooks:
        for block, function in functions.items():
            hooks.callback(_hook(modules[block], function).remove)
        yield


def _hook(module, function):
    """Hook `function` to what enters an attention's `W_o`, or to what leaves a network."""

    def replace_heads(linear, arguments):
        changed = function(module.split_heads(arguments[0]))
        return None if changed is None else (module.combine_heads(changed),)

    def replace_output(module, arguments, output):
        changed = function(output.unsqueeze(1))
        return None if changed is None else changed.squeeze(1)

    if hasattr(module, "W_o"):
        return module.W_o.register_forward_pre_hook(replace_heads)
    return module.register_forward_hook(replace_output)


@contextmanager
def ablated(model, heads, outputs=None):
    """Within the block of code, the outputs of `heads` are zero, or those of `outputs`.

    Args:
        heads: names (`encoder.0.self.2`, `encoder.0.ffn`), or `Site`s, also at one position.
        outputs: None for zeros, or what to put in: `{block: [N or 1, H, T, D]}`, as
            `recorded_outputs` gives it.

    Raises:
        ValueError: if the model has no such head; in a pass, if a position is outside of it.
    """
    blocks = {}
    for site in _find(model, heads):
        blocks.setdefault(site.block, []).append(site)

    def replace(block, output):
        output = output.clone()  # [N, H, T, D]
        for site in blocks[block]:
            if site.position is not None and not 0 <= site.position < output.size(2):
                raise ValueError(
                    f"{block} has {output.size(2)} positions here: none is {site.position}"
                )
            where = slice(None), site.head, slice(None) if site.position is None else site.position
            output[where] = 0 if outputs is None else outputs[block][where]
        return output

    with intervening(model, {block: partial(replace, block) for block in blocks}):
        yield


def _find(model, heads):
    """The `Site`s of names or `Site`s; ValueError if the model has no such head."""
    networks = [Site(block) for block in all_blocks(model) if block.endswith("ffn")]
    known = {site.name(): site for site in all_heads(model) + networks}
    sites = [known.get(head) if isinstance(head, str) else head for head in heads]
    for head, site in zip(heads, sites):
        if site is None or site._replace(position=None) not in known.values():
            raise ValueError(f"the model has no head {head}: choose from {', '.join(known)}")
    return sites


@contextmanager
def recorded(model):
    """Within the block of code, keep `{block: [attention weights [N, H, T, S] of each call]}`."""
    blocks = attention_blocks(model)
    kept = {block: [] for block in blocks}

    def keep(block, module, arguments, output):
        kept[block].append(output[1].detach())

    with ExitStack() as hooks:
        for block, module in blocks.items():
            hooks.callback(module.register_forward_hook(partial(keep, block)).remove)
        yield kept


@contextmanager
def recorded_outputs(model):
    """Within the block of code, keep `{block: [output [N, H, T, D] of each call]}`."""
    kept = {block: [] for block in all_blocks(model)}

    def keep(block, output):
        kept[block].append(output.detach())

    with intervening(model, {block: partial(keep, block) for block in kept}):
        yield kept
