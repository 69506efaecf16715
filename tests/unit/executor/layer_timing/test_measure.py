"""A layer is timed on one stream and, where that is asked for, on several."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec
from meshwright.costmodel.order.launch_order import Launch, LayerOrder, PassKind, PassOrder
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.context import AttentionKernel
from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.streams import Streams
from meshwright.executor.layer_timing.cases import Case
from meshwright.executor.layer_timing.measure import Overlap, TimingChoice, measure_layer
from meshwright.executor.layer_timing.prediction import LayerPrediction, host_cluster, plain_runtime
from meshwright.executor.layer_timing.table import layer_table

CASE = Case(
    model="tiny",
    strategy_name="single",
    layer=LayerSpec(
        attention=AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, value_head_dim=8),
        ffn=DenseFfnSpec(intermediate=24),
    ),
    setting=ProgramSetting(hidden=32, micro_batch=1, seq_len=16, strategy=LayerStrategy(), gpus_per_node=1),
    num_experts_of_model=0,
)
CHOICE = TimingChoice(
    device=torch.device("cpu"), dtype=torch.float32, attention_kernel=AttentionKernel.FORMULA, passes=2
)


class Device:
    """Counts what is issued to other streams than the first."""

    def __init__(self) -> None:
        self.beside = 0

    def on(self, stream: Resource) -> AbstractContextManager[object]:
        self.beside += stream is not Resource.COMPUTE
        return nullcontext()

    def record(self, stream: Resource) -> object:
        return stream

    def wait(self, stream: Resource, event: object) -> None:
        pass

    def share(self, tensor: Tensor) -> None:
        pass


def _order(kind: PassKind) -> PassOrder:
    operators = pass_operators(CASE.program, Recompute.NONE, kind)
    streams = (Resource.COMPUTE, Resource.NVLINK)
    return PassOrder(
        launches=tuple(Launch(operators=(op.name,), stream=streams[place % 2]) for place, op in enumerate(operators))
    )


@pytest.fixture
def prediction() -> LayerPrediction:
    return LayerPrediction(
        CASE.program, host_cluster("h100", 1), plain_runtime(AttentionKernel.FORMULA, fused_kernels=False)
    )


def test_passes_are_timed_on_one_stream_unless_more_are_asked_for(prediction: LayerPrediction) -> None:
    times = measure_layer(CASE, CHOICE, LayerGroups(), 0, lambda _: prediction)
    assert times.overlapped_forward is None
    assert "on streams" not in layer_table(times)


def test_an_order_is_timed_on_its_streams_beside_its_prediction(prediction: LayerPrediction) -> None:
    device = Device()
    order = LayerOrder(forward=_order(PassKind.FORWARD), backward=_order(PassKind.BACKWARD))
    overlap = Overlap(streams=Streams(device), order=order, prediction=prediction)
    times = measure_layer(CASE, CHOICE, LayerGroups(), 0, lambda _: prediction, overlap)
    assert device.beside > 0
    assert times.overlapped_forward is not None
    assert times.overlapped_backward is not None
    assert times.overlapped_backward.measured.median_s > 0
    assert times.overlapped_forward.predicted_s == times.forward.predicted_s
    assert "backward on streams" in layer_table(times)
