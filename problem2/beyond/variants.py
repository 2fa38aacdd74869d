"""The table of variants: which model, trained how.

A variant differs from its parent in one setting, so that a difference in accuracy has one cause.
Two stand on their own: the first required model, and `recommended`, from which all variants of the
study descend. `unrestricted` is the best of those in which every value may look at every other.
"""

from dataclasses import asdict, dataclass, replace
from itertools import product

import beyond.augmentation  # noqa: F401  (adds to the table of augmentations)
from beyond.scaling import LEARNED, ScaledClassifier
from model import ModelConfig, SortingClassifier
from positional_encoding import ENCODINGS, REQUIRED
from train import TrainingConfig

RECOMMENDED = "recommended"
UNRESTRICTED = "unrestricted"
# The same in every variant, or not a setting.
NOT_SETTINGS = ("vocab_size", "max_len", "seed", "warmup", "beta1", "beta2", "clip_norm")


@dataclass(frozen=True)
class Variant:
    """All settings of a run except its seed."""

    name: str
    parent: str | None
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    log_scaling: bool | str = False

    def derive(self, name, **change):
        """The variant that differs from this one in the settings `change`."""
        model = {key: value for key, value in change.items() if hasattr(self.model, key)}
        training = {key: value for key, value in change.items() if hasattr(self.training, key)}
        return Variant(
            name,
            self.name,
            replace(self.model, **model),
            replace(self.training, **training),
            change.get("log_scaling", self.log_scaling),
        )

    def settings(self):
        """The settings in one dict, as the records of the study have them."""
        values = asdict(self.model) | {"log_scaling": self.log_scaling} | asdict(self.training)
        return {key: value for key, value in values.items() if key not in NOT_SETTINGS}

    def arguments(self):
        """The arguments of the model's class, `kind`."""
        scaling = {"log_scaling": self.log_scaling} if self.log_scaling else {}
        return asdict(self.model) | scaling

    @property
    def kind(self):
        """The model's class."""
        return ScaledClassifier if self.log_scaling else SortingClassifier

    def training_config(self, seed):
        """The `TrainingConfig` of a run with this seed."""
        return replace(self.training, seed=seed)


def cell_name(encoding, pooling, augmented, scaled=False):
    """The name of the grid's variant with these."""
    suffix = "-scaled" if scaled else ""
    return f"{encoding}-{pooling}-{'augmented' if augmented else 'plain'}{suffix}"


GRID_POOLINGS = ("mean", "max", "lowest", "attention", "differences")
# The required models with order in the pooling: with the differences between neighbours.
NEIGHBOUR_POOLINGS = ("differences", "five_features")
NEIGHBOURS = [f"{name}-{pooling}" for pooling in NEIGHBOUR_POOLINGS for name in REQUIRED]
# The names of the grid's cells, without and with scores scaled by the logarithm of the length.
CELLS, SCALED_CELLS = (
    [cell_name(*choice, scaled) for choice in product(ENCODINGS, GRID_POOLINGS, (False, True))]
    for scaled in (False, True)
)
REFERENCE_CELL = cell_name("local_bias", "lowest", True)


def make_variants():
    """`{name: Variant}`, each after its parent."""
    variants = {}

    def derive(parent, name, **change):
        variants[name] = variants[parent].derive(name, **change)

    first, *others = REQUIRED
    variants[first] = Variant(first, None, ModelConfig(dropout=0.0, encoding_type=first))
    for encoding in others:
        derive(first, encoding, encoding_type=encoding)
    for name in NEIGHBOURS:
        encoding, pooling = name.split("-")
        derive(encoding, name, pooling=pooling)

    local = ModelConfig(dropout=0.0, encoding_type="local_bias", pooling="lowest", num_layers=1)
    training = TrainingConfig(augmentation="crop+shift+swap", epochs=40, focus=2.0)
    variants[RECOMMENDED] = Variant(RECOMMENDED, None, local, training)

    # The other variants are many. So they are half as wide and trained half as long. First the
    # recommended variant without one of its parts.
    derive(RECOMMENDED, "recommended-narrow", d_model=64)
    derive("recommended-narrow", REFERENCE_CELL, epochs=20)
    for augmentation in ("crop+shift", "crop+swap", "shift+swap", "crop", "shift", "swap"):
        name = f"local_bias-lowest-{augmentation}"
        derive(REFERENCE_CELL, name, augmentation=augmentation)
    derive(REFERENCE_CELL, f"{REFERENCE_CELL}-cross_entropy", focus=0.0)

    # The grid: every encoding and pooling, with and without augmentation and scaled scores. The
    # parent of a cell is the augmented one, the one of local_bias, or the one that is not scaled.
    for pooling in ("lowest", "max", "mean", "attention", "differences"):
        for encoding in ("local_bias", *(name for name in ENCODINGS if name != "local_bias")):
            augmented = cell_name(encoding, pooling, True)
            if encoding != "local_bias":
                parent = cell_name("local_bias", pooling, True)
                derive(parent, augmented, encoding_type=encoding)
            elif pooling != "lowest":
                derive(REFERENCE_CELL, augmented, pooling=pooling)
            derive(augmented, cell_name(encoding, pooling, False), augmentation="none")
    for encoding in ENCODINGS:
        augmented = cell_name(encoding, "max", True)
        derive(augmented, f"{augmented}-2layers", num_layers=2)
    for name, scaled in zip(CELLS, SCALED_CELLS):
        derive(name, scaled, log_scaling=True)
    scaled = cell_name("relative_bias", "lowest", True, scaled=True)
    derive(scaled, f"{scaled}-learned", log_scaling=LEARNED)
    derive(scaled, UNRESTRICTED, epochs=40)
    return variants


VARIANTS = make_variants()
