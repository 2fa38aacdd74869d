"""The training loop: AdamW, warm-up and cosine decay, the best epoch kept, every epoch resumable."""

import copy
import math
import time
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional as F

from learning.augmentation import augment
from learning.checkpoint import save_model
from learning.evaluation import evaluate
from support.cli import Progress, UserError
from support.files import read_checkpoint, write_checkpoint, write_json
from support.runs import difference


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; recorded in the training log.

    `warmup` is the share of all steps in which the learning rate rises from 0 to `lr`; it then falls to 0 along half a
    cosine. `weight_decay` is for matrices alone: not for biases and norms, nor for the rows of learned positions, so
    that a row that no sequence reaches keeps its first value. `clip_norm` bounds the gradient's norm. `augmentation` is
    a name in `AUGMENTATIONS`; `focus` is the exponent of `focal_loss`. The positional encoding's own parameters learn
    at `lr` times the `lr_scale` that its class declares.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    warmup: float = 0.05
    weight_decay: float = 0.3
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 1.0
    augmentation: str = "none"
    focus: float = 0.0


def learning_rate(step, total_steps, config):
    """Learning rate of step 0, 1, ..., total_steps - 1: linear warm-up, then cosine decay to zero."""
    warmup_steps = config.warmup * total_steps
    if step < warmup_steps:
        return config.lr * (step + 1) / (warmup_steps + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def make_optimizer(model, config):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with weight decay as `TrainingConfig` says."""
    positions = list(model.pos_encoding.parameters())
    others = [parameter for parameter in model.parameters() if parameter not in set(positions)]
    groups = [{"params": [parameter for parameter in others if parameter.dim() > 1],
               "weight_decay": config.weight_decay, "lr_scale": 1.0},
              {"params": [parameter for parameter in others if parameter.dim() < 2], "weight_decay": 0.0,
               "lr_scale": 1.0},
              {"params": positions, "weight_decay": 0.0, "lr_scale": model.pos_encoding.lr_scale}]
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


def focal_loss(logits, labels, focus):
    """Mean of (1 - p)^focus times the cross-entropy, p being the probability that the model gives the right class.

    Lin et al. 2017 (arXiv:1708.02002): the few sequences that are still hard are not drowned by the many easy ones.
    `focus` = 0 gives the cross-entropy.

    Args:
        logits: `[B, 2]`.
        labels: `[B]`.
    """
    plain = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-plain)) ** focus * plain).mean()


def train_epoch(model, loader, optimizer, config, epoch):
    """One pass over the training sequences.

    Returns:
        A dict of `loss` (cross-entropy, whatever `focus` is) and `accuracy`, averaged over the pass as the weights
        move, and the last `learning_rate`.

    Raises:
        UserError: if the loss is not finite.
    """
    model.train()
    device = next(model.parameters()).device
    progress = Progress(f"epoch {epoch}, steps", len(loader), seconds=math.inf)
    loss_sum = right = n = 0
    for index, batch in enumerate(loader):
        step = (epoch - 1) * len(loader) + index
        lr = learning_rate(step, config.epochs * len(loader), config)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        mask = None if batch["mask"].all() else batch["mask"].to(device)
        sequences, labels = augment(batch["sequence"], batch["label"], config.augmentation)
        labels = labels.to(device)
        logits = model(sequences.to(device), mask)
        loss = F.cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss.item()} at step {step + 1}, learning rate {lr:.3g}: "
                            "train again with a lower --lr")
        optimizer.zero_grad()
        (focal_loss(logits, labels, config.focus) if config.focus else loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        right += (logits.argmax(dim=1) == labels).sum().item()
        n += len(labels)
        progress.update(index + 1)
    return {"loss": loss_sum / n, "accuracy": right / n, "learning_rate": lr}


def fit(model, train_loader, val_loader, config, log, output_dir, resume=False):
    """Train, and keep the weights of the best epoch: highest accuracy on validation, the latest of equals.

    After each epoch `best_model.pth` (if it is the best), `resume.pth` and `training_log.json` in `output_dir` are
    replaced; `resume.pth` is there before the first one too. Every epoch draws its random numbers from its own seed, so
    that a resumed run ends with identical weights.

    Args:
        model: the model, initialised.
        train_loader, val_loader: batches of sequences; those to be augmented each of one length, as `make_loader` makes
            them.
        config: a `TrainingConfig`.
        log: what describes the run; a resumed run must have the same. The digest of its training data is saved with the
            weights.
        output_dir: folder of the results.
        resume: whether to continue the run that `resume.pth` holds.

    Returns:
        The log, completed by `epochs`, one record each, and `best_epoch`.

    Raises:
        UserError: if there is nothing to resume, or the run to resume is another one; if the loss is not finite.
    """
    optimizer = make_optimizer(model, config)
    best_path, state_path = output_dir / "best_model.pth", output_dir / "resume.pth"
    model.about = {"train_sha256": log["data_sha256"]["train"]}
    log, best_weights = log | {"training": asdict(config), "best_epoch": None, "epochs": []}, None

    def keep():
        write_checkpoint(state_path, {"log": log, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                                      "best_weights": best_weights})
    if resume:
        state = read_checkpoint(state_path, "cpu", "nothing to resume; train without --resume")
        log, best_weights = restore(state, log, model, optimizer)
        if best_weights:
            save_model(best_path, best_weights)
    else:
        keep()
    for epoch in range(len(log["epochs"]) + 1, config.epochs + 1):
        torch.manual_seed(config.seed * 1_000_000 + epoch)
        start = time.perf_counter()
        train = train_epoch(model, train_loader, optimizer, config, epoch)
        val = evaluate(model, val_loader)
        if log["best_epoch"] is None or val["accuracy"] >= log["epochs"][log["best_epoch"] - 1]["val"]["accuracy"]:
            log["best_epoch"] = epoch
            best_weights = copy.deepcopy(model.state_dict())
            save_model(best_path, best_weights)
        log["epochs"].append({"epoch": epoch, "train": train, "val": val, "seconds": time.perf_counter() - start})
        keep()
        write_json(output_dir / "training_log.json", log)
        print(f"epoch {epoch:3} of {config.epochs}: train loss {train['loss']:.4f}, val loss {val['loss']:.4f}, "
              f"val accuracy {val['accuracy']:.2%}, {log['epochs'][-1]['seconds']:.1f} s"
              f"{', best so far' if log['best_epoch'] == epoch else ''}", flush=True)
    return log


def description(log):
    """The entries of a training log that say which run it is: what a run that goes on has in common with what it goes
    on from."""
    return {key: value for key, value in log.items() if key not in ("environment", "note", "best_epoch", "epochs")}


def restore(state, log, model, optimizer):
    """Put a run's saved state back into the model and the optimizer.

    Returns:
        `(the run's log so far, the weights of its best epoch or None)`.

    Raises:
        UserError: if the run is not the one that `log` describes, naming the first entry that differs.
    """
    try:
        saved = state["log"]
        differing = difference(saved, description(log))
        if differing:
            raise UserError(f"the interrupted run differs in {differing}: give the options it had, or train without "
                            "--resume")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return log | {key: saved[key] for key in ("epochs", "best_epoch")}, state["best_weights"]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError):
        raise UserError("resume.pth is not of such a training run: train without --resume") from None
