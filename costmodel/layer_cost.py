"""What one layer costs under one strategy: seconds of its passes, where they go, and bytes it holds."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.formulas.experts import forwarded_s
from meshwright.costmodel.formulas.stragglers import slowest_gpu_factor
from meshwright.costmodel.hardware import Basis, ClusterSpec, Interference, SmShare, Timing
from meshwright.costmodel.layer_passes import LayerPasses, pass_operators
from meshwright.costmodel.operator_time import host_time_s, operator_timing
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind, PassOrder
from meshwright.costmodel.order.ordered_pass import OrderedPass, ordered_pass
from meshwright.costmodel.order.pass_problem import PassProblem, pass_problem
from meshwright.costmodel.order_memory import order_memory
from meshwright.costmodel.pcie import network_share_of_pcie
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Axis,
    Collective,
    CollectiveWork,
    CopyWork,
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

COPY_ENGINE_SLOWDOWN = 132 / 128
"""Computation beside Transformer Engine's userbuffers: ring exchange by copy engines, or four SMs (MLPerf training
3.1, NVIDIA gpt3 config: FC2_FPROP_SM=4)."""

BETWEEN_NODES, INSIDE_NODE = ".network", ".nvlink"
"""Ends of the names of the two hops of a deduplicated exchange."""


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
    backward that run at the same time save together.
    """

    passes: LayerPasses
    forward: Terms
    backward: Terms
    dgrad: Terms
    wgrad: Terms
    overlap_saving_s: float
    weights: Weights
    kept_bytes: float
    transient_bytes: float


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
    share = _share_of(order, operators, cluster, runtime) if order is not None else None
    problem = problem_of(operators, cluster, runtime, share)
    return ordered_pass(problem, order, order_memory(program, recompute, kind).fits)


def sm_shares(cluster: ClusterSpec, runtime: RuntimeSpec) -> tuple[SmShare, ...]:
    """Shares of the SMs that collectives inside a node may take: those measured, none where copy engines move them."""
    return () if runtime.copy_engine_overlap else cluster.profile.interference.shares


def _share_of(
    order: PassOrder, operators: tuple[Operator, ...], cluster: ClusterSpec, runtime: RuntimeSpec
) -> SmShare | None:
    """The measured share of the SMs that an order's collectives inside a node take; None: what the library takes.

    Those that block say nothing (`Launch.num_sms` is 0 there): they run on the communicator of the others.
    """
    shares = sm_shares(cluster, runtime)
    if not shares:
        return None
    inside = {op.name for op in operators if op.resource is Resource.NVLINK}
    taken = {one.num_sms for one in order.launches if one.num_sms and not inside.isdisjoint(one.operators)}
    return next((share for share in shares if {share.num_sms} == taken), None)


@lru_cache(maxsize=65536)
def problem_of(
    operators: tuple[Operator, ...], cluster: ClusterSpec, runtime: RuntimeSpec, share: SmShare | None = None
) -> PassProblem:
    """The ordering problem of a pass: its operators with their times.

    `share`: the SMs that its collectives inside a node take, one figure as communicators have it, and what those
    between nodes bring inside; None: what the library takes.
    """
    time_s = {op.name: _alone(op.work, cluster, runtime).time_s for op in operators}
    if share is not None:
        _slow_down(operators, time_s, share)
    _share_pcie(operators, time_s, cluster)
    forwarding_s = _forward_chunks(operators, time_s)
    inside_share = _inside_share(operators, time_s, forwarding_s, cluster, runtime, share)
    return pass_problem(operators, time_s, runtime.overlap, _interference(cluster, runtime, share), inside_share)


def _slow_down(operators: tuple[Operator, ...], time_s: dict[str, float], share: SmShare) -> None:
    for op in operators:
        if op.resource is Resource.NVLINK and isinstance(op.work, CollectiveWork):
            time_s[op.name] *= share.time_factor


def _interference(cluster: ClusterSpec, runtime: RuntimeSpec, share: SmShare | None) -> Interference:
    """The profile's, or that of four of 132 SMs at the most where copy engines move what overlaps."""
    measured = cluster.profile.interference
    if share is not None:
        return measured.on(share)
    if not runtime.copy_engine_overlap:
        return measured
    few = min(measured.compute_slowdown, COPY_ENGINE_SLOWDOWN)
    return msgspec.structs.replace(measured, compute_slowdown=few, communication_slowdown=1.0)


def _inside_share(
    operators: tuple[Operator, ...],
    time_s: dict[str, float],
    forwarding_s: float,
    cluster: ClusterSpec,
    runtime: RuntimeSpec,
    share: SmShare | None,
) -> float:
    """Seconds of NVLink traffic that a pass's communication between nodes brings with it, over its own.

    Collectives bring what they would take inside a node, on the `share` of the SMs whose slowdowns they are given;
    deduplicated exchanges the `forwarding_s` seconds of chunks that are forwarded while others arrive, which are
    those on the share already. One figure for all of a pass: which of its communication runs beside which computation
    is not known yet.
    """
    between = [op for op in operators if op.resource is Resource.NETWORK and isinstance(op.work, CollectiveWork)]
    network_s = sum(time_s[op.name] for op in between)
    if not network_s:
        return 0.0
    inside_s = sum(_alone(_inside_node(op.work), cluster, runtime).time_s for op in between)
    return (forwarding_s + (share.time_factor if share is not None else 1.0) * inside_s) / network_s


def _inside_node(work: Work) -> Work:
    """A collective with all of its ranks in one node; of a pairwise exchange what crosses NVLink as it is.

    Rings carry every byte through every GPU. In an exchange what goes to other nodes goes straight to the adapter: the
    network's own interference counts that.
    """
    assert isinstance(work, CollectiveWork)
    size, inside = work.group.size, work.group.ranks_per_node
    if work.collective is Collective.ALL_TO_ALL:
        group = msgspec.structs.replace(work.group, size=inside)
        return msgspec.structs.replace(work, group=group, num_bytes=work.num_bytes * inside / size)
    return msgspec.structs.replace(work, group=msgspec.structs.replace(work.group, ranks_per_node=size))


def _share_pcie(operators: tuple[Operator, ...], time_s: dict[str, float], cluster: ClusterSpec) -> None:
    """Copies to and from the host wait while the network adapter uses their PCIe link."""
    copies = [op.name for op in operators if op.resource is Resource.COPY_ENGINE]
    if copies:
        network_s = sum(time_s[op.name] for op in operators if op.resource is Resource.NETWORK)
        for name in copies:
            time_s[name] += network_share_of_pcie(cluster) * network_s / len(copies)


def _forward_chunks(operators: tuple[Operator, ...], time_s: dict[str, float]) -> float:
    """Deduplicated rows are forwarded inside a node while more of them arrive from others: for so many seconds."""
    forwarding_s = 0.0
    for op in operators:
        stem, found, _ = op.name.rpartition(BETWEEN_NODES)
        inside = stem + INSIDE_NODE
        if found and op.axis is Axis.EXPERT and op.name.endswith(BETWEEN_NODES) and inside in time_s:
            whole_s = time_s[inside]
            time_s[op.name], time_s[inside] = forwarded_s(time_s[op.name], whole_s)
            forwarding_s += whole_s - time_s[inside]
    return forwarding_s


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
            alone = _alone(op.work, cluster, runtime)
            seconds["recompute_s" if op.recomputes else alone.kind] += alone.time_s
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
    alone = _alone(op.work, cluster, runtime)
    return alone.graph_host_s if op.module in runtime.graphed_modules else alone.host_s


def _routing_wait_s(operators: tuple[Operator, ...], runtime: RuntimeSpec) -> float:
    grouped = (op.work for op in operators if op.phase is Pass.FORWARD)
    experts = max((work.num_groups for work in grouped if isinstance(work, GroupedGemmWork)), default=0)
    return experts * runtime.routing_wait_s


class _Alone(Value, frozen=True, kw_only=True):
    """One operator that runs alone: seconds on its resource and of the host, and the term (or link) they count as.

    `host_s` is launching it as the runtime does, `graph_host_s` from a CUDA graph.
    """

    time_s: float
    host_s: float
    graph_host_s: float
    kind: str


@lru_cache(maxsize=262144)
def _alone(work: Work, cluster: ClusterSpec, runtime: RuntimeSpec) -> _Alone:
    launches = _launches(work, runtime)
    graph_s = launches * host_time_s(work, cluster.profile, cuda_graphs=True)
    eager_s = launches * host_time_s(work, cluster.profile, cuda_graphs=False) * runtime.host_operators_per_kernel
    return _Alone(
        time_s=timing(work, cluster, runtime).time_s,
        host_s=graph_s if runtime.cuda_graphs else eager_s,
        graph_host_s=graph_s,
        kind=_kind(work),
    )


def _launches(work: Work, runtime: RuntimeSpec) -> int:
    """Launches for one kernel of the program: one an expert where grouped products are loops over experts."""
    if isinstance(work, GroupedGemmWork) and runtime.launches_per_expert:
        return work.num_groups * runtime.launches_per_expert
    return 1


def _kind(work: Work) -> str:
    match work:
        case GemmWork():
            return "gemm_s"
        case GroupedGemmWork():
            return "grouped_gemm_s"
        case AttentionWork():
            return "attention_s"
        case CopyWork():
            return "pcie_s"
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
