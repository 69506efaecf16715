"""Measured figures as data: each table covers one kind of kernel and says where its figures come from."""

from __future__ import annotations

import math
from enum import StrEnum
from itertools import pairwise

import msgspec

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.program.operators import Collective, CustomKernel, MemoryKernel, Pass, Precision
from meshwright.costmodel.value import Value


class Source(StrEnum):
    """How a figure was come by. DERIVED: computed from others, as the text says."""

    MEASURED = "measured"
    PUBLISHED = "published"
    DATASHEET = "datasheet"
    DERIVED = "derived"


class AttentionBackend(StrEnum):
    """Implementation of fused attention. BEST: the fastest in the profile (cuDNN on Hopper; FA3 is near)."""

    BEST = "best"
    CUDNN = "cudnn"
    FA2 = "fa2"


class Provenance(Value, frozen=True, kw_only=True):
    """Source of a figure and the text that lets a reader find it."""

    source: Source
    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ProfileError("profile", "provenance.text", "is empty; expected where the figure comes from")


class Citation(Value, frozen=True, kw_only=True):
    """Where one scalar of a profile comes from; `figure` is its path, for example "gpu.num_sms"."""

    figure: str
    source: Source
    text: str


MOST_EFFICIENCY = 1.1
"""Shares of a data sheet's peak: a chip's clock may be a little above the data sheet's, no more."""


class GemmLaw(Value, frozen=True, kw_only=True):
    """Dense products in BF16 by tiles of the output (`formulas.tiled_products`), its figures fitted to measurements.

    `rate_fraction`: share of the peak inside a tile; `depth_s`, `side_s`: loads for each unit of depth, and of it for
    each row and column of a tile; `load_sharpness`: how little loads and arithmetic hinder each other; `tile_depth`,
    `value_s`: start and end of a tile, as depth and for each value; `later_share`: of them in waves after the first;
    `bandwidth_fraction`: share of the copy speed; `start_s`: of the kernel; `sharpness`: how little arithmetic and
    traffic hinder each other; `join_s`, `join_share`: of adding up parts of a cut depth, in itself and of its traffic.
    """

    rate_fraction: float
    depth_s: float
    side_s: float
    load_sharpness: float
    tile_depth: float
    value_s: float
    later_share: float
    bandwidth_fraction: float
    start_s: float
    sharpness: float
    join_s: float
    join_share: float

    def __post_init__(self) -> None:
        for field in ("rate_fraction", "later_share", "bandwidth_fraction"):
            check_fraction(getattr(self, field), f"gemm.law.{field}")
        check_positive((self.depth_s, self.side_s, self.tile_depth, self.value_s, self.start_s), "gemm.law")
        check_positive((self.join_s, self.join_share), "gemm.law")
        check_sharpness(self.load_sharpness, "gemm.law.load_sharpness")
        check_sharpness(self.sharpness, "gemm.law.sharpness")

    def slowed(self, factor: float) -> GemmLaw:
        """The law of a GPU that takes so many times as long for all that is in seconds here; its peaks are its own."""
        names = (name for name in self.__struct_fields__ if name.endswith("_s"))
        return msgspec.structs.replace(self, **{name: getattr(self, name) * factor for name in names})


class GemmTable(Value, frozen=True, kw_only=True):
    """Share of what dense products would reach at best, on a grid of (m, n, k).

    `efficiencies` is row-major over (m, n, k), 0 where not measured: the tile-padded roofline over the time, or the
    time by `law` over it, where there is one. `sustained_fraction` is the share of peak that the power limit lets a GPU
    hold on random data, 1 where the table itself was measured on a GPU at that limit. `scale` carries the table to
    another GPU (1 on the GPU it was measured on).
    """

    precision: Precision
    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    efficiencies: tuple[float, ...]
    provenance: Provenance
    sustained_fraction: float
    scale: float = 1.0
    law: GemmLaw | None = None

    def __post_init__(self) -> None:
        for axis in ("m", "n", "k"):
            check_increasing(getattr(self, axis), f"gemm.{axis}")
        if len(self.efficiencies) != len(self.m) * len(self.n) * len(self.k):
            raise ProfileError("profile", "gemm.efficiencies", f"{len(self.efficiencies)} values; expected m x n x k")
        check_positive(tuple(filter(None, self.efficiencies)) or (0.0,), "gemm.efficiencies")
        if self.law is None and max(self.efficiencies) > MOST_EFFICIENCY:
            raise ProfileError(
                "profile", "gemm.efficiencies", f"{max(self.efficiencies):g} of the peak; expected shares"
            )
        if self.law is not None and self.precision is not Precision.BF16:
            raise ProfileError("profile", "gemm.law", f"is of a table for {self.precision.value}; expected bf16")
        check_fraction(self.sustained_fraction, "gemm.sustained_fraction")
        check_positive((self.scale,), "gemm.scale")


class GemmVariant(Value, frozen=True, kw_only=True):
    """Time of a product stored otherwise, or added into FP32, over that of the forward product of the same shape.

    Where the precision's `GemmTable` has a law, over the time by that law instead. `ratios` is row-major over
    (m, n, k), 0 where not measured. Without a table, formulas must do.
    """

    precision: Precision
    direction: Pass
    accumulates_fp32: bool
    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    ratios: tuple[float, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        for axis in ("m", "n", "k"):
            check_increasing(getattr(self, axis), f"gemm_variants.{axis}")
        if len(self.ratios) != len(self.m) * len(self.n) * len(self.k):
            raise ProfileError("profile", "gemm_variants.ratios", f"{len(self.ratios)} values; expected m x n x k")
        check_positive(tuple(filter(None, self.ratios)) or (0.0,), "gemm_variants.ratios")


class GroupedGemmTable(Value, frozen=True, kw_only=True):
    """Grouped products relative to the dense product of equal depth: `shares` over `rows_per_group`."""

    precision: Precision
    weight_gradient: bool
    rows_per_group: tuple[float, ...]
    shares: tuple[float, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        check_curve(self.rows_per_group, self.shares, "grouped_gemm")


class GroupedGemmLaw(Value, frozen=True, kw_only=True):
    """Grouped products by tiles of the output (`formulas.matmul.tiled_product_s`), its figures fitted to measurements.

    `rate_fraction`: share of the peak inside a tile; `tile_depth`: depth that starting and ending a tile is worth;
    `bandwidth_fraction`: share of the copy speed; `start_s`: of the kernel; `sharpness`: how little arithmetic and
    traffic hinder each other. Where a profile has no law, its `GroupedGemmTable` tells.
    """

    precision: Precision
    direction: Pass
    rate_fraction: float
    tile_depth: float
    bandwidth_fraction: float
    start_s: float
    sharpness: float
    provenance: Provenance

    def __post_init__(self) -> None:
        check_fraction(self.rate_fraction, "grouped_laws.rate_fraction")
        check_fraction(self.bandwidth_fraction, "grouped_laws.bandwidth_fraction")
        check_positive((self.tile_depth, self.start_s), "grouped_laws")
        check_sharpness(self.sharpness, "grouped_laws.sharpness")


class AttentionCurve(Value, frozen=True, kw_only=True):
    """Share of the BF16 peak of fused attention against sequence length, for one backend, direction, mask, head size.

    `scale` carries the curve to another GPU (1 on the GPU it was measured on).
    """

    backend: AttentionBackend
    backward: bool
    causal: bool
    head_dim: int
    seq_lens: tuple[int, ...]
    shares: tuple[float, ...]
    provenance: Provenance
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_curve(self.seq_lens, self.shares, "attention")
        check_fraction(max(self.shares) * self.scale, "attention.shares")


class MemoryShare(Value, frozen=True, kw_only=True):
    """Share of the copy bandwidth that a family of memory-bound kernels reaches, fused and in eager framework code.

    `backward`: of the kernels that compute gradients; without such an entry the forward's counts for both. A kernel
    costs `fused_start_s` or `eager_start_s` beside its traffic, at least the profile's kernel floor.
    """

    kernel: MemoryKernel
    fused: float
    eager: float
    provenance: Provenance
    backward: bool = False
    fused_start_s: float = 0.0
    eager_start_s: float = 0.0

    def __post_init__(self) -> None:
        check_fraction(self.fused, f"memory.{self.kernel.value}.fused")
        check_fraction(self.eager, f"memory.{self.kernel.value}.eager")
        for field in ("fused_start_s", "eager_start_s"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0.0):
                raise ProfileError("profile", f"memory.{self.kernel.value}.{field}", f"{value} is not a time")


class CustomKernelShare(Value, frozen=True, kw_only=True):
    """Share of the copy bandwidth that one of Meshwright's CUDA kernels reaches on what it must move, beside its start.

    A profile without an entry predicts the operator as if the kernel were not there.
    """

    kernel: CustomKernel
    share: float
    start_s: float
    provenance: Provenance

    def __post_init__(self) -> None:
        check_fraction(self.share, f"custom_kernels.{self.kernel.value}.share")
        if not (math.isfinite(self.start_s) and self.start_s >= 0.0):
            raise ProfileError(
                "profile", f"custom_kernels.{self.kernel.value}.start_s", f"{self.start_s} is not a time"
            )


class LinkCurve(Value, frozen=True, kw_only=True):
    """Time of a collective inside a node against its bytes (as `CollectiveWork` counts them).

    `link_bytes_per_s` is the one-way bandwidth of the link it was measured on, so that other links can be derived.
    """

    collective: Collective
    group_size: int
    num_bytes: tuple[float, ...]
    times_s: tuple[float, ...]
    link_bytes_per_s: float
    provenance: Provenance

    def __post_init__(self) -> None:
        check_curve(self.num_bytes, self.times_s, "links")
        if self.group_size < 2:
            raise ProfileError("profile", "links.group_size", f"{self.group_size} is not a whole number >= 2")
        check_positive((self.link_bytes_per_s,), "links.link_bytes_per_s")


def check_curve(xs: tuple[float, ...], ys: tuple[float, ...], field: str) -> None:
    """Equal lengths, increasing positive abscissae, positive values; otherwise a `ProfileError`."""
    if len(xs) != len(ys):
        raise ProfileError("profile", field, f"{len(xs)} abscissae and {len(ys)} values; expected as many of each")
    check_increasing(xs, field)
    check_positive(ys, field)


def check_increasing(values: tuple[float, ...], field: str) -> None:
    """At least one value, all positive and strictly increasing; otherwise a `ProfileError`."""
    check_positive(values, field)
    if not values or any(b <= a for a, b in pairwise(values)):
        raise ProfileError("profile", field, "is empty or not strictly increasing")


def check_positive(values: tuple[float, ...], field: str) -> None:
    """Every value finite and positive; otherwise a `ProfileError`."""
    for value in values:
        if not (math.isfinite(value) and value > 0.0):
            raise ProfileError("profile", field, f"{value} is not a positive finite number")


def check_sharpness(value: float, field: str) -> None:
    """Finite and 1 or more, as exponents of smooth maxima are; otherwise a `ProfileError`."""
    if not (math.isfinite(value) and value >= 1.0):
        raise ProfileError("profile", field, f"{value} is not a number of 1 or more")


def check_fraction(value: float, field: str) -> None:
    """0 < value <= 1; otherwise a `ProfileError`."""
    if not 0.0 < value <= 1.0:
        raise ProfileError("profile", field, f"{value} is not a fraction in (0, 1]")
