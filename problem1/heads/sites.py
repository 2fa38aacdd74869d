"""The places inside the model that can be watched and changed, and what they are called.

A head is called `encoder.0.self.2` or `decoder.1.cross.0`: stack, layer, kind of attention, number. The four heads of
one attention are a block, `encoder.0.self`; a feed-forward network is a block with one output, `encoder.0.ffn`. The
output of a block is `[N, H, T, D]`: N problems, H heads (1 for a feed-forward network), T positions, D width of one
head. A site is one head at one position, or at all of them.
"""

from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import nn

KINDS = ("encoder.self", "decoder.self", "decoder.cross")


class Site(NamedTuple):
    """Head number `head` of `block`, at one position, or at all (None)."""

    block: str
    head: int = 0
    position: int | None = None

    def name(self, labels=None):
        """`encoder.0.self.2`, with the position's label if it has one: `encoder.0.self.2@a10`."""
        where = self.block if self.block.endswith("ffn") else f"{self.block}.{self.head}"
        return where if self.position is None else f"{where}@{labels[self.position]}"


def all_blocks(model):
    """The model's attentions and feed-forward networks, `{block: module}`, in the order in which they act."""
    blocks = {}
    for i, layer in enumerate(model.encoder_layers):
        blocks |= {f"encoder.{i}.self": layer.self_attn, f"encoder.{i}.ffn": layer.feed_forward}
    for i, layer in enumerate(model.decoder_layers):
        blocks |= {f"decoder.{i}.self": layer.self_attn, f"decoder.{i}.cross": layer.cross_attn,
                   f"decoder.{i}.ffn": layer.feed_forward}
    return blocks


def attention_blocks(model):
    """The model's attentions alone, `{block: MultiHeadAttention}`."""
    return {block: module for block, module in all_blocks(model).items() if not block.endswith("ffn")}


def all_heads(model):
    """A `Site` for each head, at all positions."""
    return [Site(block, head) for block, attention in attention_blocks(model).items()
            for head in range(attention.num_heads)]


def parse_head(name):
    """The `Site` of a head's name.

    Raises:
        ValueError: if that is no such name.
    """
    block, _, head = name.rpartition(".")
    if not block or not head.isdecimal():
        raise ValueError(f"{name!r} is no head's name such as encoder.0.self.2")
    return Site(block, int(head))


def kind_of(site):
    """`encoder.self`, `decoder.self`, `decoder.cross`, or for feed-forward networks `encoder.ffn`, `decoder.ffn`."""
    stack, _, attention = site.block.split(".")
    return f"{stack}.{attention}"


@contextmanager
def intervening(model, functions):
    """Within the block of code, let functions see and replace the outputs of the model's blocks, by PyTorch's own
    hooks.

    Args:
        model: the model.
        functions: `{block: function}`; called with the output `[N, H, T, D]`, and returns the output that takes its
            place, or None to leave it. Inside another `intervening`, the outer function is called first.

    Raises:
        ValueError: if the model has no such block.
    """
    modules = all_blocks(model)
    unknown = functions.keys() - modules.keys()
    if unknown:
        raise ValueError(f"the model has no {min(unknown)}: choose from {', '.join(modules)}")
    with ExitStack() as hooks:
        for block, function in functions.items():
            hooks.callback(_hook(modules[block], function).remove)
        yield


def _hook(module, function):
    """Hook `function` to the outputs of an attention's heads, which enter its `W_o`, or to that of a feed-forward
    network."""
    if not hasattr(module, "W_o"):
        def replace(module, arguments, output):
            changed = function(output.unsqueeze(1))
            return None if changed is None else changed.squeeze(1)
        return module.register_forward_hook(replace)

    def replace_heads(linear, arguments):
        changed = function(module.split_heads(arguments[0]))
        return None if changed is None else (module.combine_heads(changed),)
    return module.W_o.register_forward_pre_hook(replace_heads)


@contextmanager
def ablated(model, heads, outputs=None):
    """Within the block of code, the outputs of `heads` are zero, or those of `outputs`.

    Args:
        model: the model.
        heads: names of heads (`encoder.0.self.2`), or `Site`s, which may be at one position and of feed-forward
            networks.
        outputs: None for zeros, or what to put in: `{block: [N or 1, H, T, D]}`, as `recorded` gives it.

    Raises:
        ValueError: if the model has no such head.
    """
    blocks = {}
    for site in _find(model, heads):
        blocks.setdefault(site.block, []).append(site)

    def replace(block):
        def function(output):
            output = output.clone()
            for _, head, position in blocks[block]:
                where = slice(None), head, slice(None) if position is None else position
                output[where] = 0 if outputs is None else outputs[block][where]
            return output
        return function

    with intervening(model, {block: replace(block) for block in blocks}):
        yield


def _find(model, heads):
    """The `Site`s of names of heads, or of `Site`s; ValueError if the model has no such head."""
    sites = [parse_head(head) if isinstance(head, str) else head for head in heads]
    modules = attention_blocks(model)
    for site in sites:
        if site.block in modules and site.head >= modules[site.block].num_heads:
            raise ValueError(f"{site.block} has {modules[site.block].num_heads} heads, none is {site.head}")
    return sites


@torch.no_grad()
def without_heads(model, heads):
    """A smaller copy of the model that answers as it does with `heads` ablated by zeros: their rows of `W_q`, `W_k`,
    `W_v` and their columns of `W_o` are gone; those left are numbered anew. `heads` as for `ablated`, each at all
    positions.

    Raises:
        ValueError: if the model has no such head.
    """
    removed, smaller = _find(model, heads), deepcopy(model)
    for block, attention in attention_blocks(smaller).items():
        kept = [head for head in range(attention.num_heads) if Site(block, head) not in removed]
        rows = torch.arange(attention.num_heads * attention.d_k).view(-1, attention.d_k)[kept].flatten()
        for linear in (attention.W_q, attention.W_k, attention.W_v):
            linear.weight, linear.bias = nn.Parameter(linear.weight[rows]), nn.Parameter(linear.bias[rows])
        attention.W_o.weight = nn.Parameter(attention.W_o.weight[:, rows])
        attention.num_heads = len(kept)
    return smaller


@contextmanager
def recorded(model):
    """Within the block of code, keep the attention weights: yields `{block: [weights [N, H, T, S] of each call]}`."""
    blocks = attention_blocks(model)
    kept = {block: [] for block in blocks}
    with ExitStack() as hooks:
        for block, attention in blocks.items():
            hooks.callback(attention.register_forward_hook(
                lambda module, arguments, output, block=block: kept[block].append(output[1].detach())).remove)
        yield kept


@contextmanager
def recorded_outputs(model):
    """Within the block of code, keep the outputs of every block: yields `{block: [output [N, H, T, D] of each
    call]}`."""
    kept = {block: [] for block in all_blocks(model)}
    with intervening(model, {block: lambda output, block=block: kept[block].append(output.detach()) for block in kept}):
        yield kept
