"""The training loop: AdamW, warm-up and cosine decay, the best epoch kept, every epoch resumable."""

import copy
import math
import time
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dataset import PAD_TOKEN, padding_mask, shift_right
from learning.checkpoint import save_model
from learning.evaluation import evaluate, score_tokens
from support.cli import Progress, UserError
from support.files import read_checkpoint, read_json, write_checkpoint, write_json
from support.runs import difference


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; recorded in the training log.

    `warmup` is the share of all steps in which the learning rate rises from 0 to `lr`; it then falls to 0 along half a
    cosine. `weight_decay` is for linear layers and embeddings, not for biases and norms. `focus` is the exponent of
    `focal_loss`. `clip_norm` bounds the gradient's norm.
    """

    epochs: int = 22
    batch_size: int = 128
    lr: float = 2e-3
    seed: int = 0
    warmup: float = 0.05
    weight_decay: float = 0.3
    beta1: float = 0.9
    beta2: float = 0.999
    focus: float = 2.0
    clip_norm: float = 1.0


def learning_rate(step, total_steps, config):
    """Learning rate of step 0, 1, ..., total_steps - 1: linear warm-up, then cosine decay to zero."""
    warmup_steps = config.warmup * total_steps
    if step < warmup_steps:
        return config.lr * (step + 1) / (warmup_steps + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def make_optimizer(model, config):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with weight decay as `TrainingConfig` says."""
    matrices = [module.weight for module in model.modules() if isinstance(module, (nn.Linear, nn.Embedding))]
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in matrices)]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = can_fuse(next(model.parameters()).device)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=fused)


def can_fuse(device):
    """Whether this release of torch has AdamW's fused step on the device: before 2.4 on cuda alone, and some find out
    only when they step."""
    trial = torch.zeros(1, device=device, requires_grad=True)
    trial.grad = torch.zeros_like(trial)
    try:
        torch.optim.AdamW([trial], fused=True).step()
    except RuntimeError:
        return False
    return True


def focal_loss(logits, target, focus):
    """Cross-entropy in which each token counts by max(1 - p, 0.001)^focus, p being the probability that the model gives
    it.

    Lin et al. 2017 (arXiv:1708.02002), with weights that do not pass a gradient and have mean one. Tokens that are
    still hard, here those after a carry through a column that sums to 9, are not drowned by the many easy ones.

    Args:
        logits: `[B, T, vocab_size]`.
        target: `[B, T]`; padding does not count.
        focus: 0 gives the plain cross-entropy.

    Returns:
        `(loss, plain)`: the loss, and the plain cross-entropy without gradient; means over tokens.
    """
    real = target != PAD_TOKEN
    losses = F.cross_entropy(logits[real], target[real], reduction="none")
    plain = losses.detach()
    weights = (-torch.expm1(-plain)).clamp_min(1e-3) ** focus
    return (weights / weights.mean() * losses).mean(), plain.mean()


def train_epoch(model, loader, optimizer, config, epoch):
    """One pass over the training problems with teacher forcing.

    Returns:
        A dict of `loss` (plain cross-entropy), `token_accuracy` and `teacher_forced_exact_match`, averaged over the
        pass as the weights move, and the last `learning_rate`.

    Raises:
        UserError: if the loss is not finite.
    """
    model.train()
    device = next(model.parameters()).device
    progress = Progress(f"epoch {epoch}, steps", len(loader), seconds=math.inf)
    loss_sum = right = tokens = matches = n = 0
    for index, batch in enumerate(loader):
        step = (epoch - 1) * len(loader) + index
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.epochs * len(loader), config)
        source, target = batch["input"].to(device), model.written(batch["target"].to(device))
        logits = model(source, shift_right(target), padding_mask(source))
        loss, plain = focal_loss(logits, target, config.focus)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss.item()} at step {step + 1}, learning rate {group['lr']:.3g}: "
                            "train again with a lower --lr")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        batch_right, batch_tokens, batch_matches = score_tokens(logits.argmax(dim=-1), target)
        loss_sum += plain.item() * batch_tokens.item()
        right, tokens, matches = right + batch_right.item(), tokens + batch_tokens.item(), matches + batch_matches.item(
            )
        n += len(source)
        progress.update(index + 1)
    return {"loss": loss_sum / tokens, "token_accuracy": right / tokens, "teacher_forced_exact_match": matches / n,
            "learning_rate": group["lr"]}


def fit(model, train_loader, val_loader, config, log, output_dir, resume=False):
    """Train, and keep the weights of the best epoch: highest free-running exact match on validation, the latest of
    equals.

    After each epoch `best_model.pth` (if it is the best), `resume.pth` and `training_log.json` in `output_dir` are
    replaced; `resume.pth` is there from the start. Every epoch draws its random numbers from its own seed, so that a
    resumed run ends in identical weights.

    Args:
        model: the model, initialised.
        train_loader, val_loader: batches of problems.
        config: a `TrainingConfig`.
        log: what describes the run; a resumed run must have the same, but for its `environment`. Its `num_digits` and
            the digest of the training data are saved with the weights.
        output_dir: folder of the results.
        resume: whether to continue the run that `resume.pth` holds.

    Returns:
        The log, completed by `epochs`, one record each, and `best_epoch`.

    Raises:
        UserError: if the run to resume is another one or its file is damaged; if the loss is not finite.
    """
    optimizer = make_optimizer(model, config)
    best_path, state_path = output_dir / "best_model.pth", output_dir / "resume.pth"
    model.about = {"num_digits": log["num_digits"], "train_sha256": log["data_sha256"]["train"]}
    log, best = log | {"training": asdict(config), "best_epoch": None, "epochs": []}, None

    def save_state():
        write_checkpoint(state_path, {"log": log, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                                      "best": best})

    if resume:
        log, best = restore(read_checkpoint(state_path, "cpu", "train without --resume"), log, model, optimizer)
        if best:
            save_model(best_path, best)
    else:
        save_state()
    best_match = max((epoch["val"]["exact_match"] for epoch in log["epochs"]), default=0)
    for epoch in range(len(log["epochs"]) + 1, config.epochs + 1):
        torch.manual_seed(config.seed * 1_000_000 + epoch)
        start = time.perf_counter()
        train = train_epoch(model, train_loader, optimizer, config, epoch)
        val = evaluate(model, val_loader)
        if val["exact_match"] >= best_match:
            best_match, log["best_epoch"], best = val["exact_match"], epoch, copy.deepcopy(model.state_dict())
            save_model(best_path, best)
        log["epochs"].append({"epoch": epoch, "train": train, "val": val, "seconds": time.perf_counter() - start})
        save_state()
        write_json(output_dir / "training_log.json", log)
        print(f"epoch {epoch:3} of {config.epochs}: train loss {train['loss']:.4f}, val loss {val['loss']:.4f}, "
              f"val exact match {val['exact_match']:.2%}, {log['epochs'][-1]['seconds']:.1f} s"
              f"{', best so far' if log['best_epoch'] == epoch else ''}", flush=True)
    return log


def description(log):
    """What of a log says which run it is: all that a run of the same options has in common, whatever machine it runs
    on."""
    return {key: value for key, value in log.items() if key not in ("environment", "epochs", "best_epoch")}


def is_finished(log, config, output_dir):
    """Whether `output_dir` holds this very run, and it has ended.

    Raises:
        UserError: if it holds another run that has ended, naming the first entry that differs.
    """
    path = output_dir / "training_log.json"
    if (output_dir / "resume.pth").exists() or not path.exists():
        return False
    saved = read_json(path, "train without --resume")
    if not isinstance(saved, dict):
        return False
    found = difference(saved, description(log) | {"training": asdict(config)})
    if found and "test" in saved:
        raise UserError(f"{output_dir} holds a finished run that differs in {found}: give the options it had, another "
                        "--output-dir, or train without --resume to replace it")
    return "test" in saved


def restore(state, log, model, optimizer):
    """Put a run's saved state back into the model and the optimizer.

    Returns:
        `(the run's log so far, the state dict of its best epoch or None)`.

    Raises:
        UserError: if the run is not the one that `log` describes, naming the first entry that differs.
    """
    try:
        saved = state["log"]
        found = difference(saved, description(log))
        if found:
            raise UserError(f"the interrupted run differs in {found}: give the options it had, or train without "
                            "--resume")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return log | {key: saved[key] for key in ("epochs", "best_epoch")}, state["best"]
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError):
        raise UserError("resume.pth is not of such a training run: train without --resume") from None
