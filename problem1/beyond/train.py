"""Train a model with another order of writing, or with other positions.

Models are trained as by train.py; only columns have a recipe of their own (beyond/recipes.py). The
results are in results/beyond/right_to_left/ if the units are written first with sinusoidal
positions, and else in a folder of runs/.
"""

from dataclasses import replace

from support import cli, files

from beyond import POSITIONS
from beyond.recipes import recipe, records_folder, train_model
from dataset import ORDERS, AdditionDataset
from generate_data import ensure_data
from train import MOST_SINUSOIDAL, add_arguments, report, sizes_and_config

MOST_LEFT_TO_RIGHT = 5  # digits; with more, some long carries come out wrong


def size_warning(num_digits, order, positions):
    """Why a model may not learn numbers of this size, in one sentence, or None."""
    if num_digits == 1:
        return (
            "there are only 81 problems of one digit, too few to learn addition: expect wrong "
            "answers to those that are not in training"
        )
    if num_digits > MOST_SINUSOIDAL and positions != "columns":
        return (
            f"{positions} positions leave long carries of {num_digits} digits wrong: "
            "--positions columns does better"
        )
    if num_digits > MOST_LEFT_TO_RIGHT and order == ORDERS[0]:
        return (
            f"written {order}, some long carries of {num_digits} digits come out wrong: "
            f"--order {ORDERS[1]} does better"
        )
    return None


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "--order", choices=ORDERS, default=ORDERS[1], help="order in which an answer is written"
    )
    parser.add_argument(
        "--positions",
        choices=POSITIONS,
        default=None,
        help=f"positions (default: sinusoidal up to {MOST_SINUSOIDAL} digits, then columns)",
    )
    add_arguments(parser)
    parser.set_defaults(epochs=None, batch_size=None, lr=None, output_dir=None)
    args = parser.parse_args(arguments)

    # Make the problems if there are none yet; their size decides which positions to take.
    ensure_data(args.data_dir)
    num_digits = AdditionDataset(args.data_dir / "test.json").num_digits
    if args.positions is None:
        args.positions = "sinusoidal" if num_digits <= MOST_SINUSOIDAL else "columns"
    warning = size_warning(num_digits, args.order, args.positions)
    if warning:
        print(f"warning: {warning}", flush=True)

    # What was not given is the recipe's.
    config = replace(recipe(args.positions), seed=args.seed)
    for name in ("epochs", "batch_size", "lr"):
        if getattr(args, name) is not None:
            config = replace(config, **{name: getattr(args, name)})
    if args.output_dir is None:
        committed = (args.order, args.positions) == (ORDERS[1], "sinusoidal")
        name = f"{args.order}_{args.positions}".replace("-", "_")
        args.output_dir = records_folder(args.order) if committed else cli.HERE / "runs" / name

    # Train and test the model, and say what came out.
    sizes, _ = sizes_and_config(args)
    device = cli.choose_device(args.device)
    with files.locked(args.output_dir):
        _, log = train_model(
            args.order, args.positions, config, sizes, args.data_dir, args.output_dir, device
        )
    report(log, args.output_dir)
