"""The measures: gold answers score 100%, any wrong digit counts (a wrong 0 too), carries are classed right."""

import unittest

import torch

from dataset import VOCAB_SIZE, create_dataloaders, encode_problems, numbers_of, shift_right
from learning.carries import carries_out, carry_pattern, cascade_length
from learning.evaluation import evaluate, evaluating, score_tokens, wilson_interval
from learning.exhaustive import all_pairs, check_all_pairs, pair_index
from model import Seq2SeqTransformer
from tests.helpers import Oracle, TemporaryFolder


class Scores(unittest.TestCase):
    def test_gold_scores_everything_and_one_wrong_digit_is_counted(self):
        gold = torch.tensor([[0, 5, 0, 6], [1, 0, 0, 0]])
        self.assertEqual([x.item() for x in score_tokens(gold, gold)], [8, 8, 2])
        for row in range(2):
            for column in range(4):
                wrong = gold.clone()
                wrong[row, column] = (wrong[row, column] + 1) % 10
                self.assertEqual([x.item() for x in score_tokens(wrong, gold)], [7, 8, 1])

    def test_padding_is_not_scored(self):
        target = torch.tensor([[0, 3, 11], [1, 2, 3]])
        self.assertEqual([x.item() for x in score_tokens(torch.tensor([[0, 3, 7], [1, 2, 3]]), target)], [5, 5, 2])

    def test_wilson_interval(self):
        low, high = wilson_interval(81, 263)  # Newcombe 1998, table I
        self.assertAlmostEqual(low, 0.2553, places=4)
        self.assertAlmostEqual(high, 0.3662, places=4)
        self.assertAlmostEqual(wilson_interval(10, 10)[1], 1)
        self.assertLess(wilson_interval(10, 10)[0], 0.75)
        self.assertAlmostEqual(wilson_interval(0, 10)[0], 0)


class Evaluate(TemporaryFolder):
    def loader(self):
        return create_dataloaders(self.small_data(3, (20, 300, 20)), 64)[1]

    def test_a_model_that_knows_the_answers(self):
        result = evaluate(Oracle(), self.loader())
        self.assertEqual((result["exact_match"], result["token_accuracy"], result["teacher_forced_exact_match"],
                          result["n"]), (1, 1, 1, 300))
        self.assertLess(result["loss"], 1e-6)

    def test_each_part_of_the_model_keeps_its_mode(self):
        model = Seq2SeqTransformer(VOCAB_SIZE, 8, 1, 1, 1, 8).train()
        model.encoder_layers.eval()
        evaluate(model, self.loader())
        self.assertEqual((model.training, model.encoder_layers[0].dropout.training, model.decoder_layers[0].training),
                         (True, False, True))
        with self.assertRaises(ZeroDivisionError), evaluating(model):
            self.assertFalse(any(module.training for module in model.modules()))
            1 / 0
        self.assertEqual((model.training, model.encoder_layers[0].training), (True, False))

    def test_a_wrong_zero_is_counted(self):
        loader = self.loader()
        has_zero_last = (loader.dataset.targets[:, -1] == 0).sum().item()
        self.assertGreater(has_zero_last, 0)

        def zeros_wrong(target):
            last = torch.arange(4) == 3
            return torch.where(last & (target == 0), 9, target)
        result = evaluate(Oracle(wrong=zeros_wrong), loader)
        self.assertAlmostEqual(result["exact_match"], 1 - has_zero_last / 300)
        self.assertAlmostEqual(result["token_accuracy"], 1 - has_zero_last / 1200)
        self.assertEqual((result["teacher_forced_exact_match"], result["teacher_forced_token_accuracy"]), (1, 1))

    def test_the_first_digit_is_scored(self):
        result = evaluate(Oracle(wrong=lambda target: torch.where(torch.arange(4) == 0, 1 - target, target)),
                          self.loader())
        self.assertEqual((result["exact_match"], result["token_accuracy"]), (0, 0.75))

    def test_exact_match_is_the_same_free_running_and_with_teacher_forcing(self):
        torch.manual_seed(0)
        model = Seq2SeqTransformer(VOCAB_SIZE, 16, 2, 1, 1, 16)
        loader = create_dataloaders(self.small_data(1, (40, 20, 21)), 8)[2]
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(30):  # until some answers are right and some are not
            source, target = loader.dataset.inputs, loader.dataset.targets
            loss = torch.nn.functional.cross_entropy(model(source, shift_right(target)).flatten(0, 1), target.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        result = evaluate(model, loader)
        self.assertTrue(0 < result["exact_match"] < 1, result)
        self.assertEqual(result["exact_match"], result["teacher_forced_exact_match"])
        self.assertTrue(model.training, "the model is left in the mode it was in")


class Carries(unittest.TestCase):
    def test_known_sums(self):
        for a, b, pattern, cascade in [(123, 456, 0b000, 0), (347, 159, 0b011, 1), (657, 348, 0b111, 2),
                                       (999, 999, 0b111, 0),
                                       (199, 801, 0b111, 2), (663, 497, 0b111, 0), (555, 445, 0b111, 2),
                                       (555, 444, 0b000, 0),
                                       (145, 155, 0b011, 1), (482, 157, 0b010, 0), (500, 500, 0b100, 0)]:
            a, b = torch.tensor([a]), torch.tensor([b])
            self.assertEqual((carry_pattern(a, b, 3).item(), cascade_length(a, b, 3).item()), (pattern, cascade),
                             (a, b))

    def test_carries_are_those_of_the_sums_of_the_lower_digits(self):
        a, b = torch.randint(10_000, (2, 500), generator=torch.Generator().manual_seed(0))
        for column, carries in zip(range(4, 0, -1), carries_out(a, b, 4).unbind(1)):
            self.assertTrue(torch.equal(carries, a % 10 ** column + b % 10 ** column >= 10 ** column))


class Exhaustive(unittest.TestCase):
    def test_pairs_are_all_there_and_indexed(self):
        a, b = all_pairs(2, 0, 8100)
        self.assertEqual(len(set(zip(a.tolist(), b.tolist()))), 8100)
        self.assertTrue(torch.equal(pair_index(*numbers_of(encode_problems(a, b, 2)[0], 2), 2), torch.arange(8100)))

    def test_errors_are_counted_and_classed(self):
        def no_first_digit(target):  # wrong where the hundreds of the sum are 1
            return torch.where(torch.arange(3) == 0, 0, target)
        training = encode_problems(torch.tensor([99, 10]), torch.tensor([99, 10]), 2)[0]
        record = check_all_pairs(Oracle(2, no_first_digit), 2, training, batch_size=1000)
        a, b = all_pairs(2, 0, 8100)
        self.assertEqual((record["pairs"], record["errors"]), (8100, (a + b >= 100).sum().item()))
        self.assertEqual((record["unseen"]["pairs"], record["unseen"]["errors"]), (8098, record["errors"] - 1))
        self.assertEqual({key: value["errors"] / value["pairs"] for key, value in record["by_carry_pattern"].items()},
                         {"00": 0, "01": 0, "10": 1, "11": 1})
        self.assertEqual(sum(value["pairs"] for value in record["by_cascade_length"].values()), 8100)
        self.assertEqual(len(record["error_list"]), 1000)
        self.assertEqual(record["error_list"][0], {"a": 10, "b": 90, "predicted": [0, 0, 0], "target": [1, 0, 0]})
        self.assertEqual(check_all_pairs(Oracle(2), 2, training)["errors"], 0)
