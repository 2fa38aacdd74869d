"""Why the required models fail: positions given by hand, attention by blocks, and the figures."""

import math

import torch

from extrapolation import dissection, figures
from extrapolation.analysis import classify, load_group
from extrapolation.evaluation import summarize
from positional_encoding import SinusoidalPositionalEncoding
from tests.small import EXACT, SmallData, small_model

SEQUENCES = torch.randint(100, (3, 20), generator=torch.Generator().manual_seed(0))


def logits_under(model, *pair, length=20, trained=8):
    """Logits `[N, 2]` with the positions of `treatments` for the pair of names."""
    positions, _ = dissection.treatments(length, trained, longest=300)
    pairs = list(dict.fromkeys([*((name, name) for name in pair), pair]))
    return dissection.logits_under(model, SEQUENCES, positions, pairs)[pair]


class Dissection(SmallData):
    @torch.no_grad()
    def test_with_the_same_positions_twice_it_is_the_model_at_those_positions(self):
        for name in dissection.ABSOLUTE:
            model = small_model(name)
            encoding = model.pos_encoding
            for given, rows in [
                ("original", encoding.rows_at(torch.arange(20))),
                ("moved by 4", encoding.rows_at(torch.arange(4, 24))),
                ("stretched", encoding.rows_at(torch.linspace(0, 7, 20))),
            ]:
                trained = 8 if given == "stretched" else 20
                found = logits_under(model, given, given, trained=trained)
                h = model.embedding(SEQUENCES) * 24**0.5 + rows
                for layer in model.layers:
                    h = layer(h, None, encoding)
                expected = model.classifier(model.norm(h).mean(dim=1))
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
                if given == "original":
                    torch.testing.assert_close(found, model(SEQUENCES), **EXACT)

    @torch.no_grad()
    def test_the_weights_are_those_of_the_first_positions_and_all_else_is_of_the_second(self):
        model = small_model("learned")
        pair = dissection.STRETCHED["stretched in queries and keys"]
        self.assertEqual(pair, ("stretched", "original"))
        positions, _ = dissection.treatments(20, 8, longest=300)
        rows = [model.pos_encoding.rows_at(positions[name]) for name in pair]
        first, second = (model.embedding(SEQUENCES) * 24**0.5 + each for each in rows)
        # Through forward: queries and keys of one stream, values of the other.
        for layer in model.layers:
            keys, values = layer.norm1(first), layer.norm1(second)
            second = second + layer.self_attn(keys, keys, values)[0]
            second = second + layer.feed_forward(layer.norm2(second))
            first = layer(first)
        expected = model.classifier(model.norm(second).mean(dim=1))
        torch.testing.assert_close(logits_under(model, *pair), expected, **EXACT)

    def test_records_count_what_is_right(self):
        data = self.small_data((60, 20, 20), extrapolation=True)
        model = small_model("learned", max_len=18)
        records = dissection.measure_dissection(model, data, [16], 10, 16)
        found = [record["treatment"] for record in records]
        self.assertEqual(found, ["original", "moved by 1", "moved by 2"], "no row past the last")
        model = small_model("sinusoidal")
        sequences, labels = load_group(data, {"length": 16}, 10, ["swap"])["swap"]
        with torch.no_grad():  # one is called sorted: not as many right as wrong
            margins = model(sequences) @ torch.tensor([-1.0, 1.0]).double()
            model.classifier.bias[0] += margins.topk(2).values.mean()
        self.assertEqual(model.predict(sequences).sum(), 1)
        records = dissection.measure_dissection(model, data, [16, 32], 10, 16)
        found = [record["treatment"] for record in records if record["length"] == 32]
        self.assertEqual(found, list(dissection.STRETCHED))
        right = int((model.predict(sequences) == labels).sum())
        self.assertEqual((records[0]["n"], records[0]["right"]), (10, right))

        figure = figures.plot_dissection([{"encoding": "sinusoidal", **each} for each in records])
        curve = next(each for axes in figure.axes for each in axes.containers[:1]).lines[0]
        self.assertEqual(curve.get_ydata()[0], right / 10)

    def test_the_position_control_moves_the_same_sequences(self):
        data, model = self.small_data((60, 20, 40), extrapolation=True), small_model("learned")
        records = dissection.measure_positions(model, data, 20)
        found = [(record["first_position"], record["n"]) for record in records]
        self.assertEqual(found, [(first, 20) for first in (0, 16, 48, 112, 240)])
        sequences, labels = load_group(data, {"length": 16}, 20, ["swap"])["swap"]
        loss = summarize(classify(model, sequences).double(), labels)["loss"]
        self.assertAlmostEqual(records[0]["loss"], loss, places=5)
        self.assertEqual(len({record["loss"] for record in records}), 5)

    def test_shift(self):
        encoding = SinusoidalPositionalEncoding(16)
        for record in dissection.measure_shift(encoding, shifts=(1, 64), positions=200):
            exact, single = record["max_error_float64"], record["max_error_float32"]
            self.assertTrue(exact < 1e-10 and exact < single < 1e-5)

    def test_attention_is_even_where_keys_are_alike_and_else_not(self):
        model = small_model("none").float()
        records = dissection.measure_attention(model, torch.full((3, 40), 7), 16)
        blocks = [(each["layer"], each["keys_from"], each["keys_to"]) for each in records[:3]]
        self.assertEqual(blocks, [(0, 0, 15), (0, 16, 31), (0, 32, 39)])
        for record in records:
            self.assertAlmostEqual(record["score_mean"], 0, places=4)
            self.assertAlmostEqual(record["weight_ratio"], 1, places=4)
            self.assertAlmostEqual(record["entropy_share"], 1, places=4)

        records = dissection.measure_attention(model, SEQUENCES, 10)
        layer, h = model.layers[0], model.layers[0].norm1(model.embed(SEQUENCES))
        weights = layer.self_attn(h, h, h)[1]
        ratio = weights[..., 10:].sum(dim=-1).mean() * 2
        self.assertAlmostEqual(records[1]["weight_ratio"], ratio.item(), places=4)
        entropy = -(weights * weights.log()).sum(dim=-1).mean() / math.log(20)
        self.assertAlmostEqual(records[0]["entropy_share"], entropy.item(), places=4)
