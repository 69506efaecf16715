"""Interpolation between measured points: linear in logarithms, clamped at the edges, saying whether it is inside."""

from __future__ import annotations

from bisect import bisect_right
from itertools import product
from math import dist, exp, log

from meshwright.costmodel.hardware import Basis


class LogCurve:
    """y(x) through points, straight on log-log paper; beyond the ends y stays (or grows in proportion to x)."""

    def __init__(self, xs: tuple[float, ...], ys: tuple[float, ...], *, proportional_beyond: bool = False) -> None:
        self._xs = xs
        self._ys = ys
        self._log_x = [log(x) for x in xs]
        self._log_y = [log(y) for y in ys]
        self._proportional = proportional_beyond

    def __call__(self, x: float) -> float:
        """The value at x."""
        if x <= self._xs[0]:
            return self._ys[0]
        if x >= self._xs[-1]:
            return self._ys[-1] * (x / self._xs[-1] if self._proportional else 1.0)
        i = bisect_right(self._xs, x) - 1
        u = (log(x) - self._log_x[i]) / (self._log_x[i + 1] - self._log_x[i])
        return exp(self._log_y[i] + u * (self._log_y[i + 1] - self._log_y[i]))

    def basis(self, x: float) -> Basis:
        """Whether x is a point, between points, or outside."""
        if x < self._xs[0] or x > self._xs[-1]:
            return Basis.EXTRAPOLATED
        return Basis.MEASURED if x in self._xs else Basis.INTERPOLATED


class LogGrid:
    """y(m, n, k) on a grid, multilinear in logarithms, clamped at the edges.

    A value of 0 was not measured: it is taken from the nearest point that was, and what rests on it is extrapolated.

    `near_one`: y is what a law leaves over, different from 1 as much by chance as by rule. Then 0 stands for 1, and
    between points log y shrinks by the sum of the squares of their weights, which is what independent values share.
    """

    def __init__(self, axes: tuple[tuple[int, ...], ...], values: tuple[float, ...], *, near_one: bool = False) -> None:
        self._axes = axes
        self._logs = [[log(x) for x in axis] for axis in axes]
        self._filled = frozenset(at for at, y in enumerate(values) if y == 0.0)
        known = [y or 1.0 for y in values] if near_one else _without_gaps(self._logs, values)
        self._values = [log(y) for y in known]
        self._near_one = near_one
        self._strides = (len(axes[1]) * len(axes[2]), len(axes[2]), 1)

    def __call__(self, m: float, n: float, k: float) -> tuple[float, Basis]:
        """The value at (m, n, k) and its basis."""
        corners = [(0, 1.0)]
        inside = exact = True
        for axis, logs, stride, x in zip(self._axes, self._logs, self._strides, (m, n, k), strict=True):
            i, u, within = _locate(axis, logs, x)
            inside = inside and within
            exact = exact and u in (0.0, 1.0)
            if u == 0.0:
                corners = [(at + i * stride, w) for at, w in corners]
            else:
                low, high = i * stride, (i + 1) * stride
                corners = [c for at, w in corners for c in ((at + low, w * (1.0 - u)), (at + high, w * u))]
        total = 0.0
        for at, weight in corners:
            total += weight * self._values[at]
            inside = inside and at not in self._filled
        if self._near_one:
            total *= sum(weight**2 for _, weight in corners)
        basis = Basis.EXTRAPOLATED if not inside else Basis.MEASURED if exact else Basis.INTERPOLATED
        return exp(total), basis


def _without_gaps(logs: list[list[float]], values: tuple[float, ...]) -> list[float]:
    """The values, each 0 replaced by the nearest other value (in logarithms; the first of equally near ones)."""
    points = list(product(*logs))
    known = [at for at, y in enumerate(values) if y > 0.0]
    return [y or values[min(known, key=lambda other: dist(points[at], points[other]))] for at, y in enumerate(values)]


def _locate(axis: tuple[int, ...], logs: list[float], x: float) -> tuple[int, float, bool]:
    """Cell, position in it (0 to 1), and whether x lies within the axis."""
    if x <= axis[0]:
        return 0, 0.0, x == axis[0]
    if x >= axis[-1]:
        return len(axis) - 1, 0.0, x == axis[-1]
    i = bisect_right(axis, x) - 1
    if axis[i] == x:
        return i, 0.0, True
    return i, (log(x) - logs[i]) / (logs[i + 1] - logs[i]), True
