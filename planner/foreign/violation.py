"""A rule that a configuration breaks: what it says, which values break it, and the nearest that would not."""

from __future__ import annotations

from meshwright.costmodel.value import Value
from meshwright.planner.space import divisors


class Violation(Value, frozen=True, kw_only=True):
    """`rule` in words, `values` as they are given, `fix` the nearest legal change; `whose` rule it is."""

    whose: str
    rule: str
    values: str
    fix: str


def nearest_divisors(number: int, wanted: int) -> str:
    """The divisors of a number that lie next to a wanted one, below and above.

    >>> nearest_divisors(96, 5), nearest_divisors(32, 64)
    ('4 or 6', '32')
    """
    below = [divisor for divisor in divisors(number) if divisor < wanted][-1:]
    above = [divisor for divisor in divisors(number) if divisor > wanted][:1]
    return " or ".join(map(str, (*below, *above)))


def nearest_multiples(unit: int, wanted: int) -> str:
    """The multiples of a unit that lie next to a wanted number, below and above.

    >>> nearest_multiples(48, 100), nearest_multiples(48, 5)
    ('96 or 144', '48')
    """
    below = wanted // unit * unit
    return " or ".join(str(near) for near in (below, below + unit) if near)
