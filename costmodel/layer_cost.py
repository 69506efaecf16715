"""What one layer costs under one strategy: seconds of its passes, where they go, and bytes it holds."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.hardware import Basis, ClusterSpec, Timing
from meshwright.costmodel.operator_time import host_time_s, operator_timing
from meshwright.costmodel.overlap import hide_communication
from meshwright.costmodel.program.operators import (
    AttentionWork,
    CollectiveWork,
    GemmWork,
    GroupedGemmWork,
    Operator,
    Pass,
    Resource,
    Work,
)
from meshwright.costmodel.program.program import LayerProgram, Weights
from meshwright.costmodel.program.recompute import plan_backward
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
    exposed_pcie_s: float = 0.0
    slowdown_s: float = 0.0
    host_s: float = 0.0
    hidden_nvlink_s: float = 0.0
    hidden_network_s: float = 0.0
    hidden_pcie_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Length of the pass."""
        total_s: float = sum(getattr(self, name) for name in SERIAL_TERMS)
        return total_s

    @property
    def exposed_s(self) -> float:
        """Communication that nothing hides."""
        return self.exposed_nvlink_s + self.exposed_network_s + self.exposed_pcie_s

    def __add__(self, other: Terms) -> Terms:
        return Terms(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    def scaled(self, factor: float) -> Terms:
        """Every term times `factor`."""
        return Terms(**{name: getattr(self, name) * factor for name in self.__struct_fields__})


SERIAL_TERMS = tuple(name for name in Terms.__struct_fields__ if not name.startswith("hidden"))


class LayerCost(Value, frozen=True, kw_only=True):
    """One layer, one micro-batch, one rank.

    `backward` is dgrad, wgrad and recomputation in one action; `dgrad` (with recomputation) and `wgrad` are the same
    work in two actions, where communication cannot hide under the other half.
    """

    forward: Terms
    backward: Terms
    dgrad: Terms
    wgrad: Terms
    weights: Weights
    kept_bytes: float
    transient_bytes: float


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
    )


def pass_terms(operators: tuple[Operator, ...], cluster: ClusterSpec, runtime: RuntimeSpec) -> Terms:
    """Seconds of one pass: operators one after another on the compute stream, communication hidden by the rule."""
    seconds = dict.fromkeys(Terms.__struct_fields__, 0.0)
    time_s: dict[str, float] = {}
    links: dict[str, str] = {}
    issue_s = busy_s = 0.0
    for op in operators:
        alone = _alone(op.work, cluster, runtime)
        time_s[op.name] = alone.time_s
        issue_s += alone.host_s
        if op.axis is None:
            seconds["recompute_s" if op.recomputes else alone.kind] += alone.time_s
            busy_s += alone.time_s
        else:
            links[op.name] = alone.kind
    if links:
        hiding = hide_communication(operators, time_s, runtime.overlap, cluster.profile.interference)
        seconds["slowdown_s"] = hiding.slowdown_s
        for word, pairs in (("exposed", hiding.exposed_s), ("hidden", hiding.hidden_s)):
            for name, part_s in pairs:
                seconds[f"{word}_{links[name]}"] += part_s
        busy_s += hiding.slowdown_s + sum(part_s for _, part_s in hiding.exposed_s)
    seconds["host_s"] = max(0.0, issue_s - busy_s) + _routing_wait_s(operators, runtime)
    return Terms(**seconds)


def _routing_wait_s(operators: tuple[Operator, ...], runtime: RuntimeSpec) -> float:
    routes = any(isinstance(op.work, GroupedGemmWork) and op.phase is Pass.FORWARD for op in operators)
    return runtime.routing_wait_s if routes else 0.0


class _Alone(Value, frozen=True, kw_only=True):
    """One operator that runs alone: seconds on its resource and of the host, and the term (or link) they count as."""

    time_s: float
    host_s: float
    kind: str


@lru_cache(maxsize=262144)
def _alone(work: Work, cluster: ClusterSpec, runtime: RuntimeSpec) -> _Alone:
    per_kernel = 1.0 if runtime.cuda_graphs else runtime.host_operators_per_kernel
    return _Alone(
        time_s=timing(work, cluster, runtime).time_s,
        host_s=per_kernel * host_time_s(work, cluster.profile, cuda_graphs=runtime.cuda_graphs),
        kind=_kind(work),
    )


def _kind(work: Work) -> str:
    match work:
        case GemmWork():
            return "gemm_s"
        case GroupedGemmWork():
            return "grouped_gemm_s"
        case AttentionWork():
            return "attention_s"
        case CollectiveWork():
            return "nvlink_s" if work.group.resource is Resource.NVLINK else "network_s"
        case _:
            return "memory_bound_s"


def timing(work: Work, cluster: ClusterSpec, runtime: RuntimeSpec) -> Timing:
    """Seconds of one operator that runs alone and what they rest on."""
    alone = operator_timing(
        work, cluster, attention_backend=runtime.attention_backend, fused_kernels=runtime.fused_kernels
    )
    if isinstance(work, AttentionWork) and runtime.attention_time_factor != 1.0:
        return Timing(time_s=alone.time_s * runtime.attention_time_factor, basis=Basis.EXTRAPOLATED)
    return alone


def basis_seconds(
    program: LayerProgram, recompute: Recompute, cluster: ClusterSpec, runtime: RuntimeSpec
) -> dict[Basis, float]:
    """Operator seconds of both passes that rest on measured, interpolated and extrapolated figures."""
    seconds = dict.fromkeys(Basis, 0.0)
    for op in (*program.forward, *plan_backward(program, recompute).recomputed, *program.backward):
        figure = timing(op.work, cluster, runtime)
        seconds[figure.basis] += figure.time_s
    return seconds
