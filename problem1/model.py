"""The encoder-decoder transformer (Vaswani et al. 2017), with layer normalisation before sublayers.

Pre-norm (Xiong et al. 2020, arXiv:2002.04745) trains at a high learning rate with little warm-up.
Shapes in comments: B batch, T target positions, S source positions, H heads.
"""

import json
import math
import os
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from support.cli import UserError
from support.files import read_checkpoint

import torch
from torch import nn

from attention import MultiHeadAttention, create_causal_mask
from dataset import MAX_DIGITS, ORDERS, START_TOKEN, VOCAB_SIZE

EXTRA_STATE = "_extra_state"  # torch's name for what a state dict holds beside the weights
LARGEST_SIZE = 100_000  # of any argument in a checkpoint


@dataclass(frozen=True)
class ModelConfig:
    """The arguments of `Seq2SeqTransformer`. Every checkpoint holds them."""

    vocab_size: int
    d_model: int
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    d_ff: int
    dropout: float
    max_len: int


class PositionalEncoding(nn.Module):
    """Adds the sinusoids of section 3.5.

    PE(pos, 2i) = sin(pos / 10000^(2i / d_model)), PE(pos, 2i + 1) = cos(the same angle).
    """

    def __init__(self, d_model, max_len=5000):
        super().__init__()
        position = torch.arange(max_len).unsqueeze(1)  # [max_len, 1]
        frequency = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        table = torch.zeros(max_len, d_model)
        table[:, 0::2] = torch.sin(position * frequency)
        table[:, 1::2] = torch.cos(position * frequency[: d_model // 2])
        self.register_buffer("table", table, persistent=False)

    def forward(self, x):
        """`x [B, T, d_model]` -> the same shape.

        Raises:
            ValueError: if there are more than `max_len` positions.
        """
        if x.size(1) > len(self.table):
            raise ValueError(f"{x.size(1)} tokens do not fit max_len = {len(self.table)}")
        return x + self.table[: x.size(1)]


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

    def __init__(self, d_model, num_heads, d_ff, dropout=0.1, attention=MultiHeadAttention):
        super().__init__()
        self.self_attn = attention(d_model, num_heads)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None):
        """`x [B, S, d_model]`, `mask` broadcastable to `[B, H, S, S]` -> `[B, S, d_model]`."""
        h = self.norm1(x)
        x = x + self.dropout(self.self_attn(h, h, h, mask)[0])
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, then feed-forward."""

    def __init__(self, d_model, num_heads, d_ff, dropout=0.1, attention=MultiHeadAttention):
        super().__init__()
        self.self_attn = attention(d_model, num_heads)
        self.cross_attn = attention(d_model, num_heads)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, encoder_output, src_mask=None, tgt_mask=None):
        """One decoder layer.

        Args:
            x: `[B, T, d_model]`.
            encoder_output: `[B, S, d_model]`.
            src_mask: None, or broadcastable to `[B, H, T, S]`.
            tgt_mask: None, or broadcastable to `[B, H, T, T]`.

        Returns:
            `[B, T, d_model]`.
        """
        h = self.norm1(x)
        x = x + self.dropout(self.self_attn(h, h, h, tgt_mask)[0])
        h = self.norm2(x)
        x = x + self.dropout(self.cross_attn(h, encoder_output, encoder_output, src_mask)[0])
        return x + self.dropout(self.feed_forward(self.norm3(x)))


def initialise(module):
    """Xavier-uniform weights and zero biases for linear layers; embeddings of unit norm."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


@contextmanager
def evaluating(model):
    """Within the block the model is in evaluation mode; then each part is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Seq2SeqTransformer(nn.Module):
    """Encoder-decoder transformer; source and target share one vocabulary and its embedding.

    Masks are 1/True = attend, 0/False = masked. `src_mask` is `[B, S]` (which source tokens are
    real) or broadcastable to `[B, H, T, S]`; None means that all are real. `tgt_mask` is
    broadcastable to `[B, H, T, T]`; None means causal.

    Attributes:
        config: all arguments.
        training_info: plain values that training noted of the weights, such as `num_digits`.

    Both travel in the state dict as one tensor of bytes, so that whoever averages, counts or casts
    the values of a state dict meets tensors alone.

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`.
    """

    attention = MultiHeadAttention  # a subclass may put another one in

    def __init__(
        self,
        vocab_size,
        d_model=128,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        d_ff=512,
        dropout=0.1,
        max_len=100,
    ):
        super().__init__()
        self.config = ModelConfig(
            vocab_size,
            d_model,
            num_heads,
            num_encoder_layers,
            num_decoder_layers,
            d_ff,
            dropout,
            max_len,
        )
        self.vocab_size, self.d_model, self.training_info = vocab_size, d_model, {}
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positional_encoding = self.make_positional_encoding()
        sizes = d_model, num_heads, d_ff, dropout, self.attention
        self.encoder_layers = nn.ModuleList(EncoderLayer(*sizes) for _ in range(num_encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(*sizes) for _ in range(num_decoder_layers))
        self.encoder_norm = nn.LayerNorm(d_model)
        self.decoder_norm = nn.LayerNorm(d_model)
        self.output_projection = nn.Linear(d_model, vocab_size)
        self.dropout = nn.Dropout(dropout)
        self.apply(initialise)

    def make_positional_encoding(self):
        """The module that adds positions to the embeddings; a subclass may use another one."""
        return PositionalEncoding(self.d_model, self.config.max_len)

    def embed(self, tokens):
        """Tokens `[B, T]` -> embeddings with positions `[B, T, d_model]`."""
        return self.dropout(
            self.positional_encoding(self.embedding(tokens) * math.sqrt(self.d_model))
        )

    def encode(self, src, src_mask=None):
        """Source tokens `[B, S]` -> the encoder's output `[B, S, d_model]`."""
        x = self.embed(src)
        for layer in self.encoder_layers:
            x = layer(x, key_mask(src_mask))
        return self.encoder_norm(x)

    def decode(self, tgt, encoder_output, src_mask=None, tgt_mask=None):
        """Decoder input `[B, T]` (the target after a start token) -> hidden states.

        They are `[B, T, d_model]`; `output_projection` turns them into logits.
        """
        if tgt_mask is None:
            tgt_mask = create_causal_mask(tgt.size(1), tgt.device)
        x = self.embed(tgt)
        for layer in self.decoder_layers:
            x = layer(x, encoder_output, key_mask(src_mask), tgt_mask)
        return self.decoder_norm(x)

    def forward(self, src, tgt, src_mask=None, tgt_mask=None):
        """Logits `[B, T, vocab_size]` for source tokens `[B, S]` and decoder input `[B, T]`."""
        hidden = self.decode(tgt, self.encode(src, src_mask), src_mask, tgt_mask)
        return self.output_projection(hidden)

    @torch.no_grad()
    def generate(self, src, max_len=20, start_token=START_TOKEN, src_mask=None):
        """Greedy decoding, in evaluation mode whatever the model's mode is.

        Args:
            src: source tokens `[B, S]`.
            max_len: number of tokens to generate.
            start_token: the token that stands before the first one.
            src_mask: as for the class.

        Returns:
            Generated tokens `[B, max_len]`, without the start token.
        """
        if start_token != START_TOKEN:
            warnings.warn(
                f"decoding starts from token {start_token}, but models of this project are trained "
                f"to start from {START_TOKEN}",
                stacklevel=3,
            )
        tokens = torch.full((len(src), 1), start_token, dtype=torch.long, device=src.device)
        with evaluating(self):
            encoder_output = self.encode(src, src_mask)
            for _ in range(max_len):
                hidden = self.decode(tokens, encoder_output, src_mask)[:, -1:]  # [B, 1, d_model]
                token = self.output_projection(hidden).argmax(dim=-1)  # [B, 1]
                tokens = torch.cat([tokens, token], dim=1)
        return tokens[:, 1:]

    def get_extra_state(self):
        """The class, its arguments and `training_info`, as the bytes of JSON text: uint8 `[n]`."""
        state = {
            "model": type(self).__name__,
            "config": asdict(self.config),
            "training_info": self.training_info,
        }
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state):
        """Take over what training noted of the weights that are loaded.

        Raises:
            ValueError: if they are of another model, where the shapes do not show it.
        """
        state = decode_extra_state(state)
        theirs, ours = (state["model"], state["config"]["num_heads"]), self.config.num_heads
        if theirs != (type(self).__name__, ours):
            raise ValueError(
                f"these are weights of a {theirs[0]} with {theirs[1]} heads, and this is a "
                f"{type(self).__name__} with {ours}: load them with model.load_model"
            )
        self.training_info = state["training_info"]

    def load_state_dict(self, state_dict, *args, **kwargs):
        """As `nn.Module` does; a state dict of the weights alone is complete as well."""
        state_dict = {EXTRA_STATE: self.get_extra_state(), **state_dict}
        return super().load_state_dict(state_dict, *args, **kwargs)


def key_mask(mask):
    """A mask of real tokens `[B, S]` as `[B, 1, 1, S]`; every other mask as it is."""
    return mask[:, None, None, :] if mask is not None and mask.dim() == 2 else mask


def decode_extra_state(state):
    """The inverse of `get_extra_state`, also after the bytes were averaged or cast."""
    return json.loads(bytes(state.round().to(torch.uint8).tolist()))


MODELS = {"Seq2SeqTransformer": Seq2SeqTransformer}


def load_model(path, device="cpu"):
    """Rebuild a trained model from its checkpoint, in evaluation mode.

    Raises:
        UserError: if the file is missing or damaged, or holds no model of this project.
    """
    folder = Path(path).parent
    command = "problem1/beyond train" if folder.parent.name == "beyond" else "train.py"
    if folder.name == "any_length":
        command = "problem1/beyond any-length"
    remedy = f"train the model with python {command} --output-dir {folder}"
    weights = read_checkpoint(path, device, remedy)
    try:
        state = decode_extra_state(weights[EXTRA_STATE])
        if state["model"] not in MODELS:
            import beyond  # noqa: F401  (a checkpoint of a model that beyond/ adds to MODELS)
        check_state(state, weights, os.path.getsize(path))
        model = MODELS[state["model"]](**state["config"])
        model.load_state_dict(weights)
        if not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise ValueError("a weight is not finite")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:120]
        raise UserError(f"{path} holds no model of this project ({reason}): {remedy}") from None
    return model.to(device).eval()


def check_state(state, weights, file_size):
    """Raise ValueError unless a checkpoint can be a model's, before memory is taken for it."""
    # A subclass may have arguments of its own as well; they are its constructor's affair.
    config = ModelConfig(*(state["config"][field.name] for field in fields(ModelConfig)))
    sizes = [value for name, value in asdict(config).items() if name != "dropout"]
    info = state["training_info"]
    if not all(type(size) is int and 0 < size <= LARGEST_SIZE for size in sizes):
        raise ValueError("a size of the model is impossible")
    if not 0 <= config.dropout < 1:
        raise ValueError("the dropout probability is impossible")
    layers = config.num_encoder_layers + config.num_decoder_layers
    total = sum(value.numel() for value in weights.values())
    layer = 4 * config.d_model**2 + 2 * config.d_model * config.d_ff
    if layers > len(weights) or layers * layer > total or config.vocab_size != VOCAB_SIZE:
        raise ValueError("the weights are not those of a model of these sizes")
    if not all(value.is_floating_point() for name, value in weights.items() if name != EXTRA_STATE):
        raise ValueError("a weight is not a real number")
    if sum(value.numel() * value.element_size() for value in weights.values()) > file_size:
        raise ValueError("the weights are larger than the file")  # one number, repeated
    n = info["num_digits"]
    if type(n) is not int or not 1 <= n <= MAX_DIGITS or 2 * n + 1 > config.max_len:
        raise ValueError("the number of digits is impossible")
    if info["order"] not in ORDERS or type(info["train_sha256"]) is not str:
        raise ValueError("its notes of the training are wrong")
