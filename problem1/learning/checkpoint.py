"""The model on disk: its state dict, in which the arguments that rebuild it travel along."""

import os
from dataclasses import asdict, fields

import torch

from dataset import MAX_DIGITS, VOCAB_SIZE
from model import ORDERS, ModelConfig, Seq2SeqTransformer
from support.cli import HERE, RESULTS_DIR, UserError
from support.files import read_checkpoint, write_checkpoint

EXTRA = "_extra_state"  # what torch calls it


def results_of(order):
    """The folder of the results of the model that writes in this order; left-to-right is the handout's."""
    return RESULTS_DIR if order == ORDERS[0] else RESULTS_DIR / order.replace("-", "_")


def runs_of(order):
    """The folder of the runs of other seeds than the one in `results_of(order)`."""
    return HERE / "runs" if order == ORDERS[0] else HERE / "runs" / order.replace("-", "_")


def save_model(path, state_dict):
    """Save a `Seq2SeqTransformer`'s state dict, on the CPU.

    The model's `about` must hold `num_digits`, and `train_sha256`, the digest of the training data.
    """
    write_checkpoint(path,
                     {name: value.cpu() if torch.is_tensor(value) else value for name, value in state_dict.items()})


def load_model(path, device="cpu", remedy="train the model with python train.py"):
    """Rebuild a model that `save_model` saved, in evaluation mode; `remedy` says what to do if that fails.

    Returns:
        `(model, about)`.

    Raises:
        UserError: if the file is missing, damaged, or the weights do not fit the arguments saved with them.
    """
    state = read_checkpoint(path, device, remedy)
    try:
        extra = state[EXTRA]
        if not isinstance(extra, dict):
            raise ValueError("what it says of the model has no names")
        config, about = ModelConfig(**extra["config"]), extra["about"]
        weights = {name: value for name, value in state.items() if name != EXTRA}
        check(config, about, weights, os.path.getsize(path))
        model = Seq2SeqTransformer(**asdict(config))
        model.load_state_dict(state)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
            raise ValueError("a weight is not finite")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:120]
        raise UserError(f"{path} does not hold a model of this project ({reason}): {remedy}") from None
    return model.to(device).eval(), about


def check(config, about, weights, file_size):
    """Raise ValueError unless this can be a model that adds numbers; what does not fit in shape is found by loading."""
    if not isinstance(about, dict):
        raise ValueError("what it says of the model has no names")
    sizes = [getattr(config, field.name) for field in fields(config) if field.type is int]
    if not all(type(size) is int and 0 < size <= 100_000 for size in sizes):
        raise ValueError("a size of the model is no possible one")
    if config.num_encoder_layers + config.num_decoder_layers > len(weights):
        raise ValueError("fewer weights than layers")
    attention, feed_forward = 4 * config.d_model ** 2, 2 * config.d_model * config.d_ff
    if (config.num_encoder_layers * (attention + feed_forward)
            + config.num_decoder_layers * (2 * attention + feed_forward)) > sum(map(torch.numel, weights.values())):
        raise ValueError("fewer weights than a model of these sizes has")
    if config.vocab_size != VOCAB_SIZE or type(config.dropout) not in (int, float) or not 0 <= config.dropout < 1:
        raise ValueError("the vocabulary or the dropout is no possible one")
    num_digits = about["num_digits"]
    if type(num_digits) is not int or not 1 <= num_digits <= MAX_DIGITS or 2 * num_digits + 1 > config.max_len:
        raise ValueError("the number of digits is no possible one")
    if type(about["train_sha256"]) is not str:
        raise ValueError("the digest of the training data is no text")
    if sum(value.numel() * value.element_size() for value in weights.values()) > file_size:
        raise ValueError("the weights are larger than the file")  # as a tensor that repeats one number can claim to be
