"""A transformer encoder (Vaswani et al. 2017) that reads a sequence and says whether it is sorted.

Layers normalise before each sublayer (Xiong et al. 2020, arXiv:2002.04745). Which positional encoding is used is known
to `SortingClassifier` alone, by name; attention sees its interface.
Shapes in comments: B batch, L length, T queries, S keys, H heads, D width of one head.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from positional_encoding import get_positional_encoding
from positions.base import NoPositionalEncoding


@dataclass(frozen=True)
class ModelConfig:
    """The arguments of `SortingClassifier`; saved in every checkpoint, so that a model is rebuilt without guessing."""

    vocab_size: int
    d_model: int
    num_heads: int
    num_layers: int
    d_ff: int
    dropout: float
    max_len: int
    encoding_type: str
    pooling: str = "mean"
    log_scaling: bool | str = False


LEARNED_SCALING = "learned"
SMALLEST_SCALE = 0.1  # a scale stays positive: a bias of -inf cannot be multiplied by 0


def attention_scores(Q, K, bias=None):
    """Q K^T / sqrt(d_k) + bias: `[B, ..., T, S]` for queries `[B, ..., T, d_k]` and keys `[B, ..., S, d_k]`."""
    scores = (Q / math.sqrt(Q.size(-1))) @ K.transpose(-2, -1)
    return scores if bias is None else scores + bias


def scaled_dot_product_attention(Q, K, V, mask=None, bias=None):
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k) + bias) V.

    Args:
        Q: queries `[B, ..., T, d_k]`.
        K: keys `[B, ..., S, d_k]`.
        V: values `[B, ..., S, d_v]`.
        mask: None, or broadcastable to the scores `[B, ..., T, S]`; 1/True = attend, 0/False = masked.
        bias: None, or broadcastable to the scores.

    Returns:
        `(output [B, ..., T, d_v], attention_weights [B, ..., T, S])`. A query whose keys are all masked gets zero
        weights and zero output (and zero gradient), never NaN.
    """
    scores = attention_scores(Q, K, bias)
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        masked = mask == 0
        # The lowest finite score, not -inf: a row that is masked throughout stays finite and is zeroed afterwards.
        weights = scores.masked_fill(masked, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(masked, 0.0)
    return weights @ V, weights


class MultiHeadAttention(nn.Module):
    """H attentions side by side, each on its own D = d_k = d_model / H dimensions.

    With `log_scaling` the scores, bias included, are multiplied by the logarithm of the number n of keys, so that a
    softmax over many keys can stay as sharp as one over few (Chiang & Cholak 2022, arXiv:2202.12172, section 5); with
    `LEARNED_SCALING` by s log n + b, s and b a learned number each a head, which start from 1 and 0 (Nakanishi 2025,
    arXiv:2501.19399, learns s).

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`.
    """

    def __init__(self, d_model, num_heads, log_scaling=False):
        super().__init__()
        if num_heads < 1 or d_model < 1 or d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be a positive multiple of num_heads ({num_heads})")
        self.d_model, self.num_heads, self.d_k, self.log_scaling = d_model, num_heads, d_model // num_heads, log_scaling
        self.W_q = nn.Linear(d_model, d_model)
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)
        self.W_o = nn.Linear(d_model, d_model)
        self.no_positions = NoPositionalEncoding(d_model)
        if log_scaling == LEARNED_SCALING:
            self.scale_slope = nn.Parameter(torch.ones(num_heads))
            self.scale_offset = nn.Parameter(torch.zeros(num_heads))

    def split_heads(self, x):
        """`[B, T, d_model]` -> `[B, H, T, D]`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def combine_heads(self, x):
        """`[B, H, T, D]` -> `[B, T, d_model]`, the inverse of `split_heads`."""
        return x.transpose(1, 2).flatten(2)

    def forward(self, query, key, value, mask=None, positions=None):
        """Multi-head attention.

        Args:
            query: `[B, T, d_model]`.
            key, value: `[B, S, d_model]`.
            mask: None or broadcastable to `[B, H, T, S]`; 1/True = attend, 0/False = masked.
            positions: None, or the positional encoding, which may rotate queries and keys and bias the scores.

        Returns:
            `(output [B, T, d_model], attention_weights [B, H, T, S])`.
        """
        Q, K, bias = self.queries_and_keys(query, key, positions or self.no_positions, mask)
        heads, weights = scaled_dot_product_attention(Q, K, self.split_heads(self.W_v(value)), mask, bias)
        return self.W_o(self.combine_heads(heads)), weights

    def queries_and_keys(self, query, key, positions, mask=None):
        """Queries and keys of every head `[B, H, T, D]`, `[B, H, S, D]` with positions worked in, and the bias of the
        scores."""
        Q, K = positions.rotate(self.split_heads(self.W_q(query)), self.split_heads(self.W_k(key)))
        bias = positions.bias(Q)
        if not self.log_scaling:
            return Q, K, bias
        keys = torch.tensor(K.size(2)) if mask is None else (mask != 0).sum(dim=-1, keepdim=True)
        scale = self.scale(keys.to(Q))
        return Q * scale, K, None if bias is None else bias * scale

    def scale(self, keys):
        """What the scores are multiplied by, given how many keys each query has: `keys` is a number in a tensor or
        broadcastable to `[B, H, T, 1]`, and so is the result."""
        if not self.log_scaling:
            return torch.ones_like(keys)
        logarithm = keys.clamp(min=2).log()  # of one key it would be 0
        if self.log_scaling != LEARNED_SCALING:
            return logarithm
        learned = self.scale_slope[:, None, None] * logarithm + self.scale_offset[:, None, None]
        return learned.clamp(min=SMALLEST_SCALE)

    def scores(self, query, key, positions):
        """The scores `[B, H, T, S]` that the softmax of `forward` sees if nothing is masked."""
        return attention_scores(*self.queries_and_keys(query, key, positions))


class TransformerEncoderLayer(nn.Module):
    """Self-attention, then two linear layers with a ReLU between; each reads the normalised stream and adds to it."""

    def __init__(self, d_model, num_heads, d_ff, dropout=0.1, log_scaling=False):
        super().__init__()
        self.self_attn = MultiHeadAttention(d_model, num_heads, log_scaling)
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None, positions=None):
        """`x [B, L, d_model]`, `mask` broadcastable to `[B, H, L, L]` -> `[B, L, d_model]`."""
        h = self.norm1(x)
        x = x + self.dropout(self.self_attn(h, h, h, mask, positions)[0])
        return x + self.dropout(self.linear2(self.dropout(self.linear1(self.norm2(x)).relu())))


class MeanPooling(nn.Module):
    """The mean over the real positions. What one position alone shows counts 1 / L (Chiang & Cholak 2022,
    arXiv:2202.12172).

    A sequence without any real value is pooled to zeros, here and in the other poolings.
    """

    def __init__(self, d_model, log_scaling=False):
        super().__init__()

    def forward(self, h, classifier, mask=None):
        """Pool `h [B, L, d_model]`, which `classifier` will see, under mask `[B, L]` (True = real; None = all are):
        `[B, d_model]`."""
        if mask is None:
            return h.mean(dim=1)
        real = mask.to(h.dtype).unsqueeze(-1)
        return (h * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


class MaxPooling(MeanPooling):
    """The largest value of each feature over the real positions, which one position alone can set at any length."""

    def forward(self, h, classifier, mask=None):
        if mask is None:
            return h.amax(dim=1)
        masked = ~mask.unsqueeze(-1)
        return h.masked_fill(masked, -math.inf).amax(dim=1).masked_fill(masked.all(dim=1), 0.0)


class LowestPooling(MeanPooling):
    """The output at the one real position that the classifier finds least sorted: a sequence is sorted if every place
    in it is.

    Its margin (logit of class 1 minus logit of class 0) is then the lowest of the margins of all positions.
    """

    def forward(self, h, classifier, mask=None):
        logits = classifier(h)
        margin = logits[..., 1] - logits[..., 0]
        if mask is not None:
            margin = margin.masked_fill(~mask, math.inf)
        place = margin.argmin(dim=1)[:, None, None].expand(-1, 1, h.size(2))
        lowest = h.gather(1, place).squeeze(1)
        return lowest if mask is None else lowest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


class AttentionPooling(MeanPooling):
    """A mean weighted by the softmax, over the real positions, of a learned linear score (Lin et al. 2017,
    arXiv:1703.03130, one hop).

    The scores start from 0: as the plain mean. With any `log_scaling` they are multiplied by the logarithm of the
    number of real positions, as those of `MultiHeadAttention` are; the query learns how large they are.
    """

    def __init__(self, d_model, log_scaling=False):
        super().__init__(d_model)
        self.log_scaling = bool(log_scaling)
        self.query = nn.Parameter(torch.zeros(d_model))

    def forward(self, h, classifier, mask=None):
        scores = h @ self.query
        if self.log_scaling:
            real = torch.tensor(h.size(1)) if mask is None else mask.sum(dim=1, keepdim=True)
            scores = scores * real.clamp(min=1).to(h).log()
        if mask is None:
            weights = scores.softmax(dim=1)
        else:
            weights = scores.masked_fill(~mask, torch.finfo(h.dtype).min).softmax(dim=1).masked_fill(~mask, 0.0)
        return (weights.unsqueeze(-1) * h).sum(dim=1)


POOLINGS = {"mean": MeanPooling, "max": MaxPooling, "lowest": LowestPooling, "attention": AttentionPooling}


class SortingClassifier(nn.Module):
    """Encoder, pooling over the real positions, and a linear layer to two classes: 0 unsorted, 1 sorted.

    All arguments are kept in `config`. `pooling` is a name in `POOLINGS`; `log_scaling`, False, True or
    `LEARNED_SCALING`, is explained in `MultiHeadAttention` and `AttentionPooling`. `about` is a dict of plain values
    that say where the weights come from; both travel in the state dict.

    Raises:
        ValueError: if `d_model` is not a positive multiple of `num_heads`, no encoding or pooling has that name, or the
            encoding cannot be had at these sizes.
    """

    def __init__(self, vocab_size=101, d_model=128, num_heads=4, num_layers=4, d_ff=512, dropout=0.1, max_len=300,
                 encoding_type="sinusoidal", pooling="mean", log_scaling=False):
        super().__init__()
        self.config = ModelConfig(vocab_size, d_model, num_heads, num_layers, d_ff, dropout, max_len, encoding_type,
                                  pooling, log_scaling)
        self.about = {}
        if pooling not in POOLINGS:
            raise ValueError(f"no pooling is called {pooling!r}: choose from {', '.join(POOLINGS)}")
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(TransformerEncoderLayer(d_model, num_heads, d_ff, dropout, log_scaling)
                                    for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.classifier = nn.Linear(d_model, 2)
        self.dropout = nn.Dropout(dropout)
        self.apply(initialise)
        self.pos_encoding = get_positional_encoding(encoding_type, d_model, max_len, num_heads)
        self.pooling = POOLINGS[pooling](d_model, log_scaling)

    def embed(self, x):
        """Values `[B, L]` -> embeddings with positions added `[B, L, d_model]`."""
        return self.dropout(self.pos_encoding(self.embedding(x) * math.sqrt(self.config.d_model)))

    def encode(self, x, mask=None):
        """Values `[B, L]` and mask `[B, L]`, real values first -> the encoder's output `[B, L, d_model]`."""
        h = self.embed(x)
        key_mask = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            h = layer(h, key_mask, self.pos_encoding)
        return self.norm(h)

    def forward(self, x, mask=None):
        """Logits `[B, 2]` for values `x [B, L]`; mask `[B, L]`, 1/True = real, None = all are real.

        Positions are counted over the real values alone: where padding stands, and how much of it, changes nothing.
        """
        if x.size(1) == 0:  # as one padded value, so that there is something to attend to and to pool
            x, mask = F.pad(x, (0, 1)), torch.zeros(len(x), 1, device=x.device)
        if mask is not None:
            mask, order = (mask != 0).sort(dim=1, descending=True, stable=True)  # real values first, in their order
            x = x.gather(1, order)
        return self.classifier(self.pooling(self.encode(x, mask), self.classifier, mask))

    def get_extra_state(self):
        """What `state_dict()` holds beside the tensors: plain values that rebuild the model."""
        return {"config": asdict(self.config), "about": self.about}

    def set_extra_state(self, state):
        """Take over what training noted of the weights that are loaded.

        Raises:
            ValueError: if they are of a model with other arguments, where the shapes of the weights do not show it.
        """
        theirs = ModelConfig(**state["config"])
        for name in ("num_heads", "encoding_type", "pooling", "log_scaling"):
            trained, own = getattr(theirs, name), getattr(self.config, name)
            if trained != own:
                raise ValueError(f"these are weights of a model with {name} = {trained!r}, and this one has {own!r}: "
                                 "make it with their arguments, or let learning.checkpoint.load_model make it")
        self.about = dict(state["about"])

    def predict(self, x, mask=None):
        """Predicted classes `[B]`: 1 sorted, 0 unsorted."""
        return self.forward(x, mask).argmax(dim=-1)


def initialise(module):
    """Xavier-uniform weights and zero biases for linear layers; embeddings of unit norm."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim ** -0.5)


def create_model(encoding_type="sinusoidal", **kwargs):
    """A `SortingClassifier` with that encoding; `kwargs` are its other arguments."""
    return SortingClassifier(encoding_type=encoding_type, **kwargs)
