"""Errors of predicted operator times, summed up by family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median

from meshwright.costmodel.program.operators import (
    AttentionWork,
    CollectiveWork,
    CopyWork,
    GemmWork,
    GroupedGemmWork,
    MemoryWork,
    Resource,
    Work,
)
from meshwright.costmodel.value import Value
from meshwright.planner.validation.statistics import quantile

LARGE_BYTES = 1 << 20


class Target(Value, frozen=True, kw_only=True):
    """What the errors of a family are to stay within: median and 95th percentile of the absolute ones."""

    median_ape: float
    p95_ape: float


PRODUCTS_AND_ATTENTION = Target(median_ape=0.05, p95_ape=0.15)
LARGE_COLLECTIVES = Target(median_ape=0.10, p95_ape=0.25)


class OperatorErrors(Value, frozen=True, kw_only=True):
    """Errors of a family, predicted over measured time less 1: `bias` is the median of the signed ones."""

    family: str
    samples: int
    median_ape: float
    p95_ape: float
    bias: float
    target: Target | None

    @property
    def meets_target(self) -> bool | None:
        """Whether both limits hold; None where the family has none."""
        if self.target is None:
            return None
        return self.median_ape <= self.target.median_ape and self.p95_ape <= self.target.p95_ape


def family_of(work: Work) -> str:
    """The kind of operator as a user would call it."""
    match work:
        case GemmWork():
            return f"product {work.precision.value}"
        case GroupedGemmWork():
            return f"grouped product {work.precision.value}"
        case AttentionWork():
            return f"attention {'backward' if work.backward else 'forward'}"
        case MemoryWork():
            return f"memory-bound {work.kernel.value}"
        case CopyWork():
            return "host copy"
        case CollectiveWork():
            place = "" if work.group.resource is Resource.NVLINK else " between nodes"
            size = "above 1 MiB" if work.num_bytes > LARGE_BYTES else "up to 1 MiB"
            return f"{work.collective.value.replace('_', '-')}{place} {size}"


def target_of(work: Work) -> Target | None:
    """The limit that a family of operators has to keep; None where none is set."""
    if isinstance(work, GemmWork | GroupedGemmWork | AttentionWork):
        return PRODUCTS_AND_ATTENTION
    if isinstance(work, CollectiveWork) and work.num_bytes > LARGE_BYTES:
        return LARGE_COLLECTIVES
    return None


def summarized(
    errors: Mapping[str, Iterable[float]], targets: Mapping[str, Target | None]
) -> tuple[OperatorErrors, ...]:
    """A row for each family that has errors, in the order of its name."""
    return tuple(_row(family, list(errors[family]), targets.get(family)) for family in sorted(errors))


def _row(family: str, errors: list[float], target: Target | None) -> OperatorErrors:
    absolute = [abs(error) for error in errors]
    return OperatorErrors(
        family=family,
        samples=len(errors),
        median_ape=median(absolute),
        p95_ape=quantile(absolute, 0.95),
        bias=median(errors),
        target=target,
    )
