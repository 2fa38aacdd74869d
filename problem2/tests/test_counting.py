"""Long sequences from counts: margins as the model itself has them."""

import unittest
from unittest import mock

import torch
from torch import nn

from extrapolation import counting
from model import create_model


def tiny(encoding="relative_bias", seed=0, **changes):
    """A model of one layer, pooled by the lowest position, whose bias and scale are not as they start."""
    torch.manual_seed(seed)
    model = create_model(encoding, **{"d_model": 16, "num_heads": 4, "num_layers": 1, "d_ff": 24, "pooling": "lowest"}
                         | changes).eval()
    nn.init.normal_(model.pos_encoding.weights)
    for name, parameter in model.named_parameters():
        if "scale_" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif "W_" in name and name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


@torch.no_grad()
def position_margins(model, sequence):
    """What the model itself finds at each position, in float64."""
    model = model.double()
    logits = model.classifier(model.encode(sequence[None]))[0]
    return logits[:, 1] - logits[:, 0]


class Counting(unittest.TestCase):
    def test_margins_are_those_of_the_model(self):
        generator = torch.Generator().manual_seed(0)
        for encoding in counting.ENCODINGS:
            for scaling in (False, True, "learned"):
                model = tiny(encoding, log_scaling=scaling)
                for length in (1, 2, 5, 9, 10, 60, 300):
                    sequence = torch.randint(100, (length,), generator=generator)
                    for each in (sequence, sequence.sort().values):
                        with mock.patch.object(counting, "POSITIONS_AT_ONCE", 64):
                            margins = counting.counted_margins(model, each)
                        self.assertEqual(margins.dtype, torch.float64)
                        torch.testing.assert_close(margins, position_margins(model, each), rtol=0, atol=1e-9)

    def test_counts_are_those_of_the_values_before_a_place(self):
        sequence = torch.tensor([3, 3, 5, 3, 7])
        counts = counting.counts_before(sequence, torch.tensor([-1, 0, 1, 3, 9]))
        self.assertEqual([row[[3, 5, 7]].tolist() for row in counts],
                         [[0, 0, 0], [0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 1]])

    def test_models_that_know_more_than_values_and_sides_are_refused(self):
        for model in (tiny(num_layers=2), tiny(pooling="max"),
                      create_model("sinusoidal", num_layers=1, pooling="lowest")):
            with self.assertRaisesRegex(ValueError, "one layer alone"):
                counting.counted_margins(model, torch.tensor([1, 2]))
        with self.assertRaisesRegex(ValueError, "no positions"):
            counting.counted_margins(tiny(), torch.tensor([], dtype=torch.long))


if __name__ == "__main__":
    unittest.main()
