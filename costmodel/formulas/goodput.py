"""Failures, checkpoints and restarts of a long training run: what of its time remains for training.

Failures strike at random, independently and at a constant rate (a Poisson process), also during a restart.
M mean time between failures of the whole run, tau training between two checkpoints, delta what a checkpoint blocks,
R downtime after a failure: detection and restart.
"""

from __future__ import annotations

from math import exp, expm1, sqrt

BEYOND_FLOATS = 700.0
"""Exponents whose exponential no float holds: nothing is trained then."""


def run_mean_time_between_failures_s(gpu_mean_time_between_failures_s: float, num_gpus: int) -> float:
    """Mean time between failures of a run that any one GPU's failure stops.

    Equation: M = M_gpu / N.
    Source: minimum of N exponential times. Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 GPUs
    (arXiv 2407.21783, section 3.3.4), one in 3.1 h, 2,112 days for one GPU.

    >>> round(run_mean_time_between_failures_s(2112 * 86400.0, 16384) / 3600, 1)
    3.1
    """
    return gpu_mean_time_between_failures_s / num_gpus


def young_interval_s(checkpoint_s: float, mean_time_between_failures_s: float) -> float:
    """Best training time between checkpoints, to first order.

    Equation: tau = sqrt(2 delta M).
    Source: Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974.

    >>> young_interval_s(300.0, 86400.0)
    7200.0
    """
    return sqrt(2.0 * checkpoint_s * mean_time_between_failures_s)


def daly_interval_s(checkpoint_s: float, mean_time_between_failures_s: float) -> float:
    """Best training time between checkpoints, to higher order: the optimum of `effective_fraction` within 0.2 %.

    Equation: tau = sqrt(2 delta M) (1 + sqrt(delta / 2M) / 3 + (delta / 2M) / 9) - delta for delta < 2 M, else M.
    Source: Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future Generation
    Computer Systems 22, 2006, equation 37; its figures 3 to 5 print 117, 57 and 9.1 minutes for delta = 5 min.

    >>> [round(daly_interval_s(300.0, hours * 3600.0) / 60, 1) for hours in (24.0, 6.0, 0.25)]
    [116.7, 56.7, 9.1]
    """
    ratio = checkpoint_s / (2.0 * mean_time_between_failures_s)
    if ratio >= 1.0:
        return mean_time_between_failures_s
    first_order_s = young_interval_s(checkpoint_s, mean_time_between_failures_s)
    return first_order_s * (1.0 + sqrt(ratio) / 3.0 + ratio / 9.0) - checkpoint_s


def effective_fraction(
    interval_s: float,
    checkpoint_s: float,
    downtime_s: float,
    mean_time_between_failures_s: float,
    store_s: float = 0.0,
) -> float:
    """Effective training time over wall time (goodput) of a long run.

    Equation: tau / (M e^((R + sigma) / M) (e^((tau + delta) / M) - 1)), sigma the time until a checkpoint is safe: of
    the checkpoints before a failure, an exponential time X after the start, floor((X - sigma) / (tau + delta)) count.
    Source: Daly 2006 (as above), equation 20: the complete cost function, with failures during restarts; sigma derived.

    >>> round(effective_fraction(7200.0, 300.0, 600.0, 86400.0), 4)
    0.9126
    >>> round(effective_fraction(7200.0, 300.0, 600.0, 1e15), 4)  # no failures: tau / (tau + delta)
    0.96
    """
    mean_s = mean_time_between_failures_s
    lost_s = downtime_s + store_s
    if (lost_s + interval_s + checkpoint_s) / mean_s > BEYOND_FLOATS:
        return 0.0
    return interval_s / (mean_s * exp(lost_s / mean_s) * expm1((interval_s + checkpoint_s) / mean_s))


def waiting_fraction(num_spares: int, mean_time_between_failures_s: float, repair_s: float) -> float:
    """Share of the time in which a run waits for a repair, since more nodes are broken than it has spares.

    With S spares it waits while S + 1 nodes are broken, and breaks no more meanwhile: Erlang's loss formula,

        B(0) = 1,   B(n) = a B(n - 1) / (n + a B(n - 1)),   waiting = B(S + 1),   a = repair / M

    whatever the distribution of repair times.

    Source: Erlang's loss formula and its insensitivity (Sevastyanov, Theory of Probability 2, 1957).

    >>> waiting_fraction(0, 3600.0, 3600.0), waiting_fraction(1, 3600.0, 3600.0)
    (0.5, 0.2)
    >>> waiting_fraction(0, 3600.0, 0.0)
    0.0
    """
    offered, blocked = repair_s / mean_time_between_failures_s, 1.0
    for servers in range(1, num_spares + 2):
        blocked = offered * blocked / (servers + offered * blocked)
    return blocked
