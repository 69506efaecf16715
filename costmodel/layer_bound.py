"""The least that a layer costs in any order of its operators: what a search may prune by."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.layer_cost import LayerCost, Terms, host_terms_s, reserved_bytes
from meshwright.costmodel.layer_passes import LayerPasses, pass_operators
from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.pass_times import problem_of
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import late_bytes, plan_backward
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Recompute


@lru_cache(maxsize=65536)
def layer_bound(
    program: LayerProgram, recompute: Recompute, cluster: ClusterSpec, runtime: RuntimeSpec, passes: LayerPasses
) -> LayerCost:
    """A cost that no order of the operators betters, with the passing memory that every order keeps to.

    Collectives take the SMs that their library chooses, as in the list-scheduled orders that searches compare: a plan's
    own order may choose a faster share afterwards.

    Terms are totals without kinds. Where communication runs beside the passes of other micro-batches, no pass is
    shorter than its computation; what the host is late with in one pass may hide in another.
    """
    kinds = passes.kinds
    terms = {kind: _least(program, recompute, cluster, runtime, kind) for kind in kinds}
    forward, dgrad, wgrad = terms[PassKind.FORWARD], terms.get(PassKind.DGRAD, Terms()), terms[PassKind.WGRAD]
    apart_s = forward.total_s + dgrad.total_s + wgrad.total_s
    joint_s = terms[PassKind.JOINT].total_s if PassKind.JOINT in terms else apart_s
    return LayerCost(
        passes=passes,
        forward=forward,
        backward=terms.get(PassKind.BACKWARD, Terms()),
        dgrad=dgrad,
        wgrad=wgrad,
        overlap_saving_s=min(forward.total_s, max(0.0, apart_s - joint_s)),
        weights=program.weights,
        kept_bytes=plan_backward(program, recompute).kept_bytes,
        late_bytes=late_bytes(program, plan_backward(program, recompute)),
        transient_bytes=reserved_bytes(program, recompute, runtime, passes),
    )


def _least(
    program: LayerProgram, recompute: Recompute, cluster: ClusterSpec, runtime: RuntimeSpec, kind: PassKind
) -> Terms:
    problem = problem_of(pass_operators(program, recompute, kind), cluster, runtime)
    if runtime.overlap.reaches_other_micro_batches:
        total_s, busy_s = _computation_s(problem), float("inf")
    else:
        total_s = busy_s = pass_bound_s(problem)
    return Terms(gemm_s=total_s, host_s=host_terms_s(problem.operators, busy_s, cluster, runtime))


def _computation_s(problem: PassProblem) -> float:
    return sum(time_s for time_s, computes in zip(problem.time_s, problem.shape.is_compute, strict=True) if computes)
