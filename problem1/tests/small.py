"""Small data, small models, and stand-ins for a model whose answers are known."""

from support import files

import torch

from attention import MultiHeadAttention
from dataset import ORDERS, VOCAB_SIZE, decode_problems, encode_problems, in_order
from generate_data import generate
from heads.carries import carries_out
from heads.sites import Site
from model import Seq2SeqTransformer
from tests.helpers import TemporaryFolder

TRAINING = ("--batch-size", 8, "--dropout", 0.1, "--device", "cpu")
TINY = ("--d-model", 16, "--num-heads", 2, "--num-layers", 1, "--d-ff", 16, *TRAINING)
TOLERANCE = {"rtol": 0, "atol": 1e-12}


class SmallData(TemporaryFolder):
    """A test with a folder that can hold few problems."""

    def small_data(self, num_digits=1, sizes=(40, 20, 20)):
        generate(self.folder / "data", num_digits, 641, *sizes)
        return self.folder / "data"


def info(num_digits=2, order=ORDERS[0], train_sha256=""):
    """What training notes of a model's weights."""
    return {"num_digits": num_digits, "order": order, "train_sha256": train_sha256}


def small_model(kind=Seq2SeqTransformer, seed=0, order=ORDERS[0], **sizes):
    """A model with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    defaults = {"d_model": 16, "num_heads": 4, "d_ff": 32, "dropout": 0.0}
    model = kind(VOCAB_SIZE, **defaults | sizes).eval()
    model.training_info = info(order=order)
    return model


def save(path, model, **changes):
    """Save a model's checkpoint with `changes` of what training noted of it."""
    model.training_info = info() | model.training_info | changes
    files.write_files({path: files.checkpoint_bytes(model.state_dict())})


def digits(*numbers):
    """Numbers as `[N, n]` digits."""
    return torch.tensor([list(map(int, str(number))) for number in numbers])


def some_problems(count=40, num_digits=2, seed=0, order=ORDERS[0]):
    """Source and target tokens of problems drawn at random, targets in the order of writing."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(10, (2, count, num_digits), generator=generator)
    a[:, 0], b[:, 0] = a[:, 0].clamp(min=1), b[:, 0].clamp(min=1)
    source, target = encode_problems(a, b)
    return source, in_order(target, order)


class Oracle(torch.nn.Module):
    """Knows the answers, and gives `wrong(target [B, T])` instead.

    With `forced`, it is right with teacher forcing nevertheless.
    """

    def __init__(self, num_digits=3, wrong=lambda target: target, forced=False, order=ORDERS[0]):
        super().__init__()
        self.wrong, self.forced, self.training_info = wrong, forced, info(num_digits, order)
        self.config = small_model().config
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def right(self, source):
        return in_order(encode_problems(*decode_problems(source))[1], self.training_info["order"])

    def generate(self, source, max_len, src_mask=None):
        return self.wrong(self.right(source))[:, :max_len]

    def forward(self, source, tgt, src_mask=None):
        right = self.right(source)
        answer = right if self.forced else self.wrong(right)
        return torch.nn.functional.one_hot(answer, VOCAB_SIZE) * 50.0


class PlantedHeads(MultiHeadAttention):
    """Heads of width 1 with given outputs `[B, H, T, 1]` and weights; they leave side by side."""

    def __init__(self, num_heads):
        super().__init__(num_heads, num_heads)
        self.W_o = torch.nn.Identity()

    def forward(self, heads, weights):
        return self.W_o(self.combine_heads(heads)), weights  # [B, T, H]


class PlantedLayer(torch.nn.Module):
    """The decoder layer of `Planted`: decoder input `[N, T]` -> logits `[N, T, vocab_size]`."""

    def __init__(self, backup):
        super().__init__()
        self.backup, self.feed_forward = backup, torch.nn.Identity()
        self.self_attn, self.cross_attn = PlantedHeads(1), PlantedHeads(4)

    def forward(self, tgt, memory, src_mask=None, tgt_mask=None):
        a, b = decode_problems(memory)
        (N, n), T = a.shape, tgt.size(1)
        zero = torch.zeros(N, 1, dtype=torch.long)
        sums = torch.cat([zero, a + b], dim=1)[:, :T]  # [N, T]
        carry = torch.cat([carries_out(a, b).long(), zero], dim=1)[:, :T]
        heads = [sums, carry, carry if self.backup else 0 * carry, sums + 1]
        heads = torch.stack(heads, dim=1).unsqueeze(-1).float()  # [N, H, T, 1]
        idle, _ = self.self_attn(torch.zeros(N, 1, T, 1), torch.ones(N, 1, T, T).tril())
        weights = torch.full((N, 4, T, 2 * n + 1), 1 / (2 * n + 1))
        heads, _ = self.cross_attn(heads, weights)
        self.feed_forward(torch.zeros(N, T, 1))
        own, carried, second, _ = heads.unbind(-1)
        digit = (own + torch.maximum(carried, second)).remainder(10) + 0 * idle[:, :, 0]
        return -10 * (torch.arange(VOCAB_SIZE) - digit.unsqueeze(-1)) ** 2


class Planted(torch.nn.Module):
    """A stand-in that adds by known means, in its one decoder layer.

    The heads of decoder.0.cross: 0 has the sum of the column's digits, 1 the carry into it, 2 the
    same carry if `backup` (else nothing), 3 something that is never used. A carry arrives if either
    carry head has it.
    """

    def __init__(self, backup=False):
        super().__init__()
        self.training_info, self.config = info(), small_model().config
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.encoder_layers, self.decoder_layers = [], [PlantedLayer(backup)]
        self.embed = self.encoder_norm = self.decoder_norm = torch.nn.Identity()
        self.output_projection = torch.nn.Identity()

    def forward(self, source, tgt, src_mask=None):
        (layer,) = self.decoder_layers
        return layer(tgt, source)

    def generate(self, source, max_len):
        return self(source, torch.zeros(len(source), max_len)).argmax(dim=-1)


OWN, CARRY, SECOND, UNUSED = (Site("decoder.0.cross", head) for head in range(4))
