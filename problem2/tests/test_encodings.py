"""The three strategies of the assignment, and their interface."""

import math
import unittest

import torch

from model import create_model
from positional_encoding import (
    REQUIRED,
    LearnedPositionalEncoding,
    NoPositionalEncoding,
    SinusoidalPositionalEncoding,
    get_positional_encoding,
    visualize_positional_encoding,
)
from tests.small import SIZES


class Encodings(unittest.TestCase):
    def test_sinusoidal_is_the_formula_at_any_length_and_width(self):
        for d_model in (6, 5):
            encoding = SinusoidalPositionalEncoding(d_model, max_len=4)
            table = visualize_positional_encoding(encoding, 1000, d_model)
            self.assertEqual(table.shape, (1000, d_model))
            for pos in (0, 1, 3, 4, 999):
                for i in range(d_model):
                    angle = pos / 10000 ** (2 * (i // 2) / d_model)
                    expected = math.cos(angle) if i % 2 else math.sin(angle)
                    self.assertAlmostEqual(float(table[pos, i]), expected, places=5)

    def test_sinusoidal_matches_the_docstring(self):
        lines = SinusoidalPositionalEncoding.__doc__.splitlines()
        rows = [line.split()[2:] for line in lines if line.strip().startswith("pos ")]
        expected = torch.tensor([[float(number) for number in row] for row in rows])
        self.assertEqual(expected.shape, (3, 4))
        found = SinusoidalPositionalEncoding(4).rows(3)
        torch.testing.assert_close(found, expected, rtol=0, atol=6e-5)

    def test_sinusoidal_grows_in_the_module_s_dtype(self):
        for dtype in (torch.bfloat16, torch.float64):
            model = create_model("sinusoidal", **SIZES).eval().to(dtype)
            for length in (301, 5):
                x = torch.zeros(1, length, dtype=torch.long)
                self.assertTrue(torch.isfinite(model(x)).all())
            table = model.pos_encoding.table
            self.assertEqual((table.dtype, len(table)), (dtype, 301))

    def test_a_shift_is_linear(self):
        encoding = SinusoidalPositionalEncoding(16)
        table = encoding.rows(300, torch.float64)
        for k in (0, 1, 7, 100):
            shifted = table[:200] @ encoding.shift_matrix(k).T
            torch.testing.assert_close(shifted, table[k : 200 + k], rtol=0, atol=1e-10)

    def test_rows_between_whole_positions(self):
        positions = torch.tensor([2.0, 2.5])
        sinusoidal = SinusoidalPositionalEncoding(6)
        whole, half = sinusoidal.rows_at(positions, torch.float64)
        torch.testing.assert_close(whole, sinusoidal.rows(3, torch.float64)[2])
        torch.testing.assert_close(half[1::2], (2.5 * sinusoidal.frequencies()).cos())
        learned = LearnedPositionalEncoding(6, max_len=9)
        table = learned.position_embeddings.weight
        expected = torch.stack([table[2], (table[2] + table[3]) / 2])
        torch.testing.assert_close(learned.rows_at(positions), expected)

    def test_learned_adds_its_rows_and_ends_where_they_end(self):
        encoding, x = LearnedPositionalEncoding(6, max_len=9), torch.randn(2, 9, 6)
        table = encoding.position_embeddings.weight
        for pos in range(9):
            self.assertTrue(torch.equal(encoding(x)[:, pos], x[:, pos] + table[pos]))
        with self.assertRaisesRegex(ValueError, "10 values is longer than the 9 positions"):
            encoding(torch.zeros(1, 10, 6))

    def test_none_and_the_neutral_methods_change_nothing(self):
        x, Q, K = torch.randn(2, 3, 8), torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
        self.assertIs(NoPositionalEncoding(8)(x), x)
        for name in REQUIRED:
            encoding = get_positional_encoding(name, 8)
            self.assertEqual(encoding.max_len, 5000)
            rotated = encoding.rotate(Q, K)
            self.assertTrue(rotated[0] is Q and rotated[1] is K)
            self.assertIsNone(encoding.bias(Q))

    def test_an_unknown_name_is_refused(self):
        with self.assertRaisesRegex(ValueError, "sinusoidal, learned, none"):
            get_positional_encoding("alphabetical", 8)
        with self.assertRaisesRegex(ValueError, "no pooling is called 'least'.*mean"):
            create_model(pooling="least")
