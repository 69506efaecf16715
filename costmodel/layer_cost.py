"""What one layer costs under one strategy: seconds of its passes, where they go, and bytes it holds."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.alone import alone, timing
from meshwright.costmodel.formulas.stragglers import slowest_gpu_factor
from meshwright.costmodel.hardware import Basis, ClusterSpec
from meshwright.costmodel.layer_passes import LayerPasses, pass_operators
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind, PassOrder
from meshwright.costmodel.order.ordered_pass import OrderedPass, ordered_pass
from meshwright.costmodel.order_memory import order_memory
from meshwright.costmodel.pass_times import problem_of, share_of
from meshwright.costmodel.program.operators import (
    GroupedGemmWork,
    Operator,
    Pass,
    Resource,
)
from meshwright.costmodel.program.program import LayerProgram, Weights
from meshwright.costmodel.program.recompute import late_bytes, plan_backward
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
        return (
            self.gemm_s
            + self.grouped_gemm_s
            + self.attention_s
            + self.memory_bound_s
            + self.recompute_s
            + self.exposed_s
            + self.slowdown_s
            + self.host_s
        )

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
"""The terms that add up to the pass."""


class LayerCost(Value, frozen=True, kw_only=True):
    """One layer, one micro-batch, one rank.

    `passes` are those that its schedule runs; the terms of the others are zero, but `wgrad`, which is always there.
    `backward` is dgrad, wgrad and recomputation in one action; `dgrad` (with recomputation) and `wgrad` are the same
    work in two actions, where communication cannot hide under the other half. `overlap_saving_s`: what a forward and a
    backward that run at the same time save together. `kept_bytes` are held from the forward to the last backward, and
    `late_bytes` more from the start of an input gradient to the end of a weight gradient of its own.
    """

    passes: LayerPasses
    forward: Terms
    backward: Terms
    dgrad: Terms
    wgrad: Terms
    overlap_saving_s: float
    weights: Weights
    kept_bytes: float
    late_bytes: float
    transient_bytes: float

    @property
    def whole_backward_s(self) -> float:
        """Both gradients, in one action or in two."""
        return self.backward.total_s or self.dgrad.total_s + self.wgrad.total_s


@lru_cache(maxsize=65536)
def layer_cost(
    program: LayerProgram,
    recompute: Recompute,
    cluster: ClusterSpec,
    runtime: RuntimeSpec,
    passes: LayerPasses = LayerPasses.JOINED,
    order: LayerOrder | None = None,
) -> LayerCost:
    """Cost of a program with a recompute policy on a cluster under a runtime, in an order given or found."""
    ordered = ordered_passes(program, recompute, cluster, runtime, passes, order)
    terms = {kind: _pass_terms(one, cluster, runtime) for kind, one in ordered.items()}
    forward, backward = terms[PassKind.FORWARD], terms.get(PassKind.BACKWARD, Terms())
    dgrad, wgrad = terms.get(PassKind.DGRAD, Terms()), terms[PassKind.WGRAD]
    apart_s = forward.total_s + (backward.total_s or dgrad.total_s + wgrad.total_s)
    saving_s = max(0.0, apart_s - terms[PassKind.JOINT].total_s) if PassKind.JOINT in terms else 0.0
    saving_s = min(saving_s, forward.total_s)
    if passes is LayerPasses.JOINED and saving_s:
        forward, backward = _relieved(forward, backward, saving_s)
        saving_s = 0.0
    return LayerCost(
        passes=passes,
        forward=forward,
        backward=backward,
        dgrad=dgrad,
        wgrad=wgrad,
        overlap_saving_s=saving_s,
        weights=program.weights,
        kept_bytes=plan_backward(program, recompute).kept_bytes,
        late_bytes=late_bytes(program, plan_backward(program, recompute)),
        transient_bytes=max(
            order_memory(program, recompute, kind).bytes_of(one.indices()) for kind, one in ordered.items()
        ),
    )


def ordered_passes(
    program: LayerProgram,
    recompute: Recompute,
    cluster: ClusterSpec,
    runtime: RuntimeSpec,
    passes: LayerPasses,
    order: LayerOrder | None = None,
) -> dict[PassKind, OrderedPass]:
    """The passes of a layer, each in its order."""
    return {
        kind: _ordered(program, recompute, kind, cluster, runtime, order.of(kind) if order is not None else None)
        for kind in _kinds(runtime, passes)
    }


def reserved_bytes(program: LayerProgram, recompute: Recompute, runtime: RuntimeSpec, passes: LayerPasses) -> float:
    """Passing memory that is set aside for a layer before its operators are ordered: no order takes more."""
    return max(order_memory(program, recompute, kind).reserved_bytes for kind in _kinds(runtime, passes))


def _kinds(runtime: RuntimeSpec, passes: LayerPasses) -> tuple[PassKind, ...]:
    """The passes that are ordered; what others hide of a joined backward shows when both passes run side by side."""
    beside = passes is LayerPasses.JOINED and runtime.overlap.reaches_other_micro_batches
    return (*passes.kinds, PassKind.JOINT) if beside else passes.kinds


@lru_cache(maxsize=65536)
def _ordered(
    program: LayerProgram,
    recompute: Recompute,
    kind: PassKind,
    cluster: ClusterSpec,
    runtime: RuntimeSpec,
    order: PassOrder | None,
) -> OrderedPass:
    operators = pass_operators(program, recompute, kind)
    share = share_of(order, operators, cluster, runtime) if order is not None else None
    problem = problem_of(operators, cluster, runtime, share)
    return ordered_pass(problem, order, order_memory(program, recompute, kind).fits)


def _relieved(forward: Terms, backward: Terms, saving_s: float) -> tuple[Terms, Terms]:
    """Both passes less what they hide of each other's communication, in proportion to what each exposes."""
    exposed_s = forward.exposed_s + backward.exposed_s
    share = min(1.0, saving_s / exposed_s) if exposed_s else 0.0
    return _hide_more(forward, share), _hide_more(backward, share)


def _hide_more(terms: Terms, share: float) -> Terms:
    changes = {}
    for link in ("nvlink", "network"):
        exposed_s, hidden_s = getattr(terms, f"exposed_{link}_s"), getattr(terms, f"hidden_{link}_s")
        changes[f"exposed_{link}_s"] = (1.0 - share) * exposed_s
        changes[f"hidden_{link}_s"] = hidden_s + share * exposed_s
    return msgspec.structs.replace(terms, **changes)


def pass_terms(operators: tuple[Operator, ...], cluster: ClusterSpec, runtime: RuntimeSpec) -> Terms:
    """Seconds of one pass by kind, in the best order that list scheduling finds."""
    return _pass_terms(ordered_pass(problem_of(operators, cluster, runtime)), cluster, runtime)


def _pass_terms(ordered: OrderedPass, cluster: ClusterSpec, runtime: RuntimeSpec) -> Terms:
    operators = ordered.problem.operators
    seconds = dict.fromkeys(Terms.__struct_fields__, 0.0)
    for op in operators:
        if op.resource is Resource.COMPUTE:
            one = alone(op.work, cluster, runtime)
            seconds["recompute_s" if op.recomputes else one.kind] += one.time_s
    use = ordered.use()
    for resource, link in _LINKS:
        seconds[f"exposed_{link}_s"] = use.exposed_s[resource]
        seconds[f"hidden_{link}_s"] = use.hidden_s[resource]
    computed_s = sum(seconds[name] for name in COMPUTED)
    slower = slowest_gpu_factor(runtime.gpu_speed_deviation, cluster.num_gpus) - 1.0
    seconds["slowdown_s"] = use.slowdown_s + slower * computed_s
    seconds["host_s"] = host_terms_s(operators, ordered.total_s, cluster, runtime)
    return Terms(**seconds)


COMPUTED = ("gemm_s", "grouped_gemm_s", "attention_s", "memory_bound_s", "recompute_s")
_LINKS = ((Resource.NVLINK, "nvlink"), (Resource.NETWORK, "network"), (Resource.COPY_ENGINE, "pcie"))


def host_terms_s(operators: tuple[Operator, ...], busy_s: float, cluster: ClusterSpec, runtime: RuntimeSpec) -> float:
    """Seconds a pass waits for the host: to launch what keeps the GPU busy for `busy_s`, and to read the routing."""
    issue_s = sum(_issue_s(op, cluster, runtime) for op in operators)
    return max(0.0, issue_s - busy_s) + _routing_wait_s(operators, runtime)


def _issue_s(op: Operator, cluster: ClusterSpec, runtime: RuntimeSpec) -> float:
    one = alone(op.work, cluster, runtime)
    return one.graph_host_s if op.module in runtime.graphed_modules else one.host_s


def _routing_wait_s(operators: tuple[Operator, ...], runtime: RuntimeSpec) -> float:
    grouped = (op.work for op in operators if op.phase is Pass.FORWARD)
    experts = max((work.num_groups for work in grouped if isinstance(work, GroupedGemmWork)), default=0)
    return experts * runtime.routing_wait_s


def basis_seconds(
    program: LayerProgram, recompute: Recompute, cluster: ClusterSpec, runtime: RuntimeSpec
) -> dict[Basis, float]:
    """Operator seconds of both passes that rest on measured, interpolated and extrapolated figures."""
    seconds = dict.fromkeys(Basis, 0.0)
    for op in (*program.forward, *plan_backward(program, recompute).recomputed, *program.backward):
        figure = timing(op.work, cluster, runtime)
        seconds[figure.basis] += figure.time_s
    return seconds
