from __future__ import annotations

import math

import numpy as np
import pytest

from meshwright.costmodel.formulas.stragglers import (
    expected_maximum_deviate,
    expected_slowest_s,
    log_normal_parameters,
)


@pytest.mark.parametrize(
    ("number", "published"), [(2, 0.56419), (5, 1.16296), (10, 1.53875), (100, 2.50759), (1000, 3.24144)]
)
def test_maxima_are_those_of_tippett(number: int, published: float) -> None:
    assert expected_maximum_deviate(number) == pytest.approx(published, abs=2e-5)


def test_many_ranks_tend_to_the_extreme_value_limit() -> None:
    """Gumbel: b + gamma / b with b = Phi^-1(1 - 1 / n) ~ sqrt(2 ln n)."""
    number = 100_000
    b = math.sqrt(2 * math.log(number) - math.log(math.log(number)) - math.log(4 * math.pi))
    assert expected_maximum_deviate(number) == pytest.approx(b + 0.5772 / b, rel=0.005)


def test_the_slowest_of_one_is_the_mean() -> None:
    assert expected_slowest_s(2.0, 0.5, 1) == pytest.approx(2.0)


def test_log_normal_factors_have_mean_one() -> None:
    mu, sigma = log_normal_parameters(0.3)
    drawn = np.random.default_rng(0).lognormal(mu, sigma, 400_000)
    assert drawn.mean() == pytest.approx(1.0, abs=0.002)
    assert drawn.std() == pytest.approx(0.3, abs=0.003)
    assert log_normal_parameters(0.0) == (0.0, 0.0)
