from __future__ import annotations

import pytest

from meshwright.costmodel.layer_passes import LayerPasses, pass_operators, passes_of
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import BESIDE, Pass
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import LayerStrategy, Recompute


@pytest.fixture
def program() -> LayerProgram:
    attention = AttentionSpec(num_heads=8, num_kv_heads=4, head_dim=128, value_head_dim=128)
    layer = LayerSpec(attention=attention, ffn=DenseFfnSpec(intermediate=4096))
    strategy = LayerStrategy(tp=4, ffn_tp=4)
    return build_layer(
        layer, ProgramSetting(hidden=1024, micro_batch=1, seq_len=2048, strategy=strategy, gpus_per_node=8)
    )


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        (ScheduleKind.ONE_F_ONE_B, LayerPasses.JOINED),
        (ScheduleKind.GPIPE, LayerPasses.JOINED),
        (ScheduleKind.INTERLEAVED, LayerPasses.JOINED),
        (ScheduleKind.ZB_H1, LayerPasses.SPLIT),
        (ScheduleKind.ZB_V, LayerPasses.SPLIT),
        (ScheduleKind.DUALPIPE_V, LayerPasses.OVERLAPPED),
    ],
)
def test_a_schedule_says_which_passes_run(kind: ScheduleKind, passes: LayerPasses) -> None:
    assert passes_of(kind) is passes
    assert {PassKind.FORWARD, PassKind.WGRAD} < set(passes.kinds) <= set(LayerPasses.ALL.kinds)
    assert (PassKind.BACKWARD in passes.kinds) is (passes is LayerPasses.JOINED)
    assert (PassKind.JOINT in passes.kinds) is (passes is LayerPasses.OVERLAPPED)


@pytest.mark.parametrize("policy", [Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL])
def test_the_passes_are_the_programs_operators(program: LayerProgram, policy: Recompute) -> None:
    operators = {kind: pass_operators(program, policy, kind) for kind in PassKind}
    assert operators[PassKind.FORWARD] == program.forward
    again = plan_backward(program, policy).recomputed
    assert operators[PassKind.BACKWARD] == (*again, *program.backward)
    assert set(operators[PassKind.DGRAD]) | set(operators[PassKind.WGRAD]) == set(operators[PassKind.BACKWARD])
    assert {op.phase for op in operators[PassKind.WGRAD]} == {Pass.WGRAD}
    assert Pass.WGRAD not in {op.phase for op in operators[PassKind.DGRAD]}
    assert operators[PassKind.DGRAD][: len(again)] == again, "recomputation comes with the dgrad"


def test_a_joint_pass_has_both_micro_batches_apart(program: LayerProgram) -> None:
    joint = pass_operators(program, Recompute.SELECTIVE, PassKind.JOINT)
    backward = pass_operators(program, Recompute.SELECTIVE, PassKind.BACKWARD)
    beside, own = joint[: len(program.forward)], joint[len(program.forward) :]
    assert own == backward
    assert [op.name for op in beside] == [BESIDE + op.name for op in program.forward]
    assert [op.work for op in beside] == [op.work for op in program.forward]
    assert len({op.name for op in joint}) == len(joint)
    written = {name for op in beside for name in op.writes}
    assert written.isdisjoint(name for op in own for name in op.reads)
