"""The required encodings taken apart: the two streams, the positions they get, and the record that analyze.py keeps."""

import torch

from extrapolation import dissection, figures
from extrapolation.analysis import load_group, moved
from extrapolation.study import row_policies
from tests.helpers import TemporaryFolder
from tests.test_model import TOLERANCE, small_model

SEQUENCES = torch.randint(100, (3, 20), generator=torch.Generator().manual_seed(0))
ADDED = ("sinusoidal", "learned")


class Dissection(TemporaryFolder):
    @torch.no_grad()
    def test_with_the_same_positions_twice_it_is_the_model_at_those_positions(self):
        for name in ADDED:
            model = small_model(name)
            for length, trained in ((20, 20), (20, 8)):
                positions, chosen = dissection.treatments(length, trained, most=300)
                logits = dissection.logits_under(model, SEQUENCES, positions, list(chosen.values()))
                torch.testing.assert_close(logits["original", "original"], model(SEQUENCES), **TOLERANCE)
            for shift in dissection.SHIFTS:
                positions, chosen = dissection.treatments(20, 20, most=300)
                logits = dissection.logits_under(model, SEQUENCES, positions, list(chosen.values()))
                with moved(model, shift):
                    torch.testing.assert_close(logits[chosen[f"moved by {shift}"]], model(SEQUENCES), **TOLERANCE)

    @torch.no_grad()
    def test_stretched_rows_of_a_learned_table_are_the_interpolated_ones(self):
        model = small_model("learned")
        positions, chosen = dissection.treatments(20, 8, most=300)
        logits = dissection.logits_under(model, SEQUENCES, positions, list(chosen.values()))
        table = model.pos_encoding.position_embeddings.weight
        table.copy_(row_policies(table.clone(), 8, 20)["interpolation"])
        torch.testing.assert_close(logits["stretched", "stretched"], model(SEQUENCES), **TOLERANCE)

    @torch.no_grad()
    def test_fractional_positions_of_sinusoids_are_their_formula(self):
        encoding = small_model("sinusoidal").pos_encoding
        row = encoding.rows_at(torch.tensor([2.5]), torch.float64)[0]
        angles = 2.5 * encoding.frequencies()
        torch.testing.assert_close(row[0::2], angles.sin())
        torch.testing.assert_close(row[1::2], angles.cos())

    @torch.no_grad()
    def test_weights_are_those_of_the_first_positions_and_all_else_is_of_the_second(self):
        model = small_model("learned")
        positions, chosen = dissection.treatments(20, 8, most=300)
        mixed = chosen["stretched in queries and keys"]
        self.assertEqual(mixed, ("stretched", "original"))
        before = dissection.logits_under(model, SEQUENCES, positions, list(chosen.values()))[mixed]
        first, second = (model.embedding(SEQUENCES) * 24 ** 0.5 + model.pos_encoding.rows_at(positions[name])
                         for name in mixed)
        for layer in model.layers:  # once more, through forward: queries and keys of one stream, values of the other
            h = [layer.norm1(stream) for stream in (first, second)]
            first, second = (stream + layer.self_attn(h[0], h[0], values)[0] for stream, values in
                             zip((first, second), h))
            first, second = (stream + layer.linear2(layer.linear1(layer.norm2(stream)).relu())
                             for stream in (first, second))
        torch.testing.assert_close(before, model.classifier(model.norm(second).mean(dim=1)), **TOLERANCE)

    def test_records_count_what_is_right_and_are_drawn(self):
        data, records = self.small_data((60, 20, 20), extrapolation=True), []
        for name in ADDED:
            model = small_model(name, max_len=18).train()
            records += dissection.measure_dissection(model, data, [12, 16] + [32] * (name == "sinusoidal"), 10, 16,
                                                     {"encoding": name})
            self.assertTrue(model.training)
        kinds = [(record["encoding"], record["length"], record["treatment"]) for record in records]
        self.assertEqual(len(kinds), len(set(kinds)))
        self.assertEqual([kind[2] for kind in kinds if kind[:2] == ("learned", 16)],
                         ["original", "moved by 1", "moved by 2"], "of a bounded encoding no row past the last")
        self.assertEqual([kind[2] for kind in kinds if kind[1] == 32], list(dissection.STRETCHED))
        self.assertTrue(all(record["n"] == 10 and 0 <= record["right"] <= 10 for record in records))
        model = small_model("sinusoidal")
        sequences, _ = load_group(data, {"length": 16, "gap_source": None}, 10, ["swap"])["swap"]
        with torch.no_grad():  # one is called sorted, so that right and wrong are not as many
            model.classifier.bias[0] += (model(sequences) @ torch.tensor([-1.0, 1.0]).double()).topk(2).values.mean()
        answers = model.predict(sequences)
        self.assertEqual(answers.sum(), 1)
        found = dissection.measure_dissection(model, data, [16], 10, 16, {})[0]
        self.assertEqual(found["right"], int((answers == torch.tensor([1] * 5 + [0] * 5)).sum()))
        titles = [axes.get_title() for axes in figures.plot_dissection(records).axes]
        self.assertEqual(len(titles), 4)
        self.assertIn("learned: sequences moved along", titles)
        left = figures.plot_dissection(records).axes[0]
        drawn = left.containers[1].lines[0]
        self.assertEqual(drawn.get_xdata().tolist(), [0, 1, 2, 4, 8])
        self.assertEqual(drawn.get_ydata().tolist(), [record["right"] / 10 for record in records
                                                      if (record["encoding"], record["length"]) == ("sinusoidal", 16)])
