"""Which shapes are worth a look: none other has as much capacity for as little time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshwright.planner.codesign.budget import Measure
from meshwright.planner.codesign.outcome import Front, ShapeOutcome


def default_capacity(hold: Measure) -> Measure:
    """What is worth having more of, where it is not what is held: all parameters, or those a token meets."""
    return Measure.ACTIVE_PARAMETERS if hold is Measure.PARAMETERS else Measure.PARAMETERS


def with_fronts(
    outcomes: Sequence[ShapeOutcome], capacity: Measure, tolerance_fraction: float
) -> tuple[ShapeOutcome, ...]:
    """The outcomes with their place: step time is to be small, capacity large.

    Capacities that differ by no more than the tolerance of the budget are alike: else a rounding puts a shape on the
    front.

    Batch and cluster are the same for all, so step time orders shapes as days and GPU hours do.
    """

    def front(row: ShapeOutcome) -> Front:
        if row.plan is None:
            return Front.NONE
        if not any(_beats(other, row, row.plan.step_time_s, capacity, tolerance_fraction) for other in outcomes):
            return Front.ON
        beaten = any(_beats(other, row, row.plan.least_s, capacity, tolerance_fraction) for other in outcomes)
        return Front.OFF if beaten else Front.NEAR

    return tuple(msgspec.structs.replace(row, front=front(row)) for row in outcomes)


def _beats(other: ShapeOutcome, row: ShapeOutcome, step_s: float, capacity: Measure, tolerance_fraction: float) -> bool:
    """Whether another shape is as good as a shape of `step_s` in both, and better in one."""
    has, other_has = row.amount(capacity), other.amount(capacity)
    if other is row or other.plan is None or has is None or other_has is None:
        return False
    other_s = other.plan.step_time_s
    as_large = other_has >= has * (1.0 - tolerance_fraction)
    larger = other_has > has * (1.0 + tolerance_fraction)
    return as_large and other_s <= step_s and (larger or other_s < step_s)
