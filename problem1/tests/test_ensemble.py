"""Several seeds trained at once: each comes out as it does alone, to rounding."""

import contextlib
import io
from dataclasses import replace
from unittest import mock

from support.cli import UserError

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train
from beyond.ensemble import Ensemble, fit_ensemble, replayed
from dataset import create_dataloaders
from tests.small import SmallData

SEEDS = [5, 0, 2]
SIZES = {"num_encoder_layers": 1, "num_decoder_layers": 1, "d_model": 16, "num_heads": 2}
SIZES |= {"d_ff": 16, "dropout": 0.0}
# Ten epochs of five steps, the last of each with fewer problems; every gradient is clipped.
CONFIG = train.TrainingConfig(epochs=10, batch_size=16, lr=0.01, clip_norm=0.2)


class Recording(TorchDispatchMode):
    """A CUDA graph's stand-in on the CPU: notes what a block computes, and computes it again.

    A GPU that records computes nothing: the tensors `state()` are put back after the block.
    """

    def __init__(self, state):
        super().__init__()
        self.state, self.calls = state, []

    def __enter__(self):
        self.before = [(tensor, tensor.detach().clone()) for tensor in self.state()]
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for tensor, before in self.before:
            tensor.data.copy_(before)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(function), "Python reads a value"
        result = function(*args, **kwargs or {})
        self.calls.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs))):
                if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class EnsembleTest(SmallData):
    def setUp(self):
        super().setUp()
        data = self.small_data(2, (72, 20, 20))
        self.loaders = create_dataloaders(data, CONFIG.batch_size)[:2]
        self.enterContext(contextlib.redirect_stdout(io.StringIO()))

    def models(self, **sizes):
        return [train.make_model(seed, "cpu", **SIZES | sizes) for seed in SEEDS]

    def alone(self):
        """Train each seed alone: `(models, logs, losses [50, E])`, the losses of the steps."""
        losses, focused_mean, models = [], train.focused_mean, self.models()

        def noted(*values):
            losses.append(focused_mean(*values)[1])
            return focused_mean(*values)

        with mock.patch.object(train, "focused_mean", noted):
            configs = [replace(CONFIG, seed=seed) for seed in SEEDS]
            logs = [train.fit(model, *self.loaders, each) for model, each in zip(models, configs)]
        return models, logs, torch.stack(losses).view(len(SEEDS), -1).T

    def at_once(self, change=lambda step, state: step):
        """The same in an ensemble, of which `change` may replace the step."""
        losses, start, models = [], Ensemble.__init__, self.models()

        def noted(self, *arguments):
            def state():
                entries = self.optimizer.state.values()
                return [
                    *self.weights.values(),
                    *(each for entry in entries for each in entry.values()),
                ]

            start(self, *arguments)
            step = change(self.step, state)
            self.step = lambda *batch: (losses.append(step(*batch).clone()), losses[-1])[1]

        with mock.patch.object(Ensemble, "__init__", noted):
            logs = fit_ensemble(models, *self.loaders, CONFIG, SEEDS)
        return models, logs, torch.stack(losses)

    def assert_same(self, alone, at_once):
        for (name, theirs), ours in zip(alone.named_parameters(), at_once.parameters()):
            # What is added to all keys alike changes no attention: the gradient there is rounding.
            if not name.endswith("W_k.bias"):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=name)

    def test_each_seed_s_losses_and_weights_are_those_of_a_run_alone(self):
        (models, logs, losses), (ours, our_logs, our_losses) = self.alone(), self.at_once()
        self.assertEqual(losses.shape, (50, 3))
        self.assertGreater((losses[:, 0] - losses[:, 1]).abs().max(), 0.01)
        torch.testing.assert_close(our_losses, losses, rtol=0, atol=1e-4)
        for model, our, log, our_log in zip(models, ours, logs, our_logs):
            self.assert_same(model, our)
            self.assertEqual(log["best_epoch"], our_log["best_epoch"])
            for epoch, our_epoch in zip(log["epochs"], our_log["epochs"]):
                self.assertAlmostEqual(epoch["train"]["loss"], our_epoch["train"]["loss"], places=4)
                match = epoch["val"]["exact_match"]
                self.assertEqual(match, our_epoch["val"]["exact_match"])

    def test_the_weights_kept_are_those_of_the_latest_best_epoch(self):
        matches = [[0.1, 0.2, 0.9], [0.6, 0.3, 0.5], [0.6, 0.1, 0.9], [0.2, 0.3, 0.1]]
        matches += [[0.0, 0.0, 0.0]] * 6
        column = [row[i] for i in range(3) for row in matches]
        results = [{"exact_match": match, "loss": 1.0} for match in column]
        with (
            mock.patch.object(train, "evaluate", side_effect=results),
            mock.patch.object(Ensemble, "exact_match", side_effect=matches),
        ):
            (models, logs, _), (ours, our_logs, _) = self.alone(), self.at_once()
        self.assertEqual([log["best_epoch"] for log in our_logs], [3, 4, 3])
        self.assertEqual([log["best_epoch"] for log in logs], [3, 4, 3])
        for model, our in zip(models, ours):
            self.assert_same(model, our)

    def test_exact_match_is_that_of_evaluate(self):
        models, data = self.models(), self.loaders[1].dataset
        for digit, model in enumerate(models):  # it always writes this digit
            torch.nn.init.zeros_(model.output_projection.weight)
            model.output_projection.bias.data[digit] = 1
        targets = [[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 1, 2]]
        data.targets = torch.tensor(targets).repeat(5, 1)
        alone = [train.evaluate(model, self.loaders[1])["exact_match"] for model in models]
        self.assertEqual(alone, [0.25, 0.5, 0])
        self.assertEqual(Ensemble(models, CONFIG).exact_match(self.loaders[1]), alone)

    def test_a_recorded_step_does_what_the_step_does(self):
        """What a GPU does, with a stand-in for its graphs."""
        recordings = []

        def change(step, state):
            def record():
                recordings.append(Recording(state))
                return recordings[-1]

            gpu = {name: mock.MagicMock() for name in ("Stream", "current_stream", "stream")}
            gpu |= {"CUDAGraph": record, "graph": lambda graph, stream: graph}
            self.enterContext(mock.patch.multiple(torch.cuda, **gpu))
            return replayed(step)

        (ours, _, losses), (replays, _, same) = self.at_once(), self.at_once(change)
        self.assertEqual(len(recordings), 2, "one for each size of a batch")
        self.assertTrue(all(len(each.calls) > 100 for each in recordings))
        torch.testing.assert_close(same, losses, rtol=0, atol=1e-6)
        for model, replay in zip(ours, replays):
            self.assert_same(model, replay)

    def test_dropout_is_refused(self):
        with self.assertRaisesRegex(UserError, "without dropout: choose dropout 0"):
            fit_ensemble(self.models(dropout=0.1), *self.loaders, CONFIG, SEEDS)

    def test_a_loss_that_is_not_finite_stops_training(self):
        models = self.models()
        torch.nn.init.constant_(models[1].output_projection.bias, float("nan"))
        with self.assertRaisesRegex(UserError, "not finite in epoch 1: .* lower learning rate"):
            fit_ensemble(models, *self.loaders, CONFIG, SEEDS)
