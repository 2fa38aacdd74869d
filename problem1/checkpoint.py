"""The model on disk: its weights with the arguments that rebuild it."""

import os
from dataclasses import asdict, fields

import torch

from cli import UserError
from dataset import MAX_DIGITS, VOCAB_SIZE
from files import read_checkpoint, write_checkpoint
from model import ModelConfig, Seq2SeqTransformer


def save_model(path, config, weights, about):
    """Save weights (a state dict) with all that is needed to rebuild and to use the model.

    `about` holds `num_digits`, and `train_sha256`, the digest of the training data.
    """
    write_checkpoint(path, {"config": asdict(config), "about": about,
                            "state_dict": {name: value.cpu() for name, value in weights.items()}})


def load_model(path, device="cpu", remedy="train the model with python train.py"):
    """Rebuild a model that `save_model` saved, in evaluation mode; `remedy` says what to do if that fails.

    Returns:
        `(model, about)`.

    Raises:
        UserError: if the file is missing, damaged, or the weights do not fit the arguments saved with them.
    """
    saved = read_checkpoint(path, device, remedy)
    try:
        config, about, weights = ModelConfig(**saved["config"]), saved["about"], saved["state_dict"]
        check(config, about, weights, os.path.getsize(path))
        with torch.device("meta"):  # shapes only: nothing is allocated until the weights are known to fit
            Seq2SeqTransformer(**asdict(config)).load_state_dict({name: value.to("meta") for name, value in weights.items()})
        model = Seq2SeqTransformer(**asdict(config))
        model.load_state_dict(weights)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:120]
        raise UserError(f"{path} does not hold a model of this project ({reason}): {remedy}") from None
    return model.to(device).eval(), about


def check(config, about, weights, file_size):
    """Raise ValueError unless this can be a model that adds numbers; what does not fit in shape is found by loading."""
    if not (isinstance(about, dict) and isinstance(weights, dict)):
        raise ValueError("what it says of the model, or its weights, have no names")
    sizes = [getattr(config, field.name) for field in fields(config) if field.name != "dropout"]
    if not all(type(size) is int and 0 < size <= 100_000 for size in sizes):
        raise ValueError("a size of the model is no possible one")
    if config.num_encoder_layers + config.num_decoder_layers > len(weights):
        raise ValueError("fewer weights than layers")
    if config.vocab_size != VOCAB_SIZE or type(config.dropout) not in (int, float) or not 0 <= config.dropout < 1:
        raise ValueError("the vocabulary or the dropout is no possible one")
    if type(about["num_digits"]) is not int or about["num_digits"] not in range(1, MAX_DIGITS + 1) or 2 * about["num_digits"] + 1 > config.max_len:
        raise ValueError("the number of digits is no possible one")
    if type(about["train_sha256"]) is not str:
        raise ValueError("the digest of the training data is no text")
    if sum(value.numel() * value.element_size() for value in weights.values()) > file_size:
        raise ValueError("the weights are larger than the file")  # as a tensor that repeats one number can claim to be
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise ValueError("a weight is not finite")
