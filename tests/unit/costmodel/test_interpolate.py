"""Interpolation: exact at points, straight on log-log paper, clamped outside."""

from __future__ import annotations

import pytest

from meshwright.costmodel.hardware import Basis
from meshwright.costmodel.interpolate import LogCurve, LogGrid


def test_a_curve_is_a_power_law_between_points() -> None:
    curve = LogCurve((1.0, 100.0), (2.0, 200.0))
    assert curve(1.0) == 2.0
    assert curve(10.0) == pytest.approx(20.0)
    assert (curve(0.5), curve(1000.0)) == (2.0, 200.0)
    assert LogCurve((1.0, 100.0), (2.0, 200.0), proportional_beyond=True)(1000.0) == 2000.0
    assert [curve.basis(x) for x in (0.5, 1.0, 10.0)] == [Basis.EXTRAPOLATED, Basis.MEASURED, Basis.INTERPOLATED]


def test_a_grid_reproduces_a_product_of_powers() -> None:
    axes = ((1, 4, 16), (1, 8), (2, 32))
    values = tuple(m**0.5 * n**2.0 * k**-1.0 for m in axes[0] for n in axes[1] for k in axes[2])
    grid = LogGrid(axes, values)
    for m, n, k in ((1, 1, 2), (4, 8, 32), (3, 5, 7), (16, 2, 31)):
        assert grid(m, n, k)[0] == pytest.approx(m**0.5 * n**2.0 / k, rel=1e-12)
    assert grid(4, 8, 2)[1] is Basis.MEASURED
    assert grid(5, 8, 2)[1] is Basis.INTERPOLATED
    assert grid(17, 8, 2) == (grid(16, 8, 2)[0], Basis.EXTRAPOLATED)


def test_what_is_near_one_shrinks_between_points_and_is_one_where_nothing_is_known() -> None:
    axes, values = ((1, 4), (1, 4), (1, 4)), (2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0)
    grid = LogGrid(axes, values, near_one=True)
    assert grid(1, 1, 4)[0] == pytest.approx(2.0)
    assert grid(4, 4, 4) == (1.0, Basis.EXTRAPOLATED)
    assert grid(1, 1, 2)[0] == pytest.approx(2.0**0.5)  # half of each of two points
    assert grid(1, 2, 2)[0] == pytest.approx(2.0**0.25)
    assert LogGrid(axes, values)(1, 2, 2)[0] == pytest.approx(2.0)
