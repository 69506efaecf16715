"""What the cost model has run beside what is what streams run beside what: both take the same time for an order."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.model import AttentionSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.ordered_pass import ordered_pass
from meshwright.costmodel.order.pass_problem import NUM_STREAMS, PassProblem
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.pass_times import problem_of
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Recompute
from meshwright.executor.layer.order import on_streams
from meshwright.executor.layer.stream_plan import BEGIN, StreamPass, plan_streams
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.operator_order import solve_pass

LAYER = LayerSpec(
    attention=AttentionSpec(num_heads=32, num_kv_heads=8, head_dim=128, value_head_dim=128),
    ffn=MoeFfnSpec(num_experts=16, top_k=2, intermediate=4096, shared_intermediate=4096),
)
BESIDE, BLOCKS = OverlapLevel.INTER_OPERATOR, OverlapLevel.NONE
OVERLAPS = {
    "all": LayerOverlap(tensor=BESIDE, sequence=BESIDE, expert=BESIDE),
    "experts": LayerOverlap(expert=BESIDE),
    "attention": LayerOverlap(tensor=BESIDE, sequence=BESIDE, expert=BLOCKS),
    "nothing": LayerOverlap(),
}
STRATEGIES = {
    "sp, ep": LayerStrategy(sp=4, ep=16),
    "tp, ep": LayerStrategy(tp=4, ffn_tp=4, ep=8),
    "tp, gathered, again": LayerStrategy(tp=4, ffn_tp=4, ep=8, dispatch=Dispatch.ALL_GATHER, recompute=Recompute.FULL),
}


def _seconds(planned: StreamPass, time_s: dict[str, float]) -> float:
    """A pass on streams, each of which runs what it has been given in order, behind its waits."""
    free_s = dict.fromkeys(Resource, 0.0)
    end_s = {BEGIN: 0.0}
    for place, step in enumerate(planned.steps):
        start_s = max(free_s[step.stream], *(end_s[waited] for waited in step.waits), 0.0)
        end_s[place] = free_s[step.stream] = start_s + time_s[step.operator.name]
    return max(free_s[Resource.COMPUTE], *(end_s[waited] for waited in planned.ends), 0.0)


def _without_interference(problem: PassProblem) -> PassProblem:
    return dataclasses.replace(problem, loss=(0.0,) * NUM_STREAMS, stretch=(1.0,) * NUM_STREAMS)


@pytest.mark.parametrize("pass_kind", [PassKind.FORWARD, PassKind.BACKWARD])
@pytest.mark.parametrize("overlap", list(OVERLAPS))
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_streams_take_the_time_of_the_cost_model(strategy: str, overlap: str, pass_kind: PassKind) -> None:
    chosen = STRATEGIES[strategy]
    setting = ProgramSetting(hidden=4096, micro_batch=1, seq_len=8192, strategy=chosen, gpus_per_node=8)
    operators = pass_operators(build_layer(LAYER, setting), chosen.recompute, pass_kind)
    runtime = msgspec.structs.replace(load_runtime("meshwright"), overlap=OVERLAPS[overlap])
    problem = _without_interference(problem_of(operators, load_cluster("h100", num_gpus=16), runtime))
    solved = solve_pass(problem, num_nodes=300, num_replays=50).ordered
    planned = plan_streams(on_streams(operators, solved.order()))
    time_s = {op.name: seconds for op, seconds in zip(operators, problem.time_s, strict=True)}
    assert _seconds(planned, time_s) == pytest.approx(solved.total_s, rel=1e-9)
    assert solved.total_s == pytest.approx(ordered_pass(problem, solved.order()).total_s, rel=1e-9)
    hidden_s = sum(time_s.values()) - solved.total_s
    assert overlap == "attention" or (hidden_s > 1e-9) == (overlap != "nothing")  # of some attentions nothing can hide
