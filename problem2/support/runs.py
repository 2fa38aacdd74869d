"""Whether a run that was interrupted or has ended is the one that is asked for now."""

from support.files import rounded


def difference(saved, asked):
    """The first entry of the description `asked` that differs in `saved`, as text such as `lr 0.002, now 0.5`; None if
    none does.

    Descriptions are dicts of plain values and of such dicts; floats are compared as records hold them.
    """
    for key, value in asked.items():
        before = saved.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            found = difference(before, value)
            if found:
                return found
        elif rounded(before) != rounded(value):
            return f"{key} {_short(before)}, now {_short(value)}"
    return None


def _short(value):
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
