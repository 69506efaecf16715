"""What one layer costs under one strategy: seconds of its passes, where they go, and bytes it holds."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.hardware import Basis, ClusterSpec
from meshwright.costmodel.operator_time import host_time_s, operator_timing
from meshwright.costmodel.overlap import Hiding, hide_communication
from meshwright.costmodel.program.operators import (
    AttentionWork,
    GemmWork,
    GroupedGemmWork,
    Operator,
    Pass,
    Resource,
)
from meshwright.costmodel.program.program import LayerProgram, Weights
from meshwright.costmodel.program.recompute import BackwardPlan, plan_backward
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Recompute
from meshwright.costmodel.value import Value


class Terms(Value, frozen=True, kw_only=True):
    """Seconds of one pass by kind. All but the hidden ones add up to the pass; hidden ones run beside it.

    `slowdown_s` is what hidden communication costs the computation beside it, `host_s` the time the GPU waits for the
    host to launch kernels.
    """

    gemm_s: float = 0.0
    grouped_gemm_s: float = 0.0
    attention_s: float = 0.0
    memory_bound_s: float = 0.0
    recompute_s: float = 0.0
    exposed_nvlink_s: float = 0.0
    exposed_network_s: float = 0.0
    slowdown_s: float = 0.0
    host_s: float = 0.0
    hidden_nvlink_s: float = 0.0
    hidden_network_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Length of the pass."""
        return sum(getattr(self, name) for name in SERIAL_TERMS)

    def __add__(self, other: Terms) -> Terms:
        return Terms(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    def scaled(self, factor: float) -> Terms:
        """Every term times `factor`."""
        return Terms(**{name: getattr(self, name) * factor for name in self.__struct_fields__})


SERIAL_TERMS = tuple(name for name in Terms.__struct_fields__ if not name.startswith("hidden"))


class LayerCost(Value, frozen=True, kw_only=True):
    """One layer, one micro-batch, one rank.

    `backward` is dgrad, wgrad and recomputation in one action; `dgrad` (with recomputation) and `wgrad` are the same
    work in two actions, where communication cannot hide under the other half. `basis_s` has the seconds that rest on
    measured, interpolated and extrapolated figures.
    """

    forward: Terms
    backward: Terms
    dgrad: Terms
    wgrad: Terms
    weights: Weights
    kept_bytes: float
    transient_bytes: float
    basis_s: tuple[float, float, float]


@lru_cache(maxsize=65536)
def layer_cost(program: LayerProgram, recompute: Recompute, cluster: ClusterSpec, runtime: RuntimeSpec) -> LayerCost:
    """Cost of a program with a recompute policy on a cluster under a runtime."""
    plan = plan_backward(program, recompute)
    backward = (*plan.recomputed, *program.backward)
    dgrad = tuple(op for op in backward if op.phase is not Pass.WGRAD)
    wgrad = tuple(op for op in backward if op.phase is Pass.WGRAD)
    return LayerCost(
        forward=pass_terms(program.forward, cluster, runtime),
        backward=pass_terms(backward, cluster, runtime),
        dgrad=pass_terms(dgrad, cluster, runtime),
        wgrad=pass_terms(wgrad, cluster, runtime),
        weights=program.weights,
        kept_bytes=plan.kept_bytes,
        transient_bytes=plan.transient_bytes,
        basis_s=_basis_seconds(program, plan, cluster, runtime),
    )


def pass_terms(operators: tuple[Operator, ...], cluster: ClusterSpec, runtime: RuntimeSpec) -> Terms:
    """Seconds of one pass: operators one after another on the compute stream, communication hidden by the rule."""
    time_s = {op.name: _timing(op, cluster, runtime)[0] for op in operators}
    hiding = hide_communication(operators, time_s, runtime.overlap, cluster.profile.interference)
    seconds = dict.fromkeys(Terms.__struct_fields__, 0.0)
    for op in operators:
        if not op.is_communication:
            seconds[_kind(op)] += time_s[op.name]
    _add_communication(seconds, operators, hiding)
    seconds["slowdown_s"] = hiding.slowdown_s
    busy_s = sum(seconds[name] for name in SERIAL_TERMS)
    seconds["host_s"] = max(0.0, _host_s(operators, cluster, runtime) - busy_s)
    return Terms(**seconds)


def _add_communication(seconds: dict[str, float], operators: tuple[Operator, ...], hiding: Hiding) -> None:
    link = {op.name: op.resource for op in operators if op.is_communication}
    for word, pairs in (("exposed", hiding.exposed_s), ("hidden", hiding.hidden_s)):
        for name, time_s in pairs:
            seconds[f"{word}_{'nvlink' if link[name] is Resource.NVLINK else 'network'}_s"] += time_s


def _kind(op: Operator) -> str:
    if op.recomputes:
        return "recompute_s"
    match op.work:
        case GemmWork():
            return "gemm_s"
        case GroupedGemmWork():
            return "grouped_gemm_s"
        case AttentionWork():
            return "attention_s"
        case _:
            return "memory_bound_s"


@lru_cache(maxsize=262144)
def _timing(op: Operator, cluster: ClusterSpec, runtime: RuntimeSpec) -> tuple[float, Basis]:
    timing = operator_timing(
        op.work, cluster, attention_backend=runtime.attention_backend, fused_kernels=runtime.fused_kernels
    )
    return timing.time_s, timing.basis


def _host_s(operators: tuple[Operator, ...], cluster: ClusterSpec, runtime: RuntimeSpec) -> float:
    issued = sum(host_time_s(op.work, cluster.profile, cuda_graphs=runtime.cuda_graphs) for op in operators)
    return issued * (1.0 if runtime.cuda_graphs else runtime.host_operators_per_kernel)


def _basis_seconds(
    program: LayerProgram, plan: BackwardPlan, cluster: ClusterSpec, runtime: RuntimeSpec
) -> tuple[float, float, float]:
    seconds = dict.fromkeys(Basis, 0.0)
    for op in (*program.forward, *plan.recomputed, *program.backward):
        time_s, basis = _timing(op, cluster, runtime)
        seconds[basis] += time_s
    return seconds[Basis.MEASURED], seconds[Basis.INTERPOLATED], seconds[Basis.EXTRAPOLATED]
