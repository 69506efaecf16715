"""An operator ready to run: its input sets are made, its output can be checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from meshwright.costmodel.program.operators import Precision

LIMITS = {Precision.BF16: 1e-2, Precision.FP8: 2e-2}
"""Largest error in the norm, relative to the norm of a float32 reference, that rounding of a format explains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """`run(i)` works on input set i of `num_sets` and returns its output.

    `check` runs set 0 and returns the error relative to a float32 reference, which `limit` bounds. `capturable`: a CUDA
    graph can hold it.
    """

    run: Callable[[int], object]
    num_sets: int
    check: Callable[[], float]
    limit: float = LIMITS[Precision.BF16]
    capturable: bool = True


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """‖result − reference‖ / ‖reference‖ in float32; infinite where the result is not finite."""
    difference = (result.float() - reference.float()).norm() / reference.float().norm()
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")
