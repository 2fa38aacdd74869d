"""Train models beyond the required ones, and test each: results/beyond/NAME/.

By default: recommended, and unrestricted, in which every value may look at every other. --variant
trains another line of beyond/variants.py (`study --list` names them), --encoding a required model
with another encoding.
"""

from pathlib import Path

from support import cli, files

from beyond.variants import RECOMMENDED, UNRESTRICTED, VARIANTS
from generate_data import ensure_data
from positional_encoding import ENCODINGS, REQUIRED
from train import name_stale_records, tell_stale, train


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--variant", choices=VARIANTS, metavar="NAME", help="train this variant")
    kinds.add_argument("--encoding", choices=ENCODINGS, help="train this encoding")
    for option, kind, value, text in [
        ("--data-dir", Path, cli.DATA_DIR, "folder of the sequences; made if empty"),
        ("--output-dir", Path, cli.RESULTS_DIR / "beyond", "folder for weights, logs and curves"),
        ("--epochs", cli.whole_number(1), None, "passes over the data (default: the variant's)"),
        ("--seed", cli.whole_number(0), 0, "seed of initialisation, order and dropout"),
        ("--device", str, None, "cpu, cuda or mps; by default the best one present"),
    ]:
        parser.add_argument(option, type=kind, default=value, help=text)
    args = parser.parse_args(arguments)
    # Make the sequences if there are none yet.
    device = cli.choose_device(args.device)
    ensure_data(args.data_dir)
    # Choose the variants, with the given settings.
    if args.encoding:
        variants = [VARIANTS[REQUIRED[0]].derive(args.encoding, encoding_type=args.encoding)]
    else:
        names = [args.variant] if args.variant else [RECOMMENDED, UNRESTRICTED]
        variants = [VARIANTS[name] for name in names]
    if args.epochs:
        variants = [variant.derive(variant.name, epochs=args.epochs) for variant in variants]
    # Train and test them, one after the other.
    with files.locked(args.output_dir):
        for variant in variants:
            name, config = variant.name, variant.training_config(args.seed)
            places = args.data_dir, args.output_dir, device
            log = train(name, variant.arguments(), config, *places, variant.kind)
            # Name the records of its former weights.
            name_stale_records(name, log, args.output_dir.parent)
            if name == RECOMMENDED:
                folder = args.output_dir
                stale = files.stale_records(folder / "study", log[files.WEIGHTS_DIGEST])
                places = f"--results-dir {folder} --output-dir {folder / 'study'}"
                tell_stale(stale, f"python problem2/beyond study --figures {places}")
