"""A transformer encoder (Vaswani et al. 2017) that reads a sequence and says whether it is sorted.

Layers normalise before each sublayer (Xiong et al. 2020, arXiv:2002.04745). Only the classifier
knows the positional encoding by name; attention sees its interface.
Shapes in comments: B batch, L length, T queries, S keys, H heads, D width of one head.
"""

import json
import math
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from support.cli import UserError
from support.files import read_checkpoint

import torch
from torch import nn
from torch.nn import functional as F

from dataset import VOCAB_SIZE
from positional_encoding import ENCODINGS, NoPositionalEncoding, get_positional_encoding

EXTRA_STATE = "_extra_state"  # torch's name for what a state dict holds beside the weights
LARGEST_SIZE = 100_000  # of any argument in a checkpoint
LONGEST = 2048  # values of a sequence, where the encoding sets no limit


@dataclass(frozen=True)
class ModelConfig:
    """The arguments of `SortingClassifier`. Every checkpoint holds them."""

    vocab_size: int = VOCAB_SIZE
    d_model: int = 128
    num_heads: int = 4
    num_layers: int = 4
    d_ff: int = 512
    dropout: float = 0.1
    max_len: int = 300
    encoding_type: str = "sinusoidal"
    pooling: str = "mean"


def attention_scores(Q, K, bias=None):
    """Q K^T / sqrt(d_k) + bias: `[B, ..., T, S]`."""
    scores = (Q / math.sqrt(Q.size(-1))) @ K.transpose(-2, -1)
    return scores if bias is None else scores + bias


def scaled_dot_product_attention(Q, K, V, mask=None, bias=None):
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k) + bias) V.

    Args:
        Q: queries `[B, ..., T, d_k]`.
        K: keys `[B, ..., S, d_k]`.
        V: values `[B, ..., S, d_v]`.
        mask: None, or broadcastable to the scores `[B, ..., T, S]`; 1/True = attend, 0/False =
            masked.
        bias: None, or what is added to the scores, broadcastable to them.

    Returns:
        `(output [B, ..., T, d_v], attention_weights [B, ..., T, S])`. Each row of weights sums to
        one. A query whose keys are all masked gets zero weights and zero output, never NaN.

    Raises:
        ValueError: if the mask does not fit the scores, or holds other values than 0 and 1.
    """
    scores = attention_scores(Q, K, bias)
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        masked = ~expand_mask(mask, scores.shape)
        # The lowest finite score, not -inf: a row that is masked throughout stays finite, and the
        # second masked_fill sets it to zero.
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(masked, lowest).softmax(dim=-1).masked_fill(masked, 0.0)
    return weights @ V, weights


def expand_mask(mask, shape):
    """A mask as bools of the scores' `shape`, without enlarging them.

    Raises:
        ValueError: if the mask does not fit, or is additive (0 and -inf) instead of 0 and 1.
    """
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("a mask holds 1 (attend) and 0 (masked) alone; this one has other values")
    if mask.dim() < 2:
        raise ValueError("a mask needs at least two dimensions")
    given = tuple(mask.shape)
    while mask.dim() > len(shape) and mask.size(0) == 1:
        mask = mask.squeeze(0)
    try:
        return (mask != 0).expand(shape)
    except RuntimeError:
        raise ValueError(f"a mask {given} does not fit {tuple(shape)}") from None


class MultiHeadAttention(nn.Module):
    """H attentions side by side, each on its own D = d_k = d_model / H dimensions.

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`.
    """

    def __init__(self, d_model, num_heads):
        super().__init__()
        if num_heads < 1 or d_model < 1 or d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be a multiple of num_heads ({num_heads})")
        self.d_model, self.num_heads, self.d_k = d_model, num_heads, d_model // num_heads
        self.W_q = nn.Linear(d_model, d_model)
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)
        self.W_o = nn.Linear(d_model, d_model)
        self.no_positions = NoPositionalEncoding(d_model)

    def split_heads(self, x):
        """`[B, T, d_model]` -> `[B, H, T, D]`."""
        return x.unflatten(-1, (self.num_heads, self.d_k)).transpose(1, 2)

    def combine_heads(self, x):
        """`[B, H, T, D]` -> `[B, T, d_model]`, the inverse of `split_heads`."""
        return x.transpose(1, 2).flatten(2)

    def forward(self, query, key, value, mask=None, positions=None):
        """Multi-head attention.

        Args:
            query: `[B, T, d_model]`.
            key, value: `[B, S, d_model]`.
            mask: None, or broadcastable to `[B, H, T, S]`; `[B, T, S]` holds for every head.
                1/True = attend, 0/False = masked.
            positions: None, or a `PositionalEncoding`, which may rotate queries and keys and bias
                the scores.

        Returns:
            `(output [B, T, d_model], attention_weights [B, H, T, S])`.
        """
        if mask is not None and mask.dim() == 3:
            mask = mask.unsqueeze(1)
        Q, K, bias = self.queries_and_keys(query, key, positions, mask)
        V = self.split_heads(self.W_v(value))  # [B, H, S, D]
        heads, weights = scaled_dot_product_attention(Q, K, V, mask, bias)
        return self.W_o(self.combine_heads(heads)), weights  # [B, T, d_model], [B, H, T, S]

    def queries_and_keys(self, query, key, positions=None, mask=None):
        """Queries `[B, H, T, D]` and keys `[B, H, S, D]` with positions, and the scores' bias."""
        positions = self.no_positions if positions is None else positions
        Q = self.split_heads(self.W_q(query))
        K = self.split_heads(self.W_k(key))
        Q, K = positions.rotate(Q, K)
        return Q, K, positions.bias(Q)

    def scores(self, query, key, positions=None):
        """The scores `[B, H, T, S]` that the softmax of `forward` sees if nothing is masked."""
        return attention_scores(*self.queries_and_keys(query, key, positions))


class TransformerEncoderLayer(nn.Module):
    """Self-attention, then two linear layers with a ReLU; each adds to the stream it reads."""

    def __init__(self, d_model, num_heads, d_ff, dropout=0.1, attention=MultiHeadAttention):
        super().__init__()
        self.self_attn = attention(d_model, num_heads)
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None, positions=None):
        """`x [B, L, d_model]`, `mask` broadcastable to `[B, H, L, L]` -> `[B, L, d_model]`."""
        h = self.norm1(x)
        x = x + self.dropout(self.self_attn(h, h, h, mask, positions)[0])
        return x + self.dropout(self.feed_forward(self.norm2(x)))

    def feed_forward(self, x):
        """Two linear layers with a ReLU between, at each position alone: `x [..., d_model]`."""
        return self.linear2(self.dropout(self.linear1(x).relu()))


class MeanPooling(nn.Module):
    """The mean over the real positions; what one position alone shows counts 1 / L.

    (Chiang & Cholak 2022, arXiv:2202.12172.) A sequence without any real value gives zeros.
    """

    def __init__(self, d_model):
        super().__init__()

    def forward(self, h, classifier, mask=None):
        """Pool `h [B, L, d_model]` under bools `mask [B, L]` (None: all are real): `[B, d_model]`.

        `classifier` is the linear layer that will read the result.
        """
        if mask is None:
            return h.mean(dim=1)
        real = mask.to(h.dtype).unsqueeze(-1)  # [B, L, 1]
        return (h * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


POOLINGS = {"mean": MeanPooling}  # `beyond` adds its own


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


class SortingClassifier(nn.Module):
    """Encoder, pooling over the real positions, and a linear layer: 0 unsorted, 1 sorted.

    Attributes:
        config: all arguments.
        training_info: plain values that training noted of the weights.

    Both travel in the state dict as one tensor of bytes, so that whoever averages, counts or casts
    the values of a state dict meets tensors alone.

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`, no encoding or pooling
            has that name, or the encoding is impossible at these sizes.
    """

    attention = MultiHeadAttention  # a subclass may put another one in

    def __init__(
        self,
        vocab_size=VOCAB_SIZE,
        d_model=128,
        num_heads=4,
        num_layers=4,
        d_ff=512,
        dropout=0.1,
        max_len=300,
        encoding_type="sinusoidal",
        pooling="mean",
    ):
        super().__init__()
        sizes = vocab_size, d_model, num_heads, num_layers, d_ff, dropout, max_len
        self.config = ModelConfig(*sizes, encoding_type, pooling)
        self.vocab_size, self.d_model, self.encoding_type = vocab_size, d_model, encoding_type
        self.training_info = {}
        if pooling not in POOLINGS:
            known = ", ".join(POOLINGS)
            raise ValueError(f"no pooling is called {pooling!r}: choose from {known}")
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(d_model, num_heads, d_ff, dropout, self.attention)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.classifier = nn.Linear(d_model, 2)
        self.dropout = nn.Dropout(dropout)
        self.apply(initialise)
        self.pos_encoding = get_positional_encoding(encoding_type, d_model, max_len, num_heads)
        self.pooling = self.make_pooling()

    def make_pooling(self):
        """The module that turns the positions into one vector."""
        return POOLINGS[self.config.pooling](self.d_model)

    @property
    def encoder_layers(self):
        """The layers, under the starter kit's name."""
        return self.layers

    @property
    def longest(self):
        """The longest sequence that the model answers: its learned rows, else `LONGEST`."""
        return self.config.max_len if self.pos_encoding.bounded else LONGEST

    def embed(self, x):
        """Values `[B, L]` -> embeddings with positions added `[B, L, d_model]`."""
        return self.dropout(self.pos_encoding(self.embedding(x) * math.sqrt(self.d_model)))

    def encode(self, x, mask=None):
        """Values `[B, L]`, real ones first, and mask `[B, L]` -> the output `[B, L, d_model]`."""
        h = self.embed(x)
        key_mask = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            h = layer(h, key_mask, self.pos_encoding)
        return self.norm(h)

    def forward(self, x, mask=None):
        """Logits `[B, 2]` for values `x [B, L]`; mask `[B, L]` or `[1, L]`, 1/True = real.

        Positions are counted over the real values alone: where padding stands, and how much of it,
        changes nothing.

        Raises:
            ValueError: if the mask has another shape, or other values than 0 and 1.
        """
        if mask is not None:
            mask = expand_mask(mask, x.shape)
        if x.size(1) == 0:  # as one padded value, so that there is something to attend to
            x, mask = F.pad(x, (0, 1)), torch.zeros(len(x), 1, dtype=torch.bool, device=x.device)
        if mask is not None:
            # Move the real values to the front; they keep their order.
            mask, order = mask.sort(dim=1, descending=True, stable=True)
            x = x.gather(1, order)
        return self.classifier(self.pooling(self.encode(x, mask), self.classifier, mask))

    def predict(self, x, mask=None):
        """Predicted classes `[B]`: 1 sorted, 0 unsorted."""
        return self.forward(x, mask).argmax(dim=-1)

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
        theirs, ours = state["config"], asdict(self.config)
        different = [
            name for name in ("num_heads", "encoding_type", "pooling") if theirs[name] != ours[name]
        ]
        if state["model"] != type(self).__name__ or different:
            raise ValueError(
                f"these are weights of another model ({state['model']}, {theirs}): load them with "
                "model.load_model"
            )
        self.training_info = state["training_info"]

    def load_state_dict(self, state_dict, *args, **kwargs):
        """As `nn.Module` does; a state dict of the weights alone is complete as well."""
        state_dict = {EXTRA_STATE: self.get_extra_state(), **state_dict}
        return super().load_state_dict(state_dict, *args, **kwargs)


def decode_extra_state(state):
    """The inverse of `get_extra_state`, also after the bytes were averaged or cast."""
    return json.loads(bytes(state.round().to(torch.uint8).tolist()))


MODELS = {"SortingClassifier": SortingClassifier}  # `beyond` adds its own


def create_model(encoding_type="sinusoidal", **kwargs):
    """A `SortingClassifier` with that encoding; `kwargs` are its other arguments."""
    return SortingClassifier(encoding_type=encoding_type, **kwargs)


def training_remedy(folder):
    """How to train the models that are missing in a folder of results."""
    command = "python problem2/beyond train" if folder.name == "beyond" else "python train.py"
    return f"train the model with {command} --output-dir {folder}"


def load_model(path, device="cpu"):
    """Rebuild a trained model from its checkpoint, in evaluation mode.

    Raises:
        UserError: if the file is missing or damaged, or holds no model of this project.
    """
    path = Path(path)
    remedy = training_remedy(path.parent.parent)
    weights = read_checkpoint(path, device, remedy)
    try:
        state = decode_extra_state(weights[EXTRA_STATE])
        kind, config = state["model"], state["config"]
        names = (kind, MODELS), (config["encoding_type"], ENCODINGS), (config["pooling"], POOLINGS)
        if any(name not in table for name, table in names):
            import beyond  # noqa: F401  (for a checkpoint of what beyond/ adds to these tables)
        check_state(state, weights, os.path.getsize(path))
        model = MODELS[kind](**config)
        model.load_state_dict(weights)
        if not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise ValueError("a weight is not finite")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:120]
        raise UserError(f"{path} holds no model of this project ({reason}): {remedy}") from None
    return model.to(device).eval()


def check_state(state, weights, file_size):
    """Raise ValueError unless a checkpoint can be a model's, before memory is taken for it."""
    config = state["config"]
    names = ("vocab_size", "d_model", "num_heads", "num_layers", "d_ff", "max_len")
    sizes = [config[name] for name in names]
    if not all(type(size) is int and 0 < size <= LARGEST_SIZE for size in sizes):
        raise ValueError("a size of the model is impossible")
    if not 0 <= config["dropout"] < 1:
        raise ValueError("the dropout probability is impossible")
    layer = 4 * config["d_model"] ** 2 + 2 * config["d_model"] * config["d_ff"]
    total = sum(value.numel() for value in weights.values())
    fits = config["num_layers"] <= len(weights) and config["num_layers"] * layer <= total
    if not fits or config["vocab_size"] != VOCAB_SIZE:
        raise ValueError("the weights are not those of a model of these sizes")
    if not all(value.is_floating_point() for name, value in weights.items() if name != EXTRA_STATE):
        raise ValueError("a weight is not a real number")
    if sum(value.numel() * value.element_size() for value in weights.values()) > file_size:
        raise ValueError("the weights are larger than the file")  # one number, repeated
    if type(state["training_info"]["train_sha256"]) is not str:
        raise ValueError("its notes of the training are wrong")
