"""What a sum asks of an adder: which columns carry, and how far a carry must travel through columns that sum to 9."""

import torch

from dataset import digits_of


def carries_out(a, b, num_digits):
    """Whether each column of `a [N] + b [N]` carries into the next: bools `[N, n]`, most significant column first."""
    columns = digits_of(a, num_digits) + digits_of(b, num_digits)
    carry = torch.zeros_like(a, dtype=torch.bool)
    out = []
    for column in columns.flip(1).unbind(1):
        carry = column + carry >= 10
        out.append(carry)
    return torch.stack(out[::-1], dim=1)


def carry_pattern(a, b, num_digits):
    """The carries as one number `[N]`, whose binary digits are the columns: 0b110 = hundreds and tens carry."""
    powers = 2 ** torch.arange(num_digits - 1, -1, -1)
    return (carries_out(a, b, num_digits) * powers).sum(dim=1)


def cascade_length(a, b, num_digits):
    """The longest run of neighbouring columns that sum to 9 and hand on a carry they received, `[N]`.

    657 + 348: the units carry, and the tens (5 + 4 = 9) and hundreds (6 + 3 = 9) only hand that carry on: length 2.
    """
    nines = digits_of(a, num_digits) + digits_of(b, num_digits) == 9
    handed_on = nines & carries_out(a, b, num_digits)
    run = longest = torch.zeros_like(a)
    for column in handed_on.flip(1).unbind(1):
        run = (run + 1) * column
        longest = torch.maximum(longest, run)
    return longest
