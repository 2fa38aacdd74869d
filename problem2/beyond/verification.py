"""Is a local model right on every sequence of every length? Answered by trying every window there is, instead of a
sample of sequences. What can be proved of unrestricted attention is in `extrapolation.certificate`.

The recommended model has one layer of local attention that reaches one value to either side, and its answer is that of
the position with the lowest margin (logit of "sorted" minus logit of "unsorted"). The margin of a position depends on
its value and its neighbours' alone: one of 100^3 windows inside a sequence, of 100^2 at each end, or of 100 sequences
of one value. So

- every sorted sequence is called sorted if every window without a descent has a positive margin, and only then;
- every unsorted sequence is called unsorted if each descent v > w is noticed: the window of v in which w follows has no
  positive margin whatever comes before v, or the window of w in which v precedes has none whatever comes after w.

Margins are computed in floating point, and in other sums than in a longer sequence: they are to be compared with
`smallest`, the distance of the closest one to zero, which must be far above the rounding of single precision.
"""

import torch

from dataset import LARGEST_VALUE

VALUES = LARGEST_VALUE + 1


def applies(model):
    """Whether the argument above holds for a model: its one layer, its reach and its pooling are those, and its scores
    are not scaled by the length."""
    config = model.config
    of_the_kind = (config.num_layers, config.encoding_type, config.pooling) == (1, "local_bias", "lowest")
    return of_the_kind and model.pos_encoding.reach == 1 and not config.log_scaling


@torch.no_grad()
def window_margins(model):
    """Margins of all windows, in evaluation mode on the CPU: a dict.

    `single [v]`; `first [v, w]`, of v at the start before w; `last [v, w]`, of w at the end after v; `inner [u, v, w]`,
    of v between u and w.
    """
    def margins(sequences, position):
        logits = model.classifier(model.encode(sequences.to(next(model.parameters()).device))[:, position]).cpu()
        return logits[:, 1] - logits[:, 0]
    values = torch.arange(VALUES)
    pairs = torch.cartesian_prod(values, values)
    inner = [margins(torch.cat([torch.full((len(pairs), 1), u), pairs], dim=1), 1).view(VALUES, VALUES)
             for u in range(VALUES)]
    return {"single": margins(values.unsqueeze(1), 0), "first": margins(pairs, 0).view(VALUES, VALUES),
            "last": margins(pairs, 1).view(VALUES, VALUES), "inner": torch.stack(inner)}


def decisive(windows):
    """What the verdicts rest on: `(of each window without a descent its margin, of each descent the higher margin of
    the value that notices it)`, the latter over all surroundings and for the better of the two values."""
    values = torch.arange(VALUES)
    ascends = values.unsqueeze(1) <= values
    good = torch.cat([windows["single"], windows["first"][ascends], windows["last"][ascends],
                      windows["inner"][ascends.unsqueeze(2) & ascends]])
    of_left = torch.maximum(windows["inner"].amax(dim=0),
                            windows["first"])  # v with w after it, over all that may come before v
    of_right = torch.maximum(windows["inner"].amax(dim=2),
                             windows["last"])  # w with v before it, over all that may come after w
    return good, torch.minimum(of_left, of_right)[~ascends]


def judge(windows):
    """What `window_margins` say.

    Returns:
        A dict: `windows_without_descent` and how many of them are `called_unsorted`; `descents`, pairs v > w, and how
        many of them are `not_always_noticed` (in some surroundings neither v nor w is called unsorted; a sequence may
        still be, for another descent); `smallest`, the least distance from zero of a margin that one of these verdicts
        rests on; `every_sequence_right`, whether sequences of every length are proved to be answered rightly.

    Raises:
        ValueError: if a margin is not a number, of which nothing can be said.
    """
    if any(margins.isnan().any() for margins in windows.values()):
        raise ValueError("a margin is not a number")
    good, noticed = decisive(windows)
    called_unsorted, not_noticed = int((good <= 0).sum()), int((noticed > 0).sum())
    return {"windows_without_descent": len(good), "called_unsorted": called_unsorted, "descents": len(noticed),
            "not_always_noticed": not_noticed, "smallest": min(good.abs().min().item(), noticed.abs().min().item()),
            "every_sequence_right": not called_unsorted and not not_noticed}
