"""Train several seeds of one model at once: a GPU that a single small model leaves idle holds many.

The weights of E models are stacked, `[E, ...]`, and each step moves all of them. A seed sees the
batches that it sees alone, and its gradient is clipped by its own norm: what comes out is what
`train.fit` gives, to rounding.
Shapes in comments: E seeds, B batch, S source, T target positions.
"""

import copy
import math
import time
from collections import Counter

from support.cli import UserError

import torch
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from dataset import shift_right
from train import exchange_digits, focused_mean, learning_rate, make_optimizer

WARM_UP = 3  # calls before a CUDA graph is recorded


class Ensemble:
    """Models of the same arguments on one device, trained side by side from their weights.

    Raises:
        UserError: if they have dropout.
    """

    def __init__(self, models, config):
        if models[0].config.dropout:
            raise UserError("an ensemble trains without dropout: choose dropout 0, or --device cpu")
        self.config = config
        # One model holds the weights of all: so `make_optimizer` finds those that decay.
        self.model = copy.deepcopy(models[0])
        self.weights, stacked = dict(self.model.named_parameters()), stack_module_state(models)[0]
        for name, weight in self.weights.items():
            weight.data = stacked[name].detach()  # [E, ...]
        self.optimizer = make_optimizer(self.model, config)
        # The rate is a tensor, which a CUDA graph reads anew each time it runs.
        self.device, self.lr = weight.device, torch.zeros((), device=weight.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if self.lr.is_cuda:
            self.step = replayed(self.step)

    def answer(self, weights, source, target):
        """One seed's loss, plain cross-entropy and right answers `[B]`; no token is padding."""
        logits = functional_call(self.model, weights, (source, shift_right(target)))
        losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        right = (logits.argmax(dim=-1) == target).all(dim=1)
        return *focused_mean(losses, self.config.focus), right

    def step(self, source, target):
        """A step at the rate `self.lr` for `source [E, B, S]`, `target [E, B, T]`.

        Returns:
            The plain cross-entropy of each seed before it, `[E]`.
        """
        recorded = self.lr.is_cuda and torch.cuda.is_current_stream_capturing()
        for group in self.optimizer.param_groups:
            group["capturable"] = recorded
        self.optimizer.zero_grad()
        loss, plain, _ = vmap(self.answer)(self.weights, source, target)
        loss.sum().backward()  # no seed's loss depends on the weights of another

        # Clip the gradient of each seed, as `clip_grad_norm_` does that of one model.
        gradients = [weight.grad for weight in self.weights.values()]
        norms = torch.stack([each.flatten(1).norm(dim=1) for each in gradients]).norm(dim=0)  # [E]
        scale = (self.config.clip_norm / (norms + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
        self.optimizer.step()
        return plain

    @torch.no_grad()
    def exact_match(self, loader):
        """The exact match of each seed, as in `train.evaluate`: a pass with teacher forcing."""
        right = 0
        for batch in loader:
            problems = batch["input"].to(self.device), batch["target"].to(self.device)
            right += vmap(self.answer, (0, None, None))(self.weights, *problems)[2].sum(dim=1)
        return [count / len(loader.dataset) for count in right.tolist()]


def replayed(step):
    """A function that does what `step(*tensors)` does, on a GPU, without waiting for Python.

    After WARM_UP calls with tensors of one shape, a call is recorded as a CUDA graph, which does
    the work from then on.
    """
    calls, graphs, stream = Counter(), {}, torch.cuda.Stream()

    def call(*tensors):
        shape = tensors[0].shape
        calls[shape] += 1
        if calls[shape] <= WARM_UP:  # on the stream that will record
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                result = step(*tensors)
            torch.cuda.current_stream().wait_stream(stream)
            return result
        if shape not in graphs:
            graph, inputs = torch.cuda.CUDAGraph(), [tensor.clone() for tensor in tensors]
            with torch.cuda.graph(graph, stream=stream):  # nothing is computed yet
                graphs[shape] = graph, inputs, step(*inputs)
        graph, inputs, result = graphs[shape]
        for own, tensor in zip(inputs, tensors):
            own.copy_(tensor)
        graph.replay()
        return result

    return call


def draw_batches(loader, config, seeds, epoch):
    """The batches `(source [E, B, S], target [E, B, T])` of an epoch, each seed's as if alone."""
    seen = []
    for seed in seeds:
        torch.manual_seed(seed * 1_000_000 + epoch)
        seen.append([(exchange_digits(b["input"], config.exchange), b["target"]) for b in loader])
    return [map(torch.stack, zip(*batches)) for batches in zip(*seen)]


def fit_ensemble(models, train_loader, val_loader, config, seeds):
    """Train a model for each seed, as `train.fit` does, and leave it with its best weights.

    Returns:
        For each a log like that of `train.fit`, with losses and exact match alone. Its seconds are
        those of all seeds together.
    """
    ensemble, steps = Ensemble(models, config), config.epochs * len(train_loader)
    logs, best = [{"best_epoch": None, "epochs": []} for _ in seeds], [-1] * len(seeds)
    for epoch in range(1, config.epochs + 1):
        # One pass over the training problems.
        start, loss = time.perf_counter(), 0
        batches = draw_batches(train_loader, config, seeds, epoch)
        for step, batch in enumerate(batches, (epoch - 1) * len(train_loader)):
            source, target = (tensor.to(ensemble.device) for tensor in batch)
            ensemble.lr.fill_(learning_rate(step, steps, config))
            loss += ensemble.step(source, target) * source.size(1)
        losses, matches = (
            (loss / len(train_loader.dataset)).tolist(),
            ensemble.exact_match(val_loader),
        )
        seconds = time.perf_counter() - start
        if not all(map(math.isfinite, losses)):
            raise UserError(
                f"a loss is not finite in epoch {epoch}: train again with a lower learning rate"
            )

        # A model takes over the present weights if they are its best so far.
        for e, log in enumerate(logs):
            if matches[e] >= best[e]:
                log["best_epoch"], best[e] = epoch, matches[e]
                models[e].load_state_dict({name: w[e] for name, w in ensemble.weights.items()})
            train, val = {"loss": losses[e]}, {"exact_match": matches[e]}
            log["epochs"].append({"epoch": epoch, "train": train, "val": val, "seconds": seconds})
        print(
            f"epoch {epoch:3} of {config.epochs}: train loss up to {max(losses):.4f}, val exact "
            f"match from {min(matches):.2%}, {seconds:.1f} s",
            flush=True,
        )
    return logs
