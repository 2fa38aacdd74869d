"""How well a model adds: loss, token accuracy and exact match, the latter free-running and with its interval."""

import math
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from dataset import PAD_TOKEN, padding_mask, shift_right


def wilson_interval(successes, trials, z=1.959964):
    """Wilson's 95% interval `[low, high]` for a proportion (Wilson 1927): sound near 0 and 1, unlike the normal one."""
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def score_tokens(predicted, target):
    """Compare tokens `[B, T]` where the target is not padding.

    Returns:
        `(right tokens, all tokens, exact matches)` as 0-d tensors; a problem matches if every one of its tokens does.
    """
    real = target != PAD_TOKEN
    right = (predicted == target) & real
    return right.sum(), real.sum(), (right == real).all(dim=1).sum()


@contextmanager
def evaluating(model):
    """Within the block of code, the model and its parts are in evaluation mode; then each is again in the mode it
    had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def evaluate(model, loader):
    """Evaluate a model on every problem of a loader.

    Exact match is free-running: the model decodes greedily from the start token and sees nothing of the answer.
    With teacher forcing it reads the right digits before each one it predicts. The two exact matches must agree (if
    every prediction is right after a right prefix, greedy decoding takes that very path); token accuracies need not.

    Returns:
        A dict: `n`, `loss` (mean cross-entropy a token, teacher forcing), `token_accuracy` and `exact_match`
        (free-running) with `exact_match_interval` (Wilson, 95%), `teacher_forced_token_accuracy` and
        `teacher_forced_exact_match`.
    """
    device = next(model.parameters()).device
    n = tokens = loss = 0
    forced_right = forced_matches = free_right = free_matches = 0
    with evaluating(model):
        for batch in loader:
            source, target = batch["input"].to(device), batch["target"].to(device)
            mask = padding_mask(source)
            written = model.written(target)
            logits = model(source, shift_right(written), mask)
            loss += F.cross_entropy(logits.flatten(0, 1), written.flatten(), ignore_index=PAD_TOKEN,
                                    reduction="sum").item()
            right, real, matches = (count.item() for count in score_tokens(logits.argmax(dim=-1), written))
            forced_right, tokens, forced_matches = forced_right + right, tokens + real, forced_matches + matches
            generated = model.generate(source, target.size(1), src_mask=mask)
            right, _, matches = (count.item() for count in score_tokens(generated, target))
            free_right, free_matches = free_right + right, free_matches + matches
            n += len(source)
    return {"n": n, "loss": loss / tokens, "token_accuracy": free_right / tokens,
            "exact_match": free_matches / n, "exact_match_interval": wilson_interval(free_matches, n),
            "teacher_forced_token_accuracy": forced_right / tokens, "teacher_forced_exact_match": forced_matches / n}
