"""What kernels there are. Needs no torch."""

from __future__ import annotations

from typing import Final

from meshwright.costmodel.value import Value


class Kernel(Value, frozen=True, kw_only=True):
    """An operation with CUDA kernels: its folder's name, what it does, its operators in the built library."""

    name: str
    summary: str
    operators: tuple[str, ...]

    @property
    def source(self) -> str:
        """The CUDA source, relative to the layer's folder."""
        return f"{self.name}/{self.name}.cu"


KERNELS: Final = (
    Kernel(
        name="route",
        summary="router scores, top-k experts, gate weights, counts and auxiliary-loss sums",
        operators=("route_forward", "route_backward"),
    ),
    Kernel(
        name="index",
        summary="stable counting sort of slots by expert, padded to tiles",
        operators=("index_rows",),
    ),
    Kernel(
        name="regroup",
        summary="rows of several ranks, each rank's sorted by expert, grouped by expert",
        operators=("regroup_rows",),
    ),
    Kernel(
        name="permute",
        summary="rows from tokens to experts and back, weighted",
        operators=("permute", "gather_sum", "unpermute_backward"),
    ),
    Kernel(
        name="swiglu",
        summary="SwiGLU with gate weights, skipping padding",
        operators=("swiglu", "swiglu_backward"),
    ),
    Kernel(
        name="swiglu_fp8",
        summary="SwiGLU that writes FP8 by rows and by columns",
        operators=("swiglu_fp8",),
    ),
)

NAMESPACE: Final = "meshwright_cuda"
"""The operators of the built library are torch.ops.<NAMESPACE>."""


def operator_names() -> frozenset[str]:
    """All operators that the built library must have.

    >>> "permute" in operator_names()
    True
    """
    return frozenset(name for kernel in KERNELS for name in kernel.operators)
