"""The encoder-decoder transformer (Vaswani et al. 2017), with layer normalisation before each sublayer.

Pre-norm (Xiong et al. 2020, arXiv:2002.04745) trains at a high learning rate without a long warm-up.
Shapes in comments: B batch, T target positions, S source positions, H heads, D width of one head.
"""

import math
from dataclasses import asdict, dataclass
from itertools import repeat

import torch
from torch import nn

from attention import KeyValueCache, MultiHeadAttention, create_causal_mask
from dataset import PAD_TOKEN, START_TOKEN
from positions.columns import ColumnPositions
from positions.learned import LearnedPositions

ORDERS = ("left-to-right", "right-to-left")
POSITIONS = ("sinusoidal", "learned", "columns")


@dataclass(frozen=True)
class ModelConfig:
    """The arguments of `Seq2SeqTransformer`; saved in every checkpoint, so that a model is rebuilt without guessing."""

    vocab_size: int
    d_model: int
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    d_ff: int
    dropout: float
    max_len: int
    order: str = ORDERS[0]
    positions: str = POSITIONS[0]


class PositionalEncoding(nn.Module):
    """Adds the sinusoids of section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i / d_model)), PE(pos, 2i + 1) = cos(same)."""

    def __init__(self, d_model, max_len=5000):
        super().__init__()
        position = torch.arange(max_len).unsqueeze(1)
        frequency = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        table = torch.zeros(max_len, d_model)
        table[:, 0::2] = torch.sin(position * frequency)
        table[:, 1::2] = torch.cos(position * frequency[: d_model // 2])
        self.register_buffer("table", table, persistent=False)

    def forward(self, x, first_position=0):
        """`x [B, T, d_model]`, whose positions are first_position, first_position + 1, ... -> the same shape.

        Raises:
            ValueError: if a position is not below `max_len`.
        """
        end = first_position + x.size(1)
        if end > len(self.table):
            raise ValueError(f"a sequence of {end} tokens does not fit max_len = {len(self.table)}")
        return x + self.table[first_position:end]


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, at each position alone (section 3.3)."""

    def __init__(self, d_model, d_ff, dropout=0.1):
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """`[B, T, d_model]` -> `[B, T, d_model]`."""
        return self.linear2(self.dropout(self.linear1(x).relu()))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; each reads the normalised stream and adds to it."""

    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__()
        self.self_attn = MultiHeadAttention(d_model, num_heads)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None, bias=None):
        """`x [B, S, d_model]`; `mask` and `bias` broadcastable to `[B, H, S, S]` -> `[B, S, d_model]`."""
        h = self.norm1(x)
        x = x + self.dropout(self.self_attn(h, h, h, mask, bias)[0])
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, then feed-forward."""

    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__()
        self.self_attn = MultiHeadAttention(d_model, num_heads)
        self.cross_attn = MultiHeadAttention(d_model, num_heads)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, encoder_output, src_mask=None, tgt_mask=None, cache=None, biases=(None, None)):
        """One decoder layer.

        Args:
            x: `[B, T, d_model]`.
            encoder_output: `[B, S, d_model]`.
            src_mask: None or broadcastable to `[B, H, T, S]`.
            tgt_mask: None or broadcastable to `[B, H, T, T]`.
            cache: None, or this layer's `DecoderCache`; then `x` holds only the positions that follow the cached ones.
            biases: what is added to the scores of self-attention and of cross-attention, None for nothing.

        Returns:
            `[B, T, d_model]`.
        """
        own, memory = (None, None) if cache is None else (cache.own, cache.memory)
        h = self.norm1(x)
        x = x + self.dropout(self.self_attn(h, h, h, tgt_mask, biases[0], cache=own)[0])
        h = self.norm2(x)
        x = x + self.dropout(self.cross_attn(h, encoder_output, encoder_output, src_mask, biases[1], cache=memory)[0])
        return x + self.dropout(self.feed_forward(self.norm3(x)))


class DecoderCache:
    """What one decoder layer keeps while decoding: `own`, of the positions decoded so far, and `memory`, of the
    encoder's output."""

    def __init__(self):
        self.own, self.memory = KeyValueCache(), KeyValueCache(constant=True)


def initialise(module):
    """Xavier-uniform weights and zero biases for linear layers; embeddings of unit norm."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim ** -0.5)


class Seq2SeqTransformer(nn.Module):
    """Encoder-decoder transformer over one vocabulary; source and target share the token embedding.

    Masks are 1/True = attend, 0/False = masked, broadcastable to the scores `[B, H, T, S]`. `src_mask=None` means that
    every source token is real; `tgt_mask=None` means causal. `order` says in which order the digits of an answer are
    written: the highest first, as the data files have them, or the units first. `generate` returns answers as in the
    files either way; decoder inputs and logits are in the order of writing (`written` turns a target into it).
    `positions` says how the model knows places: by `PositionalEncoding`, by trained rows, or by the columns of the
        addition (`positions/columns.py`).

    Attributes:
        config: all arguments. They travel in the state dict.
        about: what training noted of the model, plain values (see `checkpoint.py`). It travels in the state dict too.

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`, or no order or kind of positions has that
            name.
    """

    def __init__(self, vocab_size, d_model=128, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, d_ff=512,
                 dropout=0.1, max_len=100, order=ORDERS[0], positions=POSITIONS[0]):
        super().__init__()
        for what, value, choices in (("order", order, ORDERS), ("kind of positions", positions, POSITIONS)):
            if value not in choices:
                raise ValueError(f"no {what} is called {value!r}: choose from {', '.join(choices)}")
        self.config = ModelConfig(vocab_size, d_model, num_heads, num_encoder_layers, num_decoder_layers, d_ff,
                                  dropout, max_len, order, positions)
        self.vocab_size, self.about = vocab_size, {}
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positional_encoding = (PositionalEncoding(d_model, max_len) if positions == "sinusoidal" else
                                    LearnedPositions(d_model, max_len) if positions == "learned" else None)
        self.columns = ColumnPositions(num_heads, num_encoder_layers, num_decoder_layers,
                                       order == "right-to-left") if positions == "columns" else None
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_encoder_layers))
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_decoder_layers))
        self.encoder_norm = nn.LayerNorm(d_model)
        self.decoder_norm = nn.LayerNorm(d_model)
        self.output_projection = nn.Linear(d_model, vocab_size)
        self.dropout = nn.Dropout(dropout)
        self.apply(initialise)

    def get_extra_state(self):
        """What `state_dict` holds beside the weights: the arguments, and what training noted."""
        return {"config": asdict(self.config), "about": self.about}

    def set_extra_state(self, state):
        """Take over what training noted of the weights that are loaded.

        Raises:
            ValueError: if they are of a model with other arguments, where the shapes of the weights do not show it.
        """
        theirs = ModelConfig(**state["config"])
        for name in ("num_heads", "order"):
            trained, own = getattr(theirs, name), getattr(self.config, name)
            if trained != own:
                raise ValueError(f"these are weights of a model with {name} = {trained!r}, and this one has {own!r}: "
                                 "make it with their arguments, or let learning.checkpoint.load_model make it")
        self.about = dict(state["about"])

    def written(self, target):
        """Targets `[B, T]`, as in the data files and padded at the end, in the order in which the model writes them;
        applied twice it changes nothing."""
        if self.config.order == ORDERS[0]:
            return target
        place = torch.arange(target.size(1), device=target.device)
        reversed_place = (target != PAD_TOKEN).sum(dim=1, keepdim=True) - 1 - place
        return target.gather(1, torch.where(reversed_place < 0, place, reversed_place))

    def embed(self, tokens, first_position=0):
        """Tokens `[B, T]` -> embeddings, with sinusoids or rows added if there are any, `[B, T, d_model]`."""
        x = self.embedding(tokens) * math.sqrt(self.config.d_model)
        if self.positional_encoding is not None:
            x = self.positional_encoding(x, first_position)
        return self.dropout(x)

    def encode(self, src, src_mask=None):
        """Source tokens `[B, S]` -> the encoder's output `[B, S, d_model]`."""
        x = self.embed(src)
        biases = repeat(None) if self.columns is None else self.columns.encoder_biases(x, src_mask)
        for layer, bias in zip(self.encoder_layers, biases):
            x = layer(x, src_mask, bias)
        return self.encoder_norm(x)

    def decode(self, tgt, encoder_output, src_mask=None, tgt_mask=None, caches=None):
        """Decoder hidden states.

        Args:
            tgt: decoder input `[B, T]`, the target after a start token.
            encoder_output: `[B, S, d_model]`.
            src_mask, tgt_mask: as for the class.
            caches: None, or one `DecoderCache` a layer; then `tgt` is the single token that follows the cached ones.

        Returns:
            Hidden states `[B, T, d_model]`; `output_projection` turns them into logits.

        Raises:
            ValueError: if there are caches and more than one token.
        """
        first_position = 0
        if caches is None:
            caches = [None] * len(self.decoder_layers)
            if tgt_mask is None:
                tgt_mask = create_causal_mask(tgt.size(1), tgt.device)
        elif tgt.size(1) != 1:
            raise ValueError(f"with caches, tokens are decoded one at a time, not {tgt.size(1)}")
        elif caches:
            first_position = len(caches[0].own)
        x = self.embed(tgt, first_position)
        biases = (repeat((None, None)) if self.columns is None else
                  self.columns.decoder_biases(x, encoder_output, src_mask, first_position))
        for layer, cache, bias in zip(self.decoder_layers, caches, biases):
            x = layer(x, encoder_output, src_mask, tgt_mask, cache, bias)
        return self.decoder_norm(x)

    def forward(self, src, tgt, src_mask=None, tgt_mask=None):
        """Logits `[B, T, vocab_size]` for source tokens `[B, S]` and decoder input `[B, T]`."""
        return self.output_projection(self.decode(tgt, self.encode(src, src_mask), src_mask, tgt_mask))

    @torch.no_grad()
    def generate(self, src, max_len=20, start_token=START_TOKEN, src_mask=None):
        """Greedy decoding with cached keys and values.

        Args:
            src: source tokens `[B, S]`.
            max_len: number of tokens to generate.
            start_token: the token that stands before the first one.
            src_mask: as for the class.

        Returns:
            Generated tokens `[B, max_len]`, without the start token, in the order of the data files.
        """
        encoder_output = self.encode(src, src_mask)
        caches = [DecoderCache() for _ in self.decoder_layers]
        token = torch.full((src.size(0), 1), start_token, dtype=torch.long, device=src.device)
        generated = [token[:, :0]]
        for _ in range(max_len):
            hidden = self.decode(token, encoder_output, src_mask, caches=caches)
            token = self.output_projection(hidden).argmax(dim=-1)
            generated.append(token)
        answer = torch.cat(generated, dim=1)
        return answer if self.config.order == ORDERS[0] else answer.flip(1)
