"""What a sum asks of an adder: which columns carry, and how far a carry travels.

Shapes in comments: N problems, n digits of a number. Digits `a [N, n]`, `b [N, n]` stand as in the
source, the highest first.
"""

import torch


def carries_out(a, b):
    """Whether each column of `a [N, n] + b [N, n]` carries into the next: bools `[N, n]`."""
    carry, out = torch.zeros_like(a[:, 0]), []
    for column in (a + b).flip(1).unbind(1):  # [N], units first
        carry = column + carry >= 10
        out.append(carry)
    return torch.stack(out[::-1], dim=1)


def carry_pattern(a, b):
    """The carries as one number `[N]`, a binary digit a column: 0b110 = hundreds and tens carry."""
    powers = 2 ** torch.arange(a.size(1) - 1, -1, -1)
    return (carries_out(a, b) * powers).sum(dim=1)


def longest_chain(a, b):
    """Columns of the longest carry chain of each problem, `[N]`: from 0 (no carry) to n.

    A chain begins at a column whose digits alone sum to 10 or more. It goes on through the columns
    to its left that sum to 9: all of them carry.
    """
    run = longest = torch.zeros_like(a[:, 0])
    for column in (a + b).flip(1).unbind(1):
        run = torch.where(column >= 10, 1, torch.where((column == 9) & (run > 0), run + 1, 0))
        longest = torch.maximum(longest, run)
    return longest


def cascade_length(a, b):
    """Columns that sum to 9 in the longest carry chain, `[N]`: how far a carry is handed on.

    657 + 348: the units carry, and the tens and hundreds hand that carry on: length 2.
    """
    return (longest_chain(a, b) - 1).clamp_min(0)
