"""A part's passes run as the plan places their operators: on streams where it overlaps something, in their groups."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec
from meshwright.costmodel.order.launch_order import Launch, LayerOrder, PassKind, PassOrder
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import Parameters, full_weights
from meshwright.executor.layer.streams import Streams
from meshwright.executor.model.part import Part, PartDescription

ATTENTION = AttentionSpec(num_heads=2, num_kv_heads=2, head_dim=4, value_head_dim=4)
LAYER = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=16))
SETTING = ProgramSetting(hidden=8, micro_batch=2, seq_len=6, strategy=LayerStrategy(), gpus_per_node=8)
CPU = torch.device("cpu")
PROGRAM = build_layer(LAYER, SETTING)
PLAIN = PartDescription(
    title="layer",
    program=PROGRAM,
    context=LayerContext(layer=LAYER, setting=SETTING, device=CPU, dtype=torch.float64),
    recompute=Recompute.NONE,
    order=None,
)


class Device:
    """Notes the streams that something was issued to."""

    def __init__(self) -> None:
        self.used: list[Resource] = []

    def on(self, stream: Resource) -> AbstractContextManager[object]:
        self.used.append(stream)
        return nullcontext()

    def record(self, stream: Resource) -> object:
        return stream

    def wait(self, stream: Resource, event: object) -> None:
        pass

    def share(self, tensor: Tensor) -> None:
        pass


def _order(kind: PassKind, *beside: str) -> PassOrder:
    """Program order, some operators on the stream of a link."""
    return PassOrder(
        launches=tuple(
            Launch(operators=(op.name,), stream=Resource.NVLINK if op.name in beside else Resource.COMPUTE)
            for op in pass_operators(PROGRAM, Recompute.NONE, kind)
        )
    )


def _part(description: PartDescription, device: Device) -> Part:
    weights = full_weights(layer_parameters(LAYER, SETTING.hidden), CPU, torch.float64, seed=3)
    return Part(description, Parameters(weights), Streams(device))


@pytest.mark.parametrize("beside", [(), (PROGRAM.forward[0].name, "activation")])
def test_operators_are_issued_to_the_streams_of_their_launches(beside: tuple[str, ...]) -> None:
    device = Device()
    order = LayerOrder(forward=_order(PassKind.FORWARD, *beside), backward=_order(PassKind.BACKWARD))
    part = _part(replace(PLAIN, order=order), device)
    batch = part.runner.start(torch.ones(12, 8, dtype=torch.float64))
    batch.run(part.passes[PassKind.FORWARD])
    names = [operator.name for operator in part.passes[PassKind.FORWARD]]
    issued = dict(zip(names, device.used, strict=True)) if device.used else {}
    assert {name for name, stream in issued.items() if stream is Resource.NVLINK} == set(beside)
    assert part.other_streams[PassKind.FORWARD] == dict.fromkeys(beside, Resource.NVLINK)
    assert {one.streams is None for one in part.passes.values()} == {not beside}, "all passes or none"
    assert part.passes.keys() == set(PassKind) - {PassKind.JOINT}


def test_a_pass_talks_in_its_own_groups() -> None:
    own = LayerGroups(tensor=Communicator(size=2, rank=1))
    part = _part(replace(PLAIN, groups={PassKind.FORWARD: LayerGroups(), PassKind.BACKWARD: own}), Device())
    batch = part.runner.start(torch.ones(12, 8, dtype=torch.float64))
    before = batch.scope.layer
    batch.run(part.passes[PassKind.FORWARD])
    assert batch.scope.layer is before, "the same groups: nothing to change"
    seen = []
    batch.put_output_gradient(torch.ones(12, 8, dtype=torch.float64))
    batch.run(part.passes[PassKind.BACKWARD], lambda _, __: seen.append(batch.scope.layer.groups))
    assert set(map(id, seen)) == {id(own)}
