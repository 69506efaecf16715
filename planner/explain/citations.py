"""Which figures of the hardware profile an operator's time rests on, and where the profile says they come from."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.formulas.attention import CUDNN_HEAD_DIMS, FA2_HEAD_DIMS, is_causal, kernel_head_dim
from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.operator_time import custom_kernel
from meshwright.costmodel.prepared import prepare
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    CopyWork,
    GemmWork,
    GroupedGemmWork,
    MemoryWork,
    Pass,
    Precision,
    Work,
)
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.tables import AttentionBackend, AttentionCurve, Provenance, Source
from meshwright.costmodel.value import Value


class CitedFigure(Value, frozen=True, kw_only=True):
    """A figure or table of a hardware profile: its name, how it was come by, and where a reader finds it."""

    name: str
    source: Source
    text: str


def citations_of(work: Work, profile: HardwareProfile, runtime: RuntimeSpec) -> tuple[CitedFigure, ...]:
    """The tables that an operator's time is looked up in; none where nothing is communicated."""
    match work:
        case GemmWork():
            return (*_gemm(profile, work.precision), *_variant(profile, work))
        case GroupedGemmWork():
            return tuple(_grouped(profile, work))
        case AttentionWork():
            return tuple(_attention(profile, work, runtime.attention_backend))
        case MemoryWork():
            return tuple(_memory(profile, work, runtime))
        case CollectiveWork():
            return tuple(_collective(profile, work))
        case CopyWork():
            return (figure(profile, "gpu.pcie_bytes_per_s"),)


def figure(profile: HardwareProfile, name: str) -> CitedFigure:
    """A scalar, or a section, of the profile."""
    citation = next(citation for citation in profile.citations if citation.figure == name)
    return CitedFigure(name=name, source=citation.source, text=citation.text)


def _gemm(profile: HardwareProfile, precision: Precision) -> Iterator[CitedFigure]:
    for table in profile.gemm:
        if table.precision is precision:
            yield _cited(f"gemm {precision}", table.provenance)


def _variant(profile: HardwareProfile, work: GemmWork) -> Iterator[CitedFigure]:
    """The table that sets a dgrad, a wgrad or an accumulating product apart from the forward one."""
    for table in profile.gemm_variants:
        kind = (table.precision, table.direction, table.accumulates_fp32)
        if kind == (work.precision, work.direction, work.accumulates_fp32):
            into = " into FP32" if table.accumulates_fp32 else ""
            yield _cited(f"gemm {work.precision} {work.direction}{into}", table.provenance)


def _grouped(profile: HardwareProfile, work: GroupedGemmWork) -> Iterator[CitedFigure]:
    """The law of the precision and direction, or the table and that of dense products which it is relative to."""
    law = prepare(profile).grouped_law(work.precision, work.direction)
    if law is not None:
        yield _cited(f"grouped gemm {law.precision} {law.direction}", law.provenance)
        return
    is_wgrad = work.direction is Pass.WGRAD
    for table in profile.grouped_gemm:
        if (table.precision, table.weight_gradient) == (work.precision, is_wgrad):
            yield _cited(f"grouped gemm {work.precision}{' wgrad' if is_wgrad else ''}", table.provenance)
    yield from _gemm(profile, work.precision)


def _attention(profile: HardwareProfile, work: AttentionWork, backend: AttentionBackend) -> Iterator[CitedFigure]:
    """The curves of the head sizes at or around the one that the kernel computes."""
    run_dim = kernel_head_dim(work, FA2_HEAD_DIMS if backend is AttentionBackend.FA2 else CUDNN_HEAD_DIMS)
    curves = {curve.head_dim: curve for curve in _curves(profile, work, backend)}
    low = max((dim for dim in curves if dim <= run_dim), default=min(curves))
    high = min((dim for dim in curves if dim >= run_dim), default=max(curves))
    for dim in dict.fromkeys((low, high)):
        curve = curves[dim]
        mask, way = ("causal" if curve.causal else "full"), ("backward" if curve.backward else "forward")
        yield _cited(f"attention {curve.backend} {way} {mask} head {dim}", curve.provenance)


def _curves(profile: HardwareProfile, work: AttentionWork, backend: AttentionBackend) -> tuple[AttentionCurve, ...]:
    """The curves of the first backend that has this direction and mask, the fastest first."""
    order = (AttentionBackend.CUDNN, AttentionBackend.FA2) if backend is AttentionBackend.BEST else (backend,)
    found = (
        tuple(
            curve
            for curve in profile.attention
            if (curve.backend, curve.backward, curve.causal) == (candidate, work.backward, is_causal(work))
        )
        for candidate in order
    )
    return next(curves for curves in found if curves)


def _memory(profile: HardwareProfile, work: MemoryWork, runtime: RuntimeSpec) -> Iterator[CitedFigure]:
    own = custom_kernel(work, profile) if runtime.custom_kernels else None
    if own is not None:
        yield _cited(f"custom kernel {own.entry.kernel}", own.entry.provenance)
        return
    entry = prepare(profile).memory_share(work.kernel, work.backward)
    yield _cited(f"memory {entry.kernel}{' backward' if entry.backward else ''}", entry.provenance)


def _collective(profile: HardwareProfile, work: CollectiveWork) -> Iterator[CitedFigure]:
    group = work.group
    if group.size == 1 or work.num_bytes == 0.0:
        return
    if group.num_nodes == 1:
        yield from _link(profile, work.collective, group.size)
        return
    if work.collective is Collective.ALL_TO_ALL and group.ranks_per_node > 1:
        yield from _link(profile, work.collective, group.ranks_per_node)
    yield figure(profile, "network")


def _link(profile: HardwareProfile, collective: Collective, size: int) -> Iterator[CitedFigure]:
    """The curves of the group sizes at or around this one."""
    curves = {curve.group_size: curve for curve in profile.links if curve.collective is collective}
    low = max((known for known in curves if known <= size), default=min(curves))
    high = min((known for known in curves if known >= size), default=max(curves))
    for known in dict.fromkeys((low, high)):
        yield _cited(f"link {collective} x{known}", curves[known].provenance)


def _cited(name: str, provenance: Provenance) -> CitedFigure:
    return CitedFigure(name=name, source=provenance.source, text=provenance.text)
