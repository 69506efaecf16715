"""What a check found."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from meshwright.costmodel.value import Value
from meshwright.kernels.checking.error import LIMITS, same_bits, worst_row_error
from meshwright.kernels.checking.poison import poisoned_outputs


class Finding(Value, frozen=True, kw_only=True):
    """An error beside its limit. `what`: operation and quantity; `case`: the shape class."""

    what: str
    case: str
    error: float
    limit: float

    @property
    def is_right(self) -> bool:
        """Whether the error is within its limit; NaN is not."""
        return self.error <= self.limit


def compared(what: str, case: str, found: Tensor, truth: Tensor) -> Finding:
    """The error of a tensor, with the limit of its number format."""
    return Finding(what=what, case=case, error=worst_row_error(found, truth), limit=LIMITS[found.dtype])


def exact(what: str, case: str, *, holds: bool) -> Finding:
    """Something that must hold to the bit."""
    return Finding(what=what, case=case, error=0.0 if holds else float("inf"), limit=0.0)


def once_and_again(what: str, case: str, run: Callable[[], Tensor]) -> tuple[Tensor, Finding]:
    """As `twice`, for what gives one tensor."""
    (found,), finding = twice(what, case, lambda: (run(),))
    return found, finding


def twice(what: str, case: str, run: Callable[[], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], Finding]:
    """Results of a run into poisoned memory, and whether a second run gave the same bits."""
    with poisoned_outputs():
        first, second = run(), run()
    alike = all(same_bits(one, other) for one, other in zip(first, second, strict=True))
    return first, exact(f"{what}: two runs", case, holds=alike)
