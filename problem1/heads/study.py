"""What is compared between training seeds: a part of the study, done faster than the whole."""

from heads.ablation import measure_ablation, prunable_alone, verdicts
from heads.examination import Examination
from heads.interchange import interchanges
from heads.pruning import greedy_order, measure_orders


def study_briefly(model, sets, batch_size=512, num_samples=None):
    """A part of the study of one model.

    Args:
        model: the model, in evaluation mode.
        sets: the problems, `examination.Sets`.
        batch_size: problems in one pass.
        num_samples: None, or the most pairs of each condition.

    Returns:
        A record: `verdicts` of the heads and shares `prunable_alone` on the reporting half of the
        test problems, the `greedy` order of removal (see `pruning.measure_orders`), and the `sets`
        that hold a carry (see `interchange.find_smallest_set`).
    """
    choosing, reporting, stratified = (
        Examination(model, *problems, batch_size)
        for problems in (sets.choosing, sets.reporting, sets.stratified)
    )
    ablations = measure_ablation(reporting, "test")
    orders = measure_orders(choosing, reporting, {"greedy": greedy_order(stratified)})
    carries = interchanges(model, sets, batch_size, num_samples)
    return {
        "verdicts": verdicts(ablations),
        "prunable_alone": prunable_alone(ablations),
        "greedy": orders[0],
        "sets": [found for _, each in carries for found in each],
    }
