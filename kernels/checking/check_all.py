"""Runs every check over every case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import torch

from meshwright.kernels.checking.cases import CASES, Case
from meshwright.kernels.checking.check_index import check_index
from meshwright.kernels.checking.check_permute import check_permute
from meshwright.kernels.checking.check_regroup import check_regroup
from meshwright.kernels.checking.check_route import check_route
from meshwright.kernels.checking.check_swiglu import check_swiglu, check_swiglu_fp8
from meshwright.kernels.checking.finding import Finding
from meshwright.kernels.tensors import ROW_FORMATS

Check = Callable[[Case, torch.device, torch.Generator], list[Finding]]


def _each_format(
    check: Callable[[Case, torch.dtype, torch.device, torch.Generator], list[Finding]],
) -> Check:
    def run(case: Case, device: torch.device, generator: torch.Generator) -> list[Finding]:
        return [finding for dtype in ROW_FORMATS for finding in check(case, dtype, device, generator)]

    return run


CHECKS: Final[Mapping[str, Check]] = {
    "route": check_route,
    "index": check_index,
    "regroup": check_regroup,
    "permute": _each_format(check_permute),
    "swiglu": _each_format(check_swiglu),
    "swiglu_fp8": check_swiglu_fp8,
}
"""The check of each kernel of the catalogue."""


def check_kernel(
    name: str, device: torch.device, generator: torch.Generator, most_slots: float = math.inf
) -> Iterator[Finding]:
    """Findings of a kernel in every case with so many slots at most, on fresh data."""
    for case in CASES:
        if case.tokens * case.top_k <= most_slots:
            yield from CHECKS[name](case, device, generator)
