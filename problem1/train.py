"""Train the addition transformer, test it, and leave the best epoch's weights in results/."""

import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from support import cli, files, plots

import torch
from torch import nn
from torch.nn import functional as F

from dataset import (
    ORDERS,
    PAD_TOKEN,
    SPLITS,
    VOCAB_SIZE,
    create_dataloaders,
    decode_problems,
    padding_mask,
    shift_right,
)
from generate_data import ensure_data
from model import Seq2SeqTransformer, evaluating

EVALUATION_BATCH = 500
MOST_PARAMETERS = 10**9
MOST_SINUSOIDAL = 3  # digits; with more, sinusoids leave long carries wrong


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. Every training log holds it.

    `warmup` is the share of all steps in which the learning rate rises from 0 to `lr`; it then
    falls to 0 along half a cosine. `weight_decay` is for linear layers and embeddings, not for
    biases and norms. `focus` is the exponent of `focal_loss`. `clip_norm` bounds the gradient.
    `exchange` is the probability in `exchange_digits`.
    """

    epochs: int = 18
    batch_size: int = 128
    lr: float = 2e-3
    seed: int = 0
    warmup: float = 0.05
    weight_decay: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    focus: float = 2.0
    clip_norm: float = 1.0
    exchange: float = 0.5


def learning_rate(step, total_steps, config):
    """Learning rate of step 0, 1, ..., total_steps - 1: linear warm-up, then cosine decay."""
    warmup_steps = config.warmup * total_steps
    if step < warmup_steps:
        return config.lr * (step + 1) / (warmup_steps + 1)
    angle = math.pi * (step - warmup_steps) / (total_steps - warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(angle))


def make_optimizer(model, config):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), weight decay as in `TrainingConfig`."""
    matrices = [m.weight for m in model.modules() if isinstance(m, (nn.Linear, nn.Embedding))]
    decayed = list(dict.fromkeys(matrices))  # one that two layers share stands in it once
    others = [p for p in model.parameters() if all(p is not matrix for matrix in decayed)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    options = {"lr": config.lr, "betas": (config.beta1, config.beta2)}
    try:
        return torch.optim.AdamW(groups, **options, fused=True)
    except RuntimeError:  # before torch 2.4 a CPU has no fused step
        return torch.optim.AdamW(groups, **options)


def focal_loss(logits, target, focus):
    """Cross-entropy in which a token counts by (1 - p)^focus, p being its probability.

    Lin et al. 2017 (arXiv:1708.02002). The weights are at least 0.001^focus, pass no gradient and
    have mean one. So the many easy tokens do not drown the few that are still hard, here those
    after a carry through a column that sums to 9.

    Args:
        logits: `[B, T, vocab_size]`.
        target: `[B, T]`; padding does not count.
        focus: 0 gives the plain cross-entropy.

    Returns:
        `(loss, plain)`: the loss and, without gradient, the plain cross-entropy.
    """
    real = target != PAD_TOKEN
    return focused_mean(F.cross_entropy(logits[real], target[real], reduction="none"), focus)


def focused_mean(losses, focus):
    """The two means of `focal_loss`, of the cross-entropies of single tokens `[N]`."""
    plain = losses.detach()
    weights = (-torch.expm1(-plain)).clamp_min(1e-3) ** focus
    return (weights / weights.mean() * losses).mean(), plain.mean()


def exchange_digits(source, probability):
    """Sources `[B, 2n + 1]` in which the two digits of a column have, at random, changed places.

    The sum is the same: 347 + 159 = 357 + 149. So one training problem shows up to 2^n in time.
    """
    a, b = decode_problems(source)  # [B, n] each
    n, exchanged = a.size(1), torch.rand(a.shape) < probability
    plus = source[:, n : n + 1]
    return torch.cat([torch.where(exchanged, b, a), plus, torch.where(exchanged, a, b)], dim=1)


def score_tokens(predicted, target):
    """Right tokens, all tokens and exact matches of `predicted [B, T]`, padding left out.

    A problem matches exactly if every one of its tokens is right.
    """
    real = target != PAD_TOKEN
    right = (predicted == target) & real
    return right.sum().item(), real.sum().item(), (right == real).all(dim=1).sum().item()


def train_epoch(model, loader, optimizer, config, epoch):
    """One pass over the training problems with teacher forcing.

    Returns:
        A dict of `loss` (plain cross-entropy), `token_accuracy` and `teacher_forced_exact_match`,
        averaged over the pass while the weights move, and the last `learning_rate`.

    Raises:
        UserError: if the loss is not finite.
    """
    model.train()
    device = next(model.parameters()).device
    progress = cli.Progress(f"epoch {epoch}, steps", len(loader), seconds=math.inf)
    loss_sum = right = tokens = matches = n = 0
    for index, batch in enumerate(loader):
        # The learning rate follows the number of steps taken since the start of training.
        step = (epoch - 1) * len(loader) + index
        lr = learning_rate(step, config.epochs * len(loader), config)
        for group in optimizer.param_groups:
            group["lr"] = lr

        # The decoder reads the right answer, shifted by the start token, and predicts it.
        source = exchange_digits(batch["input"], config.exchange).to(device)
        target = batch["target"].to(device)
        logits = model(source, shift_right(target), padding_mask(source))
        loss, plain = focal_loss(logits, target, config.focus)
        if not torch.isfinite(loss):
            raise cli.UserError(
                f"the loss is {loss.item()} at step {step + 1}, learning rate {lr:.3g}: "
                "train again with a lower --lr"
            )

        # One step of AdamW down the clipped gradient.
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()

        # Sums for the log.
        batch_right, batch_tokens, batch_matches = score_tokens(logits.argmax(dim=-1), target)
        loss_sum += plain.item() * batch_tokens
        right, tokens = right + batch_right, tokens + batch_tokens
        matches, n = matches + batch_matches, n + len(source)
        progress.update(index + 1)
    return {
        "loss": loss_sum / tokens,
        "token_accuracy": right / tokens,
        "teacher_forced_exact_match": matches / n,
        "learning_rate": lr,
    }


@torch.no_grad()
def evaluate(model, loader):
    """Evaluate a model on every problem of a loader.

    Exact match is free-running: the model decodes greedily from the start token and sees nothing
    of the answer. One pass with teacher forcing decides which answers match: if every prediction
    is right after a right prefix, greedy decoding takes that very path, and else it leaves it. So
    only the other problems are decoded, for the accuracy of their tokens.

    Returns:
        A dict: `n`, `loss` (mean cross-entropy of a token, teacher forcing), `token_accuracy` and
        `exact_match` (free-running) with `exact_match_interval` (Wilson, 95%),
        `teacher_forced_token_accuracy` and `teacher_forced_exact_match`.
    """
    device = next(model.parameters()).device
    n = loss = tokens = forced_right = free_right = matches = 0
    with evaluating(model):
        for batch in loader:
            source, target = batch["input"].to(device), batch["target"].to(device)
            mask = padding_mask(source)
            logits = model(source, shift_right(target), mask)
            flat = logits.flatten(0, 1), target.flatten()
            loss += F.cross_entropy(*flat, ignore_index=PAD_TOKEN, reduction="sum").item()
            predicted = logits.argmax(dim=-1)  # [B, T]
            right, real, matching = score_tokens(predicted, target)
            forced_right, tokens, matches = forced_right + right, tokens + real, matches + matching

            wrong = ((predicted != target) & (target != PAD_TOKEN)).any(dim=1)  # [B]
            if wrong.any():
                wrong_mask = None if mask is None else mask[wrong]
                predicted[wrong] = model.generate(
                    source[wrong], target.size(1), src_mask=wrong_mask
                )
            free_right += score_tokens(predicted, target)[0]
            n += len(source)
    return {
        "n": n,
        "loss": loss / tokens,
        "token_accuracy": free_right / tokens,
        "exact_match": matches / n,
        "exact_match_interval": plots.wilson_interval(matches, n),
        "teacher_forced_token_accuracy": forced_right / tokens,
        "teacher_forced_exact_match": matches / n,
    }


def fit(model, train_loader, val_loader, config):
    """Train, and leave the model with the weights of its best epoch.

    The best epoch has the highest free-running exact match on validation; of equals it is the
    latest. Every epoch draws its random numbers from a seed of its own.

    Returns:
        A dict: `best_epoch`, and `epochs` with a record for each.
    """
    optimizer = make_optimizer(model, config)
    epochs, best_epoch, best_match, best_weights = [], None, -1, None
    for epoch in range(1, config.epochs + 1):
        torch.manual_seed(config.seed * 1_000_000 + epoch)
        start = time.perf_counter()
        train = train_epoch(model, train_loader, optimizer, config, epoch)
        val = evaluate(model, val_loader)
        if not math.isfinite(val["loss"]):
            raise cli.UserError(
                f"the loss on validation is {val['loss']} after epoch {epoch}: train again with a "
                "lower --lr"
            )
        if val["exact_match"] >= best_match:
            best_epoch, best_match = epoch, val["exact_match"]
            best_weights = copy.deepcopy(model.state_dict())
        seconds = time.perf_counter() - start
        epochs.append({"epoch": epoch, "train": train, "val": val, "seconds": seconds})
        best = ", best so far" if best_epoch == epoch else ""
        print(
            f"epoch {epoch:3} of {config.epochs}: train loss {train['loss']:.4f}, "
            f"val loss {val['loss']:.4f}, val exact match {val['exact_match']:.2%}, "
            f"{seconds:.1f} s{best}",
            flush=True,
        )
    model.load_state_dict(best_weights)
    return {"best_epoch": best_epoch, "epochs": epochs}


def make_model(seed, device, kind=Seq2SeqTransformer, **sizes):
    """The model of class `kind` that training with this seed starts from.

    Raises:
        UserError: if its sizes do not go together or are too large.
    """
    layers = sizes["num_encoder_layers"] + 2 * sizes["num_decoder_layers"]
    parameters = layers * sizes["d_model"] * (4 * sizes["d_model"] + sizes["d_ff"])
    if parameters > MOST_PARAMETERS:
        raise cli.UserError(
            f"the model would have about {parameters:.0e} parameters; the most is "
            f"{MOST_PARAMETERS:.0e}"
        )
    torch.manual_seed(seed * 1_000_000)
    try:
        return kind(VOCAB_SIZE, **sizes).to(device)
    except ValueError as error:
        raise cli.UserError(f"a model of this size cannot be made: {error}") from None


def train(model, config, data_dir, output_dir, order=ORDERS[0]):
    """Train and test a model, and replace the results in `output_dir` together at the end.

    Returns:
        The training log.
    """
    start = time.perf_counter()
    # Read the problems; the training problems in batches of the chosen size.
    train_loader, *_ = create_dataloaders(data_dir, config.batch_size, order=order)
    _, val_loader, test_loader = create_dataloaders(data_dir, EVALUATION_BATCH, order=order)
    digests = {split: files.file_digest(data_dir / f"{split}.json") for split in SPLITS}

    # Note what the weights are of: the notes travel in the checkpoint.
    about = {"num_digits": test_loader.dataset.num_digits, "order": order}
    model.training_info = about | {"train_sha256": digests["train"]}
    log = about | {
        "model": asdict(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data_sha256": digests,
        "environment": cli.environment(next(model.parameters()).device),
        "training": asdict(config),
    }

    # Train; the model then has the weights of the epoch that was best on validation.
    log |= fit(model, train_loader, val_loader, config)

    # Test these weights, once.
    log["test"] = evaluate(model, test_loader)
    log["seconds"] = time.perf_counter() - start
    log[files.WEIGHTS_DIGEST] = files.weights_digest(model)

    # Replace the results of the run before, all together.
    files.write_files(
        {
            output_dir / "best_model.pth": files.checkpoint_bytes(model.state_dict()),
            output_dir / "training_log.json": files.json_bytes(log),
            output_dir / "training_curves.png": files.figure_bytes(plot_log(log)),
        }
    )
    return log


def plot_log(log):
    """The training curves."""
    forced = "training (teacher forcing, running mean)"
    loss = {"ylabel": "cross-entropy a token (nats)", "title": "Loss, teacher forcing"}
    return plots.plot_training_curves(
        log,
        loss=loss | {"yscale": "log"},
        measure={"ylim": (-0.02, 1.02), "ylabel": "share right", "title": "Exact match"},
        curves=[
            ("train", "teacher_forced_exact_match", "-", forced),
            ("val", "exact_match", "--", "validation (free-running)"),
            ("val", "token_accuracy", ":", "validation, tokens (free-running)"),
        ],
        legend="lower right",
    )


def add_arguments(parser):
    """The options of training: folders, how to train, sizes of the model."""
    default, count, width = TrainingConfig(), cli.whole_number(1), cli.whole_number(1, 100_000)
    for option, kind, value, text in [
        ("--data-dir", Path, cli.DATA_DIR, "folder of the problems; made if empty"),
        ("--output-dir", Path, cli.RESULTS_DIR, "folder for weights, log and curves"),
        ("--epochs", count, default.epochs, "passes over the training problems"),
        ("--batch-size", count, default.batch_size, "problems a step"),
        ("--lr", cli.positive_number, default.lr, "highest learning rate, after warm-up"),
        ("--d-model", width, 128, "width of the model"),
        ("--num-heads", count, 4, "attention heads a layer"),
        ("--num-layers", cli.whole_number(1, 1_000), 2, "layers of encoder and decoder each"),
        ("--d-ff", width, 512, "inner width of the feed-forward layers"),
        ("--dropout", cli.probability, 0.0, "dropout probability"),
        ("--seed", cli.whole_number(0), default.seed, "seed of initialisation, order and dropout"),
        ("--device", str, None, "cpu, cuda or mps; by default the best one present"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)


def sizes_and_config(args):
    """The sizes of the model and the `TrainingConfig` that the options ask for."""
    names = ("d_model", "num_heads", "d_ff", "dropout")
    sizes = {name: getattr(args, name) for name in names}
    sizes |= {"num_encoder_layers": args.num_layers, "num_decoder_layers": args.num_layers}
    return sizes, TrainingConfig(args.epochs, args.batch_size, args.lr, args.seed)


def report(log, output_dir):
    """Print what came out, and name the records in the folder that are of other weights now."""
    test = log["test"]
    low, high = test["exact_match_interval"]
    print(
        f"best epoch {log['best_epoch']}; test exact match, free-running: "
        f"{test['exact_match']:.2%} (95% interval {low:.2%} to {high:.2%}, n = {test['n']:,}); "
        f"{log['seconds']:.0f} s; weights in {output_dir / 'best_model.pth'}"
    )
    stale = [
        str(path.relative_to(output_dir))
        for path in files.stale_records(output_dir, log[files.WEIGHTS_DIGEST])
    ]
    if stale:
        print(
            f"of other weights now: {', '.join(stale)}; make them again with "
            f"python analyze.py --results-dir {output_dir} and "
            f"python inference.py --exhaustive --model-path {output_dir / 'best_model.pth'}"
        )


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(arguments)
    sizes, config = sizes_and_config(args)
    # Make the problems if there are none yet.
    ensure_data(args.data_dir)
    # Build the model with random weights, then train and test it.
    model = make_model(args.seed, cli.choose_device(args.device), **sizes)
    with files.locked(args.output_dir):
        log = train(model, config, args.data_dir, args.output_dir)
    # Say what came out.
    report(log, args.output_dir)
    if log["num_digits"] > MOST_SINUSOIDAL:
        print(
            f"warning: sinusoidal positions leave long carries of {log['num_digits']} digits "
            "wrong; python problem1/beyond train --positions columns does better"
        )


if __name__ == "__main__":
    cli.run(main)
