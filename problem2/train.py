"""Train the sorting classifier with each of the three encodings, and test each.

The weights of the best validation epoch are left in results/sinusoidal/, results/learned/ and
results/none/.
"""

import copy
import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from support import cli, files, plots

import torch
from torch import nn
from torch.nn import functional as F

from dataset import SPLITS, create_dataloaders
from extrapolation.evaluation import evaluate
from generate_data import ensure_data
from model import ModelConfig, SortingClassifier
from positional_encoding import REQUIRED

MOST_PARAMETERS = 10**9
MOST_POSITIONS = 100_000
NOTES = {
    "none": "at chance by construction: without positions and with mean pooling the logits are the "
    "same for every order of the values, so a sequence and its sorted copy cannot be told apart; "
    "what training accuracy rises above 50% is memory of which values came together"
}


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. Every training log holds it.

    `warmup` is the share of all steps in which the learning rate rises from 0 to `lr`; it then
    falls to 0 along half a cosine. `weight_decay` is for matrices alone: not for biases and norms,
    nor for the positional encoding, whose parameters learn at `lr` times its `lr_scale`.
    `clip_norm` bounds the gradient. `augmentation` and `focus` are for the models of `beyond`: what
    makes new training sequences, and the exponent of the focal loss.
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


def keep(sequences, labels):
    """The augmentation of the required models: the training sequences as they are."""
    return sequences, labels


# A function of a batch of one length, `sequences [B, L]` and `labels [B]`. `beyond` adds its own.
AUGMENTATIONS = {"none": keep}


def learning_rate(step, total_steps, config):
    """Learning rate of step 0, 1, ..., total_steps - 1: linear warm-up, then cosine decay."""
    warmup_steps = config.warmup * total_steps
    if step < warmup_steps:
        return config.lr * (step + 1) / (warmup_steps + 1)
    angle = math.pi * (step - warmup_steps) / (total_steps - warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(angle))


def make_optimizer(model, config):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), weight decay as in `TrainingConfig`."""
    positions = list(model.pos_encoding.parameters())
    others = [parameter for parameter in model.parameters() if parameter not in set(positions)]
    matrices = [parameter for parameter in others if parameter.dim() > 1]
    vectors = [parameter for parameter in others if parameter.dim() < 2]
    lr_scale = model.pos_encoding.lr_scale
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "lr_scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": positions, "weight_decay": 0.0, "lr_scale": lr_scale},
    ]
    options = {"lr": config.lr, "betas": (config.beta1, config.beta2)}
    try:
        return torch.optim.AdamW(groups, **options, fused=True)
    except RuntimeError:  # before torch 2.4 a CPU has no fused step
        return torch.optim.AdamW(groups, **options)


def focal_loss(logits, labels, focus):
    """Mean of (1 - p)^focus times the cross-entropy, p being the right class's probability.

    Lin et al. 2017 (arXiv:1708.02002): the many easy sequences do not drown the few hard ones.

    Args:
        logits: `[B, 2]`.
        labels: `[B]`.
        focus: 0 gives the plain cross-entropy.

    Returns:
        `(loss, plain)`: the loss, and the plain cross-entropy.
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    plain = F.cross_entropy(logits, labels)
    return (((1 - torch.exp(-losses)) ** focus * losses).mean() if focus else plain), plain


def train_epoch(model, loader, optimizer, config, epoch):
    """One pass over the training sequences.

    Returns:
        A dict of `loss` (plain cross-entropy) and `accuracy`, averaged over the pass while the
        weights move, and the last `learning_rate`.

    Raises:
        UserError: if the loss is not finite.
    """
    model.train()
    device = next(model.parameters()).device
    progress = cli.Progress(f"epoch {epoch}, steps", len(loader), seconds=math.inf)
    loss_sum = right = n = 0
    for index, batch in enumerate(loader):
        # The learning rate follows the number of steps taken since the start of training.
        step = (epoch - 1) * len(loader) + index
        lr = learning_rate(step, config.epochs * len(loader), config)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

        # All sequences of a batch have one length, so that nothing is padded.
        augment = AUGMENTATIONS[config.augmentation]
        sequences, labels = augment(batch["sequence"], batch["label"])
        labels = labels.to(device)
        logits = model(sequences.to(device))
        loss, plain = focal_loss(logits, labels, config.focus)
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
        loss_sum += plain.item() * len(labels)
        right += (logits.argmax(dim=1) == labels).sum().item()
        n += len(labels)
        progress.update(index + 1)
    return {"loss": loss_sum / n, "accuracy": right / n, "learning_rate": lr}


def fit(model, train_loader, val_loader, config):
    """Train, and leave the model with the weights of its best epoch.

    The best epoch has the highest accuracy on validation; of equals it is the latest. Every epoch
    draws its random numbers from a seed of its own.

    Returns:
        A dict: `best_epoch`, and `epochs` with a record for each.
    """
    optimizer = make_optimizer(model, config)
    epochs, best_epoch, best_accuracy, best_weights = [], None, -1, None
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
        if val["accuracy"] >= best_accuracy:
            best_epoch, best_accuracy = epoch, val["accuracy"]
            best_weights = copy.deepcopy(model.state_dict())
        seconds = time.perf_counter() - start
        epochs.append({"epoch": epoch, "train": train, "val": val, "seconds": seconds})
        best = ", best so far" if best_epoch == epoch else ""
        print(
            f"epoch {epoch:3} of {config.epochs}: train loss {train['loss']:.4f}, "
            f"val loss {val['loss']:.4f}, val accuracy {val['accuracy']:.2%}, "
            f"{seconds:.1f} s{best}",
            flush=True,
        )
    model.load_state_dict(best_weights)
    return {"best_epoch": best_epoch, "epochs": epochs}


def make_model(seed, device, kind=SortingClassifier, **arguments):
    """The model of class `kind` that training with this seed starts from.

    Raises:
        UserError: if its sizes do not go together or are too large.
    """
    width, layers = arguments["d_model"], arguments["num_layers"]
    parameters = layers * width * (4 * width + 2 * arguments["d_ff"])
    if parameters > MOST_PARAMETERS:
        raise cli.UserError(
            f"the model would have about {parameters:.0e} parameters; the most is "
            f"{MOST_PARAMETERS:.0e}"
        )
    torch.manual_seed(seed * 1_000_000)
    try:
        return kind(**arguments).to(device)
    except ValueError as error:
        raise cli.UserError(f"a model of this size cannot be made: {error}") from None


def train(name, arguments, config, data_dir, output_dir, device, kind=SortingClassifier):
    """Train and test one model, and replace its results in `output_dir / name` at the end.

    Args:
        name: what the model is called.
        arguments: those of its class `kind`, as a dict.
        config: its `TrainingConfig`.

    Returns:
        The training log.
    """
    start = time.perf_counter()
    # Read the sequences; a model has at least as many positions as the longest of them.
    loaders = create_dataloaders(data_dir, config.batch_size)
    lengths = loaders[0].dataset.lengths
    longest = max(int(loader.dataset.lengths.max()) for loader in loaders)
    if longest > MOST_POSITIONS:
        raise cli.UserError(
            f"the data hold a sequence of {longest:,} values; the most is {MOST_POSITIONS:,}"
        )
    arguments = {**arguments, "max_len": max(arguments["max_len"], longest)}

    # Build the model with random weights; it notes what it is trained on.
    model = make_model(config.seed, device, kind, **arguments)
    digests = {split: files.file_digest(data_dir / f"{split}.json") for split in SPLITS}
    model.training_info = {"train_sha256": digests["train"]}
    log = {
        "model": asdict(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data_sha256": digests,
        "training_lengths": [int(lengths.min()), int(lengths.max())],
        "environment": cli.environment(device),
    }
    if name in NOTES:
        log["note"] = NOTES[name]
        print(f"{name}: {NOTES[name]}", flush=True)
    log["training"] = asdict(config)

    # Train; the model then has the weights of the epoch that was best on validation.
    log |= fit(model, *loaders[:2], config)

    # Test these weights, once.
    log["test"] = evaluate(model, loaders[2])
    log[files.WEIGHTS_DIGEST] = files.weights_digest(model)
    log["seconds"] = time.perf_counter() - start

    # Replace the results of the run before, all together; the handout names two places for each.
    results = {
        "best_model.pth": files.checkpoint_bytes(model.state_dict()),
        "training_log.json": files.json_bytes(log),
        "training_curves.png": files.figure_bytes(plot_log(log)),
    }
    contents = {output_dir / name / file: content for file, content in results.items()}
    if name in REQUIRED:
        for file, content in results.items():
            folder = "best_models" if file == "best_model.pth" else "training_logs"
            contents[output_dir / folder / f"{name}_{file}"] = content
    files.write_files(contents)
    report(name, log, output_dir)
    return log


def plot_log(log):
    """The training curves."""
    return plots.plot_training_curves(
        log,
        loss={"ylim": (0, None), "ylabel": "cross-entropy (nats)", "title": "Loss"},
        measure={"ylim": (0.4, 1.02), "ylabel": "share right", "title": "Accuracy"},
        curves=[
            ("train", "accuracy", "-", "training (running mean)"),
            ("val", "accuracy", "--", "validation"),
        ],
        chance=0.5,
        title=f"encoding: {log['model']['encoding_type']}",
    )


def report(name, log, output_dir):
    """Print what came out, and name the records in the folder that are of other weights now."""
    test = log["test"]
    low, high = test["accuracy_interval"]
    print(
        f"{name}: best epoch {log['best_epoch']}; test accuracy {test['accuracy']:.2%} (95% "
        f"interval {low:.2%} to {high:.2%}, n = {test['n']:,}); {log['seconds']:.0f} s; weights in "
        f"{output_dir / name / 'best_model.pth'}",
        flush=True,
    )
    name_stale_records(name, log, output_dir)


def name_stale_records(name, log, results_dir):
    """Name the records in a folder of results that are of other weights of this model now."""
    stale = files.stale_records(results_dir / "extrapolation", log[files.WEIGHTS_DIGEST], name)
    tell_stale(stale, f"python analyze.py --results-dir {results_dir}")
    for command in ("draws", "gaps", "controls"):
        path = results_dir / "beyond" / f"{command}.jsonl"
        stale = [path] if has_stale_line(path, name, log) else []
        command = f"python problem2/beyond {command} --results-dir {results_dir} --output {path}"
        tell_stale(stale, command)


def has_stale_line(path, name, log):
    """Whether a file of JSON lines has a line of other weights of the model `name` of this seed."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # the command of the file complains
        lines = map(json.loads, path.read_bytes().splitlines())
        wanted = name, log["training"]["seed"]
        made_from = {
            line.get(files.WEIGHTS_DIGEST)
            for line in lines
            if (line["encoding"], line["seed"]) == wanted
        }
        return not made_from <= {log[files.WEIGHTS_DIGEST]}
    return False


def tell_stale(paths, command):
    """Say which records are of other weights now, if any, and the command that makes them again."""
    if paths:
        names = ", ".join(map(str, paths))
        print(f"of other weights now: {names}; make them again with {command}", flush=True)


def add_arguments(parser):
    """The options of training: folders, how to train, sizes of the model."""
    default, model = TrainingConfig(), ModelConfig(dropout=0.0)
    count, width = cli.whole_number(1), cli.whole_number(1, 100_000)
    for option, kind, value, text in [
        ("--data-dir", Path, cli.DATA_DIR, "folder of the sequences; made if empty"),
        ("--output-dir", Path, cli.RESULTS_DIR, "folder for weights, logs and curves"),
        ("--epochs", count, default.epochs, "passes over the training sequences"),
        ("--batch-size", count, default.batch_size, "sequences a step"),
        ("--lr", cli.positive_number, default.lr, "highest learning rate, after warm-up"),
        ("--d-model", width, model.d_model, "width of the model"),
        ("--num-heads", count, model.num_heads, "attention heads a layer"),
        ("--num-layers", cli.whole_number(1, 1_000), model.num_layers, "encoder layers"),
        ("--d-ff", width, model.d_ff, "inner width of the feed-forward layers"),
        ("--dropout", cli.probability, model.dropout, "dropout probability"),
        ("--seed", cli.whole_number(0), default.seed, "seed of initialisation, order and dropout"),
        ("--device", str, None, "cpu, cuda or mps; by default the best one present"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "--encoding", choices=REQUIRED, default=None, help="train this one alone (default: all)"
    )
    add_arguments(parser)
    args = parser.parse_args(arguments)
    # Make the sequences if there are none yet.
    device = cli.choose_device(args.device)
    ensure_data(args.data_dir)
    # Train one model for each encoding; they differ in nothing else.
    config = TrainingConfig(args.epochs, args.batch_size, args.lr, args.seed)
    names = ("d_model", "num_heads", "num_layers", "d_ff", "dropout")
    sizes = {name: getattr(args, name) for name in names}
    with files.locked(args.output_dir):
        for encoding in [args.encoding] if args.encoding else REQUIRED:
            model = asdict(ModelConfig(**sizes, encoding_type=encoding))
            train(encoding, model, config, args.data_dir, args.output_dir, device)


if __name__ == "__main__":
    cli.run(main)
