"""A profile's tables made ready for look-up, once per profile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import exp, log

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.formulas.collectives import wire_bytes
from meshwright.costmodel.hardware import Basis, HardwareProfile
from meshwright.costmodel.interpolate import LogCurve, LogGrid
from meshwright.costmodel.program.operators import Collective, CustomKernel, MemoryKernel, Pass, Precision
from meshwright.costmodel.tables import (
    AttentionBackend,
    AttentionCurve,
    CustomKernelShare,
    GemmLaw,
    GemmTable,
    GemmVariant,
    GroupedGemmLaw,
    LinkCurve,
    MemoryShare,
    Source,
)

PAIR = 2
AttentionKey = tuple[AttentionBackend, bool, bool]


@dataclass(frozen=True)
class GemmModel:
    """A `GemmTable` ready to be asked."""

    precision: Precision
    grid: LogGrid
    sustained_fraction: float
    scale: float
    law: GemmLaw | None
    is_derived: bool
    """Carried over from another GPU."""


@dataclass(frozen=True)
class AttentionModel:
    """An `AttentionCurve` ready to be asked."""

    curve: LogCurve
    scale: float

    def __call__(self, length: float) -> tuple[float, Basis]:
        """Share of peak at a sequence length, and its basis."""
        basis = self.curve.basis(length) if self.scale == 1.0 else Basis.EXTRAPOLATED
        return self.curve(length) * self.scale, basis


@dataclass(frozen=True)
class LinkModel:
    """A `LinkCurve` ready to be asked."""

    curve: LogCurve
    link_bytes_per_s: float
    group_size: int
    peak_share: float


class PreparedProfile:
    """Look-ups in a profile's tables; a missing table is a `ProfileError` that names it."""

    def __init__(self, profile: HardwareProfile) -> None:
        self._name = profile.gpu.name
        self._memory = {(entry.kernel, entry.backward): entry for entry in profile.memory}
        self._custom = {entry.kernel: entry for entry in profile.custom_kernels}
        self._grouped_laws = {(law.precision, law.direction): law for law in profile.grouped_laws}
        self._gemm = {
            table.precision: GemmModel(
                table.precision,
                _gemm_grid(table),
                table.sustained_fraction,
                table.scale,
                table.law,
                table.scale != 1.0 or (table.law is not None and table.provenance.source is Source.DERIVED),
            )
            for table in profile.gemm
        }
        self._gemm_variants = {
            (table.precision, table.direction, table.accumulates_fp32): _variant_grid(
                table, near_one=not table.accumulates_fp32 and self._has_law(table.precision)
            )
            for table in profile.gemm_variants
        }
        self._grouped = {
            (table.precision, table.weight_gradient): LogCurve(table.rows_per_group, table.shares)
            for table in profile.grouped_gemm
        }
        self._attention = _attention_curves(profile.attention)
        self._links = _link_curves(profile)

    def _has_law(self, precision: Precision) -> bool:
        return precision in self._gemm and self._gemm[precision].law is not None

    def gemm_model(self, precision: Precision) -> GemmModel:
        """The GEMM table of a number format."""
        if precision not in self._gemm:
            raise ProfileError(self._name, "gemm", f"has no table for {precision.value}; choose another precision")
        return self._gemm[precision]

    def memory_share(self, kernel: MemoryKernel, backward: bool) -> MemoryShare:
        """How memory-bound kernels of a family run.

        A backward without an entry of its own runs like the forward, sums of rows like permutations of them.
        """
        kernels = (kernel, MemoryKernel.PERMUTE) if kernel is MemoryKernel.UNPERMUTE else (kernel,)
        candidates = (self._memory.get((known, way)) for known in kernels for way in (backward, False))
        entry = next(filter(None, candidates), None)
        if entry is None:
            raise ProfileError(self._name, f"memory.{kernel.value}", "is missing; expected a share of copy speed")
        return entry

    def custom_kernel(self, kernel: CustomKernel) -> CustomKernelShare | None:
        """How one of Meshwright's kernels runs; None where nobody measured it."""
        return self._custom.get(kernel)

    def grouped_law(self, precision: Precision, direction: Pass) -> GroupedGemmLaw | None:
        """The law of grouped products of that kind; None where nobody measured enough of them.

        A dgrad without a law of its own runs like a forward: both have rows by weights.
        """
        law = self._grouped_laws.get((precision, direction))
        if law is None and direction is Pass.DGRAD:
            return self._grouped_laws.get((precision, Pass.FORWARD))
        return law

    def gemm_variant(self, precision: Precision, direction: Pass, accumulates_fp32: bool) -> LogGrid | None:
        """Measured time of a product of that kind over the law's or, without one, over the forward product's.

        None where nobody measured it.
        """
        return self._gemm_variants.get((precision, direction, accumulates_fp32))

    def grouped_share(self, precision: Precision, weight_gradient: bool) -> LogCurve:
        """Grouped products relative to dense ones, against rows per group."""
        key = (precision, weight_gradient)
        if key not in self._grouped:
            raise ProfileError(
                self._name, "grouped_gemm", f"has no table for {precision.value}, wgrad {weight_gradient}"
            )
        return self._grouped[key]

    def attention_share(
        self, backend: AttentionBackend, backward: bool, causal: bool, head_dim: float, length: float
    ) -> tuple[float, Basis]:
        """Share of the BF16 peak of fused attention, between the two nearest measured head sizes."""
        by_dim = self._attention_table(backend, backward, causal)
        low = max((dim for dim in by_dim if dim <= head_dim), default=min(by_dim))
        high = min((dim for dim in by_dim if dim >= head_dim), default=max(by_dim))
        share, basis = by_dim[low](length)
        if low == high:
            return share, basis if low == head_dim else Basis.EXTRAPOLATED
        u = (head_dim - low) / (high - low)
        between = exp((1.0 - u) * log(share) + u * log(by_dim[high](length)[0]))
        return between, Basis.EXTRAPOLATED if basis is Basis.EXTRAPOLATED else Basis.INTERPOLATED

    def _attention_table(self, backend: AttentionBackend, backward: bool, causal: bool) -> dict[int, AttentionModel]:
        order = (AttentionBackend.CUDNN, AttentionBackend.FA2) if backend is AttentionBackend.BEST else (backend,)
        for candidate in order:
            if (candidate, backward, causal) in self._attention:
                return self._attention[candidate, backward, causal]
        raise ProfileError(self._name, "attention", f"has no curve for backend {backend.value}; use best or fa2")

    def link(self, collective: Collective) -> dict[int, LinkModel]:
        """Measured curves of a collective inside a node, by group size."""
        if collective not in self._links:
            raise ProfileError(self._name, "links", f"has no curve for {collective.value}")
        return self._links[collective]


@lru_cache(maxsize=64)
def _gemm_grid(table: GemmTable) -> LogGrid:
    """Once a table: profiles that differ in a bandwidth share it."""
    return LogGrid((table.m, table.n, table.k), table.efficiencies, near_one=table.law is not None)


@lru_cache(maxsize=256)
def _variant_grid(table: GemmVariant, near_one: bool) -> LogGrid:
    return LogGrid((table.m, table.n, table.k), table.ratios, near_one=near_one)


@lru_cache(maxsize=64)
def prepare(profile: HardwareProfile) -> PreparedProfile:
    """The profile's tables, ready for look-up."""
    return PreparedProfile(profile)


def _attention_curves(curves: tuple[AttentionCurve, ...]) -> dict[AttentionKey, dict[int, AttentionModel]]:
    tables: dict[AttentionKey, dict[int, AttentionModel]] = {}
    for curve in curves:
        by_dim = tables.setdefault((curve.backend, curve.backward, curve.causal), {})
        by_dim[curve.head_dim] = AttentionModel(LogCurve(tuple(map(float, curve.seq_lens)), curve.shares), curve.scale)
    return tables


def _link_curves(profile: HardwareProfile) -> dict[Collective, dict[int, LinkModel]]:
    tables: dict[Collective, dict[int, LinkModel]] = {}
    for entry in profile.links:
        curve = LogCurve(entry.num_bytes, entry.times_s, proportional_beyond=True)
        tables.setdefault(entry.collective, {})[entry.group_size] = LinkModel(
            curve, entry.link_bytes_per_s, entry.group_size, _peak_share(entry, profile.network.nvlink_fraction)
        )
    return tables


def _peak_share(entry: LinkCurve, ring_fraction: float) -> float:
    """The best share of the link's bandwidth: on the curve, or that of rings with messages longer than the curve's."""
    best = max(
        wire_bytes(entry.collective, num_bytes, entry.group_size) / time_s / entry.link_bytes_per_s
        for num_bytes, time_s in zip(entry.num_bytes, entry.times_s, strict=True)
    )
    rings = entry.group_size > PAIR and entry.collective is not Collective.ALL_TO_ALL
    return max(best, ring_fraction) if rings else best
