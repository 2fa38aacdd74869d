"""What is compared between training seeds: a part of the study, done faster than the whole."""

from heads.ablation import measure_ablation, prunable_alone, undecided, verdicts
from heads.examination import Examination
from heads.exhaustive import all_pairs
from heads.interchange import interchanges
from heads.pruning import COUNTED, greedy_order, mean_outputs, measure_orders, measure_pruned


def study_briefly(model, sets):
    """A part of the study of one model.

    Args:
        model: the model, in evaluation mode.
        sets: the problems, `examination.Sets`.

    Returns:
        A record: `verdicts` of the heads, those `undecided` and shares `prunable_alone` on the
        reporting half of the test problems; for each of zero and mean the `orders` of greedy
        removal (see `pruning.measure_orders`) and the `pruned` model (see
        `pruning.measure_pruned`), by mean on all pairs of numbers; and the `sets` that hold a carry
        (see `interchange.find_smallest_set`).
    """
    choosing, reporting, stratified = (
        Examination(model, *problems)
        for problems in (sets.choosing, sets.reporting, sets.stratified)
    )
    ablations = measure_ablation(reporting, "test")
    some, every = (each[:COUNTED] for each in sets.pool), all_pairs(sets.training.size(1) // 2)
    means, orders, pruned = mean_outputs(model, sets.training), [], []
    for name, outputs, pairs in (("zero", None, some), ("mean", means, every)):
        order = {name: greedy_order(stratified, outputs)}
        orders += measure_orders(choosing, reporting, order, outputs)
        removed = orders[-1]["prunable_1_point"]
        pruned.append(measure_pruned(reporting, orders[-1], removed, outputs, *pairs))
    carries = interchanges(model, sets)
    return {
        "verdicts": verdicts(ablations),
        "undecided": undecided(ablations),
        "prunable_alone": prunable_alone(ablations),
        "orders": orders,
        "pruned": pruned,
        "sets": [found for _, each in carries for found in each],
    }
