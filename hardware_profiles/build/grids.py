"""Samples of products laid out on a grid of (m, n, k)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

Shape = tuple[int, int, int]


class Grid(NamedTuple):
    """Axes and row-major values; 0 where nothing was measured."""

    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    values: tuple[float, ...]


def gridded(values: Mapping[Shape, float]) -> Grid:
    """Values by shape as a grid over all sides that occur.

    >>> gridded({(1, 2, 3): 0.5, (4, 2, 3): 0.7}).values
    (0.5, 0.7)
    """
    m, n, k = (tuple(sorted({shape[axis] for shape in values})) for axis in range(3))
    return Grid(m, n, k, tuple(values.get(shape, 0.0) for shape in product(m, n, k)))


def monotone(times_s: Mapping[Shape, float]) -> dict[Shape, float]:
    """Times raised where a smaller product took longer: noise, and tiles that fit one size by chance.

    >>> monotone({(1, 1, 1): 2.0, (2, 1, 1): 1.9, (4, 1, 1): 3.0})
    {(1, 1, 1): 2.0, (2, 1, 1): 2.0, (4, 1, 1): 3.0}
    """
    raised: dict[Shape, float] = {}
    for shape in sorted(times_s):
        below = (raised[other] for other in raised if all(a <= b for a, b in zip(other, shape, strict=True)))
        raised[shape] = max(times_s[shape], max(below, default=0.0))
    return raised
