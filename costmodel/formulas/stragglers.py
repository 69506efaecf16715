"""What random differences between ranks cost a step in which all wait for the slowest."""

from __future__ import annotations

from functools import lru_cache
from math import erf, log, sqrt

import numpy as np


def log_normal_parameters(variation: float) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of a factor of mean 1 and coefficient of variation `variation`.

    Equation: sigma^2 = ln(1 + c^2), mu = -sigma^2 / 2.
    Source: moments of the log-normal distribution (Johnson, Kotz, Balakrishnan, Continuous Univariate Distributions 1,
    chapter 14).

    >>> [round(value, 6) for value in log_normal_parameters(0.1)]
    [-0.004975, 0.099751]
    """
    square = log(1.0 + variation * variation)
    return -square / 2.0, sqrt(square)


@lru_cache(maxsize=1024)
def expected_maximum_deviate(number: int) -> float:
    """Expected maximum of so many independent standard normal variables.

    Equation: integral x d(Phi(x)^n) = integral_0^inf (1 - Phi^n) dx - integral_-inf^0 Phi^n dx.
    Source: Tippett, On the extreme individuals and the range of samples, Biometrika 17, 1925, whose tables the tests
    hold it against: 0.56419 for 2, 1.53875 for 10, 2.50759 for 100.

    >>> [round(expected_maximum_deviate(n), 5) for n in (1, 2, 10, 100)]
    [0.0, 0.56419, 1.53875, 2.50759]
    """
    points = np.arange(-12.0, 12.0, 1.0 / 128.0) + 1.0 / 256.0
    below = np.array([0.5 * (1.0 + erf(x / sqrt(2.0))) for x in points]) ** number
    integrand = np.where(points > 0, 1.0 - below, -below)
    return float(integrand.sum() / 128.0)


def slowest_gpu_factor(speed_deviation: float, num_gpus: int) -> float:
    """How much longer computation takes on the slowest of `num_gpus` GPUs than on the mean one.

    Equation: 1 + deviation z(n), z(n) the expected maximum of n standard normal variables. All others wait for it,
    step by step, since it stays the slowest (its chip, its cooling).
    Source: Tippett 1925 for z; that GPUs of one type differ for good, by chip and temperature: Sinha et al., Not All
    GPUs Are Created Equal, SC 2022, arXiv 2208.11035.

    >>> round(slowest_gpu_factor(0.01, 1024), 4)
    1.0325
    >>> slowest_gpu_factor(0.01, 1)
    1.0
    """
    return 1.0 + speed_deviation * expected_maximum_deviate(num_gpus)


def expected_slowest_s(mean_s: float, deviation_s: float, number: int) -> float:
    """Expected time of the slowest of so many independent ranks whose times are normal.

    Equation: mean + deviation z(n), z(n) the expected maximum of n standard normal variables.
    Source: Tippett 1925 (as above); for many ranks z(n) tends to sqrt(2 ln n), the extreme-value limit.

    >>> round(expected_slowest_s(1.0, 0.1, 10), 6)
    1.153875
    """
    return mean_s + deviation_s * expected_maximum_deviate(number)
