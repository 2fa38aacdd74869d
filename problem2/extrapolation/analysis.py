"""Test sets of every length, and how often the models are right on them.

Shapes in comments: N sequences, L length.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

from support.cli import UserError
from support.files import read_json

import torch

from dataset import ExtrapolationDataset
from extrapolation.evaluation import summarize
from generate_data import GAP_LENGTH, GAP_SOURCES, NEGATIVES, ensure_test_set
from model import training_remedy
from positional_encoding import REQUIRED

MAIN_KINDS = ("swap", "one_inversion")  # the negatives that the findings rest on
SAMPLED = 400  # sequences of each of the other kinds
TOKENS_AT_ONCE = 1024


def find_models(results_dir):
    """`{name: path of the weights}` of all trained models in a folder, the required ones first.

    Raises:
        UserError: if there is none.
    """
    paths = [*results_dir.glob("beyond/*/best_model.pth"), *results_dir.glob("*/best_model.pth")]
    found = {path.parent.name: path for path in sorted(paths, key=lambda path: path.parent.name)}
    if not found:
        raise UserError(f"{results_dir} holds no trained model: {training_remedy(results_dir)}")
    return {name: found[name] for name in (*REQUIRED, *found) if name in found}


def read_log(path):
    """The training log beside the weights in `path`.

    Raises:
        UserError: if it is missing or is no log of a training.
    """
    log_path, remedy = path.with_name("training_log.json"), training_remedy(path.parent.parent)
    log = read_json(log_path, remedy)
    try:
        values = [log["training"]["seed"], *log["training_lengths"]]
        if len(values) == 3 and all(type(value) is int for value in values):
            return log
    except (KeyError, TypeError):
        pass
    raise UserError(f"{log_path} is no log of a training: {remedy}")


def evaluation_groups(lengths):
    """The groups of test sets that share their sorted half: `[{"set", "length", "gap_source"}]`.

    `set` is "length" (sequences of that length) or "gap control" (windows of 16 values, cut from
    sorted sequences of `gap_source` values: the small gaps between neighbouring values of long
    sequences, at a length that was trained).
    """
    return [{"set": "length", "length": length, "gap_source": None} for length in lengths] + [
        {"set": "gap control", "length": GAP_LENGTH, "gap_source": source} for source in GAP_SOURCES
    ]


def load_group(data_dir, group, num_samples=None, kinds=tuple(NEGATIVES)):
    """The test sets of a group, half sorted; missing ones are generated.

    Args:
        data_dir: folder of the data.
        group: a dict of `length`, and of `gap_source` if it is a gap control.
        num_samples: the most sequences of each kind; None gives all of `MAIN_KINDS`, and `SAMPLED`
            of the others.
        kinds: kinds of negatives.

    Returns:
        `{kind: (sequences [N, L], labels [N])}`.
    """
    length, source, sets = group["length"], group.get("gap_source"), {}
    ensure_test_set(data_dir, length, source)
    for kind in kinds:
        dataset = ExtrapolationDataset(data_dir, length, kind=kind, gap_source=source)
        count = num_samples or (len(dataset) if kind in MAIN_KINDS else SAMPLED)
        halves = [(dataset.labels == label).nonzero().flatten()[: count // 2] for label in (1, 0)]
        keep = torch.cat(halves)
        sets[kind] = dataset.sequences[keep], dataset.labels[keep]
    return sets


def classify(model, sequences, batch_size=None):
    """Logits `[N, 2]`, on the CPU, of sequences `[N, L]` of one length.

    Args:
        model: a classifier in evaluation mode.
        sequences: `[N, L]`.
        batch_size: sequences in one pass; None chooses it by their length.
    """
    device, logits = next(model.parameters()).device, torch.empty(len(sequences), 2)
    fill_by_batch(logits, sequences, lambda part: model(part.to(device)), batch_size)
    return logits


def fill_by_batch(results, sequences, answer, batch_size=None):
    """Fill `results [N, ...]` with what `answer` makes of batches of `sequences [N, L]`.

    The results are reserved beforehand: small ones between the large tensors of later batches would
    keep the memory of these. `batch_size` is as for `classify`.
    """
    batch_size = batch_size or max(1, TOKENS_AT_ONCE // sequences.size(1))

    @torch.no_grad()
    def fill(place, part):
        place.copy_(answer(part))

    # Each batch has one thread. When all threads share every small product, they mostly wait.
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(fill, results.split(batch_size), sequences.split(batch_size)))
    torch.set_num_threads(threads)


def classify_group(model, sets, batch_size=None):
    """Logits `[N, 2]` for each kind of negatives; shared sequences are classified once."""
    everything = torch.cat([sequences for sequences, _ in sets.values()])
    distinct, inverse = everything.unique(dim=0, return_inverse=True)
    logits = classify(model, distinct, batch_size)[inverse]
    return dict(zip(sets, logits.split([len(labels) for _, labels in sets.values()])))


def measure_group(logits, sets, fields):
    """The measures of `summarize` for each kind of negatives: a list of records.

    Args:
        logits: `{kind: [N, 2]}`, as `classify_group` gives them.
        sets: `{kind: (sequences [N, L], labels [N])}`.
        fields: the first entries of each record; they say which model and group it is of.
    """
    return [
        {**fields, "negatives": kind, **summarize(logits[kind], labels)}
        for kind, (_, labels) in sets.items()
    ]


def find_failures(logits, sets, fields, most=3):
    """The wrong answers of most confidence, `most` of each kind: a list of records.

    Arguments as for `measure_group`. A record has the `sequence`, whether it `is_sorted`, its
    `violations` (positions i with a value above the next) and the `probability_sorted` that the
    model gave it.
    """
    records = []
    for kind, (sequences, labels) in sets.items():
        probability = logits[kind].softmax(dim=1)[:, 1]
        confidence = torch.where(labels == 1, 1 - probability, probability)  # in the wrong answer
        for index in confidence.argsort(descending=True)[:most].tolist():
            if confidence[index] > 0.5:
                sequence = sequences[index]
                violations = (sequence[:-1] > sequence[1:]).nonzero().flatten()
                records.append(
                    {
                        **fields,
                        "negatives": kind,
                        "is_sorted": labels[index].item(),
                        "probability_sorted": probability[index].item(),
                        "violations": violations.tolist(),
                        "sequence": sequence.tolist(),
                    }
                )
    return records


def accuracy_table(records):
    """Text: accuracy and AUC by length, a block for each of `MAIN_KINDS`, a line for each model."""
    records = [record for record in records if record["set"] == "length"]
    lengths = sorted({record["length"] for record in records})
    lines = []
    for kind, (measure, form) in product(MAIN_KINDS, {"accuracy": ".1%", "auc": ".2f"}.items()):
        title = f"{kind}, {measure}"
        lines.append(f"{title:23}" + "".join(f"{length:>8}" for length in lengths))
        rows = {}
        for record in records:
            if record["negatives"] == kind:
                row = rows.setdefault(record["encoding"], {})
                row[record["length"]] = format(record[measure], form)
        for name, row in rows.items():
            cells = "".join(f"{row.get(length, '-'):>8}" for length in lengths)
            lines.append(f"  {name:21}{cells}")
    return "\n".join(lines)
