"""The benchmark compares like with like: the reference computes the same, the floor as much."""

from unittest import mock

from support import timing

import torch

from beyond.benchmark import PyTorchTransformer
from dataset import VOCAB_SIZE
from model import Seq2SeqTransformer
from tests.helpers import TemporaryFolder
from tests.small import TOLERANCE, some_problems
from tests.test_attention import copy_attention

SIZES = {"d_model": 24, "num_heads": 3, "num_encoder_layers": 2, "num_decoder_layers": 1}
SIZES |= {"d_ff": 40, "dropout": 0.0}


def copy_weights(ours, theirs):
    """Put the weights of our model into the one of PyTorch's modules."""
    theirs.embedding.load_state_dict(ours.embedding.state_dict())
    theirs.output_projection.load_state_dict(ours.output_projection.state_dict())
    for side in ("encoder", "decoder"):
        stack = getattr(theirs.transformer, side)
        stack.norm.load_state_dict(getattr(ours, f"{side}_norm").state_dict())
        for mine, other in zip(getattr(ours, f"{side}_layers"), stack.layers):
            copy_attention(mine.self_attn, other.self_attn)
            if side == "decoder":
                copy_attention(mine.cross_attn, other.multihead_attn)
                other.norm3.load_state_dict(mine.norm3.state_dict())
            for name in ("norm1", "norm2"):
                getattr(other, name).load_state_dict(getattr(mine, name).state_dict())
            for name in ("linear1", "linear2"):
                linear = getattr(mine.feed_forward, name)
                getattr(other, name).load_state_dict(linear.state_dict())


class Benchmark(TemporaryFolder):
    def test_the_model_of_pytorch_s_modules_computes_the_same(self):
        torch.manual_seed(0)
        ours, theirs = (
            kind(VOCAB_SIZE, **SIZES).double().eval()
            for kind in (Seq2SeqTransformer, PyTorchTransformer)
        )
        copy_weights(ours, theirs)
        source, target = some_problems()
        torch.testing.assert_close(theirs(source, target), ours(source, target), **TOLERANCE)
        self.assertTrue(torch.equal(theirs.generate(source, 4), ours.generate(source, 4)))
        counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
        self.assertEqual(*counts)

    def test_the_floor_has_the_products_of_forward_and_backward(self):
        layer, x = torch.nn.Linear(5, 7), torch.randn(3, 4, 5)
        with (
            mock.patch.object(torch, "mm", wraps=torch.mm) as mm,
            mock.patch.object(torch, "bmm", wraps=torch.bmm) as bmm,
        ):
            timing.products_alone(lambda: layer(x).sum().backward())()
            shapes = [tuple(tuple(a.shape) for a in call.args) for call in mm.call_args_list]
            # The input needs no gradient.
            self.assertEqual(shapes, [((12, 5), (5, 7)), ((7, 12), (12, 5))])
            q = torch.randn(2, 3, 8, 4, requires_grad=True)
            timing.products_alone(lambda: (q @ q.transpose(-2, -1)).square().sum().backward())()
        self.assertEqual(len(bmm.call_args_list), 3)

    def test_comparison_is_within_rounds(self):
        times = {"a": [2.0, 40.0, 6.0], "b": [1.0, 10.0, 2.0]}
        record = timing.compare(times, "a", "b")
        self.assertEqual((record["ratio"], record["ratio_quartiles"]), (3, [2.5, 3.5]))
        self.assertEqual(record["seconds"], {"a": 6, "b": 2})
