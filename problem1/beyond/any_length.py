"""Train a model that adds numbers of every length, and prove it.

The model is a LocalTransformer (local.py), trained on numbers of 1 to 5 digits; the proof is in
windows.py. Weights, log and proof are in results/beyond/any_length/. With --seeds it trains and
tries a model of each seed instead, and writes a line of seeds.jsonl for each.
"""

import time
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from support import cli, files, studies

import torch

from beyond.lengths import DATA, ORDER, TRAINED, MixedBatches, make_data
from beyond.local import LocalTransformer
from beyond.recipes import MOVE_AWAY, recipe, refuse_others
from beyond.windows import all_columns, prove
from dataset import AdditionDataset, decode_problems, encode_problems, in_order
from train import EVALUATION_BATCH, fit, make_model

CONFIG = replace(recipe("columns"), epochs=6)
SIZES = {"d_model": 64, "num_heads": 4, "d_ff": 256, "dropout": 0.0}
KEYS = ("seed",)
SIZES |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
KEPT = files.WEIGHTS_DIGEST, "parameters", "training", "train_sha256", "best_epoch", "seconds"
ONE_DIGIT = 5  # how often each of the 100 problems of one digit is in the training problems


def read_problems(split, digits, order):
    """The problems of `make_data`, changed where they lack what a user may ask.

    A shorter number is filled up with zeros, and no problem of `make_data` begins with 0. So in the
    second of four problems the first number does so, in the third the second number, and in the
    fourth both. Of one digit, where the first column is the leading one, there are few problems:
    all 100 are in training, ONE_DIGIT times each.
    """
    dataset = AdditionDataset(DATA / f"{split}_{digits}.json")
    a, b = (number.clone() for number in decode_problems(dataset.inputs))  # [N, n] each
    if digits == 1:
        a, b = (number.repeat(ONE_DIGIT, 1) for number in all_columns(1))
    else:
        kind = torch.arange(len(a)) % 4
        a[kind % 2 == 1, 0] = 0
        b[kind >= 2, 0] = 0
    dataset.inputs, targets = encode_problems(a, b)
    dataset.targets = in_order(targets, order)
    return dataset


def train_adder(config, sizes=SIZES, kind=LocalTransformer, order=ORDER):
    """Train a model on the problems of `make_data`, as the `TrainingConfig` says.

    Returns:
        `(model, log)`: the model with the weights that were best on validation problems, in
        evaluation mode, and what there is to know of its training.
    """
    start = time.perf_counter()
    train_sets = [read_problems("train", digits, order) for digits in TRAINED]
    val_sets = [read_problems("val", digits, order) for digits in TRAINED if digits > 1]
    model = make_model(config.seed, "cpu", kind, **sizes)
    digest = sha256()
    for part in train_sets:
        digest.update(part.inputs.numpy().tobytes())
    model.training_info = {
        "num_digits": max(TRAINED),
        "order": order,
        "train_sha256": digest.hexdigest(),
    }
    log = {
        **model.training_info,
        "problems": {
            "train": {part.num_digits: len(part) for part in train_sets},
            "val": {part.num_digits: len(part) for part in val_sets},
        },
        "model": asdict(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "environment": cli.environment("cpu"),
        "training": asdict(config),
        **fit(
            model,
            MixedBatches(train_sets, config.batch_size, shuffle=True),
            MixedBatches(val_sets, EVALUATION_BATCH, shuffle=False),
            config,
        ),
    }
    log["seconds"] = time.perf_counter() - start
    return model.eval(), log | {files.WEIGHTS_DIGEST: files.weights_digest(model)}


def do_run(seed, folder):
    """Train with one seed, and prove: the run's record."""
    model, log = train_adder(replace(CONFIG, seed=seed))
    return {"seed": seed, **{key: log[key] for key in KEPT}, **prove(model)}


def summary(proof):
    """Text: what was tried and what came out."""
    return (
        f"{proof['windows']:,} windows tried, {proof['wrong']:,} wrong; smallest margin "
        f"{proof['smallest_margin']:.2f}, rounding at most {proof['rounding_to_float64']:.1e} to "
        f"float64 and {proof['rounding_in_long_numbers']:.1e} in long numbers: "
        + ("proved for every length" if proof["proved"] else "NOT proved")
    )


def main(arguments=None):
    parser = cli.Parser(description=__doc__)
    studies.add_arguments(parser)
    parser.set_defaults(seeds=None)
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=cli.RESULTS_DIR / "beyond" / "any_length",
        help="folder of weights, log, proof and records",
    )
    args = parser.parse_args(arguments)
    make_data()

    # With seeds: do the runs that are not in the file yet, and say how many are proved.
    if args.seeds is not None:
        path = args.output_dir / "seeds.jsonl"
        refuse_others(
            path, lambda record: {"training": asdict(replace(CONFIG, seed=record["seed"]))}
        )
        todo = [(seed,) for seed in args.seeds]
        records = studies.do_runs(do_run, todo, path, KEYS, args)
        with files.reading(path, MOVE_AWAY):
            for record in records:
                print(f"seed {record['seed']}: {summary(record)}")
            print(f"{sum(record['proved'] for record in records)} of {len(records)} are proved")
        return

    # Train the model and try every window.
    with files.locked(args.output_dir):
        model, log = train_adder(CONFIG)
        about = {files.WEIGHTS_DIGEST: log[files.WEIGHTS_DIGEST]}
        proof = about | prove(model)
        # Replace the results of the run before, all together.
        files.write_files(
            {
                args.output_dir / "best_model.pth": files.checkpoint_bytes(model.state_dict()),
                args.output_dir / "training_log.json": files.json_bytes(log),
                args.output_dir / "proof.json": files.json_bytes(proof),
            }
        )
    print(f"{summary(proof)}; weights in {args.output_dir / 'best_model.pth'}")
