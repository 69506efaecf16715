"""One operator of a layer: what it does, how long that takes alone, at which rate, by which formulas, on what basis."""

from __future__ import annotations

from meshwright.costmodel.alone import adds_apart, timing
from meshwright.costmodel.collective_time import algorithm_times_s
from meshwright.costmodel.formulas.attention import attention_bytes, attention_flops
from meshwright.costmodel.formulas.collectives import wire_bytes
from meshwright.costmodel.formulas.matmul import gemm_bytes, gemm_flops, grouped_gemm_bytes
from meshwright.costmodel.hardware import Basis, ClusterSpec
from meshwright.costmodel.operator_time import custom_kernel
from meshwright.costmodel.prepared import prepare
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    CollectiveWork,
    CopyWork,
    GemmWork,
    GroupedGemmWork,
    MemoryWork,
    Operator,
    Pass,
    Resource,
    Work,
)
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.value import Value
from meshwright.planner.explain.citations import CitedFigure, citations_of
from meshwright.planner.explain.exposure import Exposure
from meshwright.planner.explain.formula_registry import ADDED_APART, formulas_of, names
from meshwright.planner.explain.formula_text import Formula

CURVE = "curve"
"""Algorithm of a collective inside a node: whatever the measured curve was measured with."""


class OperatorTerm(Value, frozen=True, kw_only=True):
    """One operator of one pass, on one rank and for one micro-batch.

    `kind` is the term of the breakdown it counts in; `time_s` its seconds alone. `rate_per_s` is FLOPs a second of a
    product or of attention, bytes a second of the rest (of a collective, those it puts on the wire), `of_peak` that
    over the peak of the GPU or the link. Only communication has `group`, `algorithm` and seconds exposed and hidden.
    `cites` are names of figures of the profile, `formulas` names of formulas.
    """

    name: str
    module: str
    phase: Pass
    recomputes: bool
    kind: str
    resource: Resource
    work: str
    flops: float
    num_bytes: float
    time_s: float
    rate_per_s: float
    of_peak: float
    formulas: tuple[str, ...]
    basis: Basis
    cites: tuple[str, ...]
    axis: Axis | None = None
    group: str = ""
    algorithm: str = ""
    exposed_s: float = 0.0
    hidden_s: float = 0.0


class Measure(Value, frozen=True, kw_only=True):
    """How much an operator does: in words, FLOPs, bytes, the amount that its rate counts, and the peak of that rate."""

    words: str
    kind: str
    flops: float
    num_bytes: float
    counted: float
    peak_per_s: float


def operator_term(
    operator: Operator,
    cluster: ClusterSpec,
    runtime: RuntimeSpec,
    exposure: Exposure | None = None,
    routing: tuple[Formula, ...] = (),
) -> tuple[OperatorTerm, tuple[CitedFigure, ...]]:
    """The operator with what its time rests on, and the cited figures. `routing`: what decides how many rows it has."""
    work = operator.work
    measure, alone = measure_of(work, cluster, runtime), timing(work, cluster, runtime)
    cited = citations_of(work, cluster.profile, runtime)
    added = ADDED_APART if adds_apart(work, runtime) else ()
    rate_per_s = measure.counted / alone.time_s if alone.time_s else 0.0
    term = OperatorTerm(
        name=operator.name,
        module=operator.module,
        phase=operator.phase,
        recomputes=operator.recomputes,
        kind="recompute" if operator.recomputes and operator.axis is None else measure.kind,
        resource=operator.resource,
        work=measure.words,
        flops=measure.flops,
        num_bytes=measure.num_bytes,
        time_s=alone.time_s,
        rate_per_s=rate_per_s,
        of_peak=rate_per_s / measure.peak_per_s,
        formulas=names((*formulas_of(work, cluster.profile), *added, *routing)),
        basis=alone.basis,
        cites=tuple(figure.name for figure in cited),
        axis=operator.axis,
        group=group_words(work) if isinstance(work, CollectiveWork) else "",
        algorithm=algorithm_of(work, cluster) if isinstance(work, CollectiveWork) else "",
        exposed_s=exposure.exposed_s if exposure else 0.0,
        hidden_s=exposure.hidden_s if exposure else 0.0,
    )
    return term, cited


def measure_of(work: Work, cluster: ClusterSpec, runtime: RuntimeSpec) -> Measure:
    """The work in words and numbers."""
    gpu = cluster.gpu
    match work:
        case GemmWork():
            flops, words = float(gemm_flops(work.m, work.n, work.k)), f"{work.m} x {work.n} x {work.k}"
            peak = gpu.peak_flops_per_s(work.precision)
            return _measure(f"{words} {work.precision}", "gemm", flops, gemm_bytes(work), flops, peak)
        case GroupedGemmWork():
            flops = float(gemm_flops(work.rows, work.n, work.k))
            words = f"{work.num_groups} groups, {work.rows:,.0f} x {work.n} x {work.k} {work.precision}"
            peak = gpu.peak_flops_per_s(work.precision)
            return _measure(words, "grouped_gemm", flops, grouped_gemm_bytes(work), flops, peak)
        case AttentionWork():
            flops = attention_flops(work)
            heads = f"{work.num_heads}/{work.num_kv_heads} heads of {work.head_dim}"
            words = f"{work.batch} x {work.query_len} x {work.key_len}, {heads}"
            return _measure(words, "attention", flops, attention_bytes(work), flops, gpu.bf16_flops_per_s)
        case MemoryWork():
            own = custom_kernel(work, cluster.profile) if runtime.custom_kernels else None
            moved = own.work.num_bytes if own else work.read_bytes + work.write_bytes
            kernels = f", {work.num_kernels} kernels" if work.num_kernels > 1 else ""
            return _measure(f"{work.kernel}{kernels}", "memory_bound", 0.0, moved, moved, gpu.copy_bytes_per_s)
        case CollectiveWork():
            return _communicated(work, cluster)
        case CopyWork():
            moved = work.num_bytes
            return _measure("copy between GPU and host", "pcie", 0.0, moved, moved, gpu.pcie_bytes_per_s)


def _communicated(work: CollectiveWork, cluster: ClusterSpec) -> Measure:
    inside = work.group.resource is Resource.NVLINK
    sent = wire_bytes(work.collective, work.num_bytes, work.group.size) if work.group.size > 1 else 0.0
    peak = cluster.gpu.nvlink_bytes_per_s if inside else cluster.network_bytes_per_s / cluster.oversubscription
    kind = "nvlink" if inside else "network"
    return _measure(work.collective.value.replace("_", "-"), kind, 0.0, work.num_bytes, sent, peak)


def _measure(words: str, kind: str, flops: float, num_bytes: float, counted: float, peak_per_s: float) -> Measure:
    return Measure(
        words=words, kind=kind, flops=flops, num_bytes=float(num_bytes), counted=float(counted), peak_per_s=peak_per_s
    )


def group_words(work: CollectiveWork) -> str:
    """The ranks of a communicator.

    >>> from meshwright.costmodel.program.operators import Collective, Group
    >>> group = Group(size=16, ranks_per_node=2)
    >>> group_words(CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=1.0, group=group))
    '16 ranks, 2 a node'
    """
    group = work.group
    if group.num_nodes == 1:
        return f"{group.size} ranks in a node"
    return f"{group.size} ranks, {group.ranks_per_node} a node"


def algorithm_of(work: CollectiveWork, cluster: ClusterSpec) -> str:
    """The algorithm that is fastest between nodes, or that the curve of one node was measured with."""
    if work.group.size == 1 or work.num_bytes == 0.0:
        return ""
    if work.group.num_nodes == 1:
        return CURVE
    times_s = algorithm_times_s(work, cluster, prepare(cluster.profile))
    return min(times_s, key=lambda name: times_s[name])
