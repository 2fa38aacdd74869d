"""The table of variants: which model, trained how. A variant differs from its parent in one setting, so that a
difference in accuracy has one cause.

Two stand on their own: the first required baseline, at the assignment's sizes, and `recommended`, which all of the
study's variants descend from. `unrestricted` is the best of those in which every value may look at every other.
"""

from dataclasses import asdict, dataclass, fields, replace
from itertools import product

from learning.loop import TrainingConfig
from model import LEARNED_SCALING, POOLINGS, ModelConfig
from positional_encoding import ENCODINGS, REQUIRED

BASELINE = REQUIRED[0]
RECOMMENDED = "recommended"
UNRESTRICTED = "unrestricted"
TRAINED_BY_DEFAULT = (*REQUIRED, RECOMMENDED, UNRESTRICTED)


def cell_name(encoding, pooling, augmented, scaled=False):
    """What the grid's variant of these is called."""
    return f"{encoding}-{pooling}-{'augmented' if augmented else 'plain'}{'-scaled' if scaled else ''}"


# The names of the grid's cells, without and with scores scaled by the logarithm of the length.
CELLS, SCALED_CELLS = ([cell_name(*choice, scaled) for choice in product(ENCODINGS, POOLINGS, (False, True))]
                       for scaled in (False, True))
GRID = cell_name("local_bias", "lowest", True)


@dataclass(frozen=True)
class Variant:
    """All settings of a run but its seed; the fields after `parent` are those of `ModelConfig` and of
    `TrainingConfig`."""

    name: str
    parent: str | None = None
    encoding_type: str = "sinusoidal"
    pooling: str = "mean"
    log_scaling: bool | str = False
    d_model: int = 128
    num_heads: int = 4
    num_layers: int = 4
    d_ff: int = 512
    dropout: float = 0.0
    augmentation: str = TrainingConfig.augmentation
    epochs: int = TrainingConfig.epochs
    batch_size: int = TrainingConfig.batch_size
    lr: float = TrainingConfig.lr
    weight_decay: float = TrainingConfig.weight_decay
    focus: float = TrainingConfig.focus

    def settings(self):
        """Every field but the name and the parent, as a dict."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "parent")}

    def model_arguments(self):
        """The arguments for `SortingClassifier`."""
        return self._those_of(ModelConfig)

    def training_config(self, seed):
        """The `TrainingConfig` of a run with this seed."""
        return TrainingConfig(seed=seed, **self._those_of(TrainingConfig))

    def _those_of(self, config):
        names = {field.name for field in fields(config)}
        return {key: value for key, value in self.settings().items() if key in names}


def make_variants():
    """`{name: Variant}`, each behind its parent."""
    variants = {}

    def root(name, **settings):
        variants[name] = Variant(name, **settings)

    def derive(parent, name, **change):
        variants[name] = replace(variants[parent], name=name, parent=parent, **change)

    root(BASELINE, encoding_type=BASELINE)
    for encoding in REQUIRED[1:]:
        derive(BASELINE, encoding, encoding_type=encoding)

    root(RECOMMENDED, encoding_type="local_bias", pooling="lowest", augmentation="crop+shift+swap", num_layers=1,
         epochs=40, focus=2.0)

    # Half as wide and half as long as the recommended variant, for there are many: it without one of its parts, then
    # the grid.
    derive(RECOMMENDED, "recommended-narrow", d_model=64)
    derive("recommended-narrow", GRID, epochs=20)
    for augmentation in ("crop+shift", "crop+swap", "shift+swap", "crop", "shift", "swap"):
        derive(GRID, f"local_bias-lowest-{augmentation}", augmentation=augmentation)
    derive(GRID, f"{GRID}-cross_entropy", focus=0.0)

    # The grid: every encoding x pooling x with and without augmentation x with and without scaled scores. A cell
    # without augmentation hangs on the one with it, one of another encoding on that of local_bias, one that is scaled
    # on the same that is not.
    for pooling in ("lowest", "max", "mean", "attention"):
        for encoding in ("local_bias", *(name for name in ENCODINGS if name != "local_bias")):
            augmented = cell_name(encoding, pooling, True)
            if encoding != "local_bias":
                derive(cell_name("local_bias", pooling, True), augmented, encoding_type=encoding)
            elif pooling != "lowest":
                derive(GRID, augmented, pooling=pooling)
            derive(augmented, cell_name(encoding, pooling, False), augmentation="none")
    for encoding in ENCODINGS:
        augmented = cell_name(encoding, "max", True)
        derive(augmented, f"{augmented}-2layers", num_layers=2)
    for name, scaled in zip(CELLS, SCALED_CELLS):
        derive(name, scaled, log_scaling=True)
    scaled = cell_name("relative_bias", "lowest", True, scaled=True)
    derive(scaled, f"{scaled}-learned", log_scaling=LEARNED_SCALING)
    derive(scaled, UNRESTRICTED, epochs=40)
    return variants


VARIANTS = make_variants()


def find_models(results_dir):
    """The trained models in a folder, `{name: path of the weights}`: those that are trained by default first."""
    paths = {path.parent.name: path for path in sorted(results_dir.glob("*/best_model.pth"))}
    return {name: paths[name] for name in dict.fromkeys((*TRAINED_BY_DEFAULT, *paths)) if name in paths}
