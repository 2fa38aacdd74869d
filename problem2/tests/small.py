"""Small data and models, and a stand-in for a model that knows the answers."""

from unittest import mock

from support import files

import torch
from torch.nn import functional as F

from generate_data import generate
from model import create_model
from tests.helpers import TemporaryFolder

EXACT = {"rtol": 0, "atol": 1e-12}  # for float64
SIZES = {"d_model": 16, "num_heads": 2, "num_layers": 1, "d_ff": 16}
# The same sizes as options of train.py.
SMALL = [f"--{name.replace('_', '-')}={size}" for name, size in SIZES.items()]
SMALL += ["--batch-size=8", "--dropout=0.1", "--device=cpu"]


def random(*shape, seed=0):
    """Normal random numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small_model(encoding, make=create_model, seed=0, **changes):
    """A model in float64 and evaluation mode whose positions are not as they start (some at 0)."""
    torch.manual_seed(seed)
    sizes = {"d_model": 24, "num_heads": 3, "num_layers": 2, "d_ff": 40, "dropout": 0.0}
    model = make(encoding_type=encoding, **sizes | changes).double().eval()
    for parameter in model.pos_encoding.parameters():
        torch.nn.init.normal_(parameter)
    return model


def save(path, model):
    """Save a model as train.py does."""
    model.training_info = model.training_info or {"train_sha256": ""}
    files.write_files({path: files.checkpoint_bytes(model.state_dict())})


class SmallData(TemporaryFolder):
    """A test with a folder of its own, and few sequences in it if asked."""

    def small_data(self, sizes=(60, 20, 20), extrapolation=False):
        """Make `self.folder / "data"`; returns it."""
        generate(self.folder / "data", 641, *sizes, generate_extrapolation=extrapolation)
        return self.folder / "data"


class Oracle(torch.nn.Module):
    """Knows the answers, or gives one `constant` answer."""

    longest = 2048

    def __init__(self, constant=None):
        super().__init__()
        self.constant = constant
        self.config = mock.Mock(encoding_type="sinusoidal", max_len=300, num_layers=4)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, mask=None):
        is_sorted = (x[:, :-1] <= x[:, 1:]).all(dim=1).long()
        if self.constant is not None:
            is_sorted = torch.full_like(is_sorted, self.constant)
        return F.one_hot(is_sorted, 2) * 6.0
