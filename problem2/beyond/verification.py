"""Is a local model right on every sequence of every length? Every possible window is tried.

The recommended model has one layer of local attention that reaches one value to either side. Its
answer is that of the position with the lowest margin (logit of "sorted" minus logit of
"unsorted"). The margin of a position depends on its value and its neighbours alone: one of 100^3
windows inside a sequence, of 100^2 at each end, or of 100 sequences of one value. So

- every sorted sequence is called sorted if and only if every window without a descent has a
  positive margin;
- every unsorted sequence is called unsorted if each descent v > w is noticed: the window of v in
  which w follows has no positive margin, whatever comes before v; or the window of w in which v
  precedes has none, whatever comes after w.

Margins are computed in floating point, in other sums than in a longer sequence. Compare them with
`smallest`, the distance of the closest margin to zero: it must be far above the rounding of single
precision. What can be proved of unrestricted attention is in `beyond.certificate`.
"""

import torch

from beyond.scaling import log_scaling
from dataset import LARGEST_VALUE

VALUES = LARGEST_VALUE + 1


def windows_decide(model):
    """Whether the argument above holds: one layer, reach 1, lowest pooling, scores not scaled."""
    config = model.config
    kind = (config.num_layers, config.encoding_type, config.pooling)
    is_local = kind == (1, "local_bias", "lowest") and model.pos_encoding.reach == 1
    return is_local and not log_scaling(model)


@torch.no_grad()
def window_margins(model):
    """Margins of all windows on the CPU, for a model in evaluation mode: a dict.

    `single [v]`; `first [v, w]`, of v at the start before w; `last [v, w]`, of w at the end after
    v; `inner [u, v, w]`, of v between u and w.
    """
    device = next(model.parameters()).device

    def margins(sequences, position):
        h = model.encode(sequences.to(device))[:, position]
        logits = model.classifier(h).cpu()
        return logits[:, 1] - logits[:, 0]

    values = torch.arange(VALUES)
    pairs = torch.cartesian_prod(values, values)  # [10000, 2]
    inner = []
    for u in range(VALUES):
        windows = torch.cat([torch.full((len(pairs), 1), u), pairs], dim=1)
        inner.append(margins(windows, 1).view(VALUES, VALUES))
    return {
        "single": margins(values.unsqueeze(1), 0),
        "first": margins(pairs, 0).view(VALUES, VALUES),
        "last": margins(pairs, 1).view(VALUES, VALUES),
        "inner": torch.stack(inner),
    }


def decisive(windows):
    """The margins that the verdicts rest on: `(good, noticed)`.

    `good` are the margins of the windows without a descent; `noticed` has for each descent the
    higher margin of the value that notices it, over all surroundings, and for the better of the
    two values.
    """
    values = torch.arange(VALUES)
    ascends = values.unsqueeze(1) <= values
    inner = windows["inner"]
    ends = windows["first"][ascends], windows["last"][ascends]
    good = torch.cat([windows["single"], *ends, inner[ascends.unsqueeze(2) & ascends]])
    # v with w after it, over all that may come before v; w with v before it likewise.
    of_left = torch.maximum(inner.amax(dim=0), windows["first"])
    of_right = torch.maximum(inner.amax(dim=2), windows["last"])
    return good, torch.minimum(of_left, of_right)[~ascends]


def judge(windows):
    """The verdict on all sequences that `window_margins` give.

    Returns:
        A dict: `windows_without_descent`, and how many of them are `called_unsorted`; `descents`,
        pairs v > w, and how many of them are `not_always_noticed` (in some surroundings neither v
        nor w is called unsorted; another descent may still make the sequence unsorted);
        `smallest`, the least distance from zero of a margin that a verdict rests on;
        `every_sequence_right`, whether all sequences of all lengths are proved right.

    Raises:
        ValueError: if a margin is not a number.
    """
    if any(margins.isnan().any() for margins in windows.values()):
        raise ValueError("a margin is not a number")
    good, noticed = decisive(windows)
    called_unsorted, not_noticed = int((good <= 0).sum()), int((noticed > 0).sum())
    return {
        "windows_without_descent": len(good),
        "called_unsorted": called_unsorted,
        "descents": len(noticed),
        "not_always_noticed": not_noticed,
        "smallest": min(good.abs().min().item(), noticed.abs().min().item()),
        "every_sequence_right": not called_unsorted and not not_noticed,
    }
