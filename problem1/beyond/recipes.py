"""How models beyond the assignment are trained: one recipe for every study."""

from support import cli, files
from support.studies import read_records

from beyond import POSITIONS
from dataset import ORDERS
from train import TrainingConfig, add_arguments, make_model, sizes_and_config, train

MOVE_AWAY = "move it away, or name another folder with --output-dir"


def records_folder(order):
    """The folder of what is known of an order of writing, beyond the assignment."""
    folder = cli.RESULTS_DIR / "beyond"
    return folder if order == ORDERS[0] else folder / "right_to_left"


def recipe(positions):
    """The `TrainingConfig` for a kind of positions, the same in both orders of writing."""
    if positions == "columns":
        return TrainingConfig(epochs=11, batch_size=32, lr=1.5e-3, weight_decay=0.3, exchange=0.0)
    return TrainingConfig()


def default_sizes():
    """The sizes of the model that train.py trains, as arguments of `train.make_model`."""
    parser = cli.Parser()
    add_arguments(parser)
    return sizes_and_config(parser.parse_args([]))[0]


def make_start(order, positions, config, sizes, device="cpu"):
    """The model from which training with this `TrainingConfig` starts."""
    if positions == "columns":
        sizes = sizes | {"order": order}
    return make_model(config.seed, device, POSITIONS[positions], **sizes)


def train_model(order, positions, config, sizes, data_dir, folder, device="cpu"):
    """Train a model with its results in `folder`.

    Returns:
        `(model, log)`: the model with its best weights, in evaluation mode, and the training log.
    """
    model = make_start(order, positions, config, sizes, device)
    log = train(model, config, data_dir, folder, order)
    return model.eval(), log


def refuse_others(path, wanted):
    """Make sure that the records in `path` are of the data and settings of the present runs.

    Args:
        wanted: a function from a record to the entries that it must have. An entry that the record
            lacks is no fault: older records do not name their data.

    Raises:
        UserError: if a record has other entries, or is none.
    """
    with files.reading(path, MOVE_AWAY):
        for record in read_records(path):
            for key, value in wanted(record).items():
                if record.get(key, value) != value:
                    raise cli.UserError(f"{path} holds runs with another {key}: {MOVE_AWAY}")
