"""The best case of a layer is never above what any order costs, whatever the runtime."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from meshwright.costmodel.layer_bound import layer_bound
from meshwright.costmodel.layer_cost import LayerCost, layer_cost, reserved_bytes
from meshwright.costmodel.layer_passes import LayerPasses
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import RuntimeSpec, load_runtime
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Recompute
from meshwright.hardware_profiles import load_cluster

CLUSTER = load_cluster("h800", num_gpus=16)
SPLITS = (
    LayerStrategy(tp=8, ffn_tp=8, etp=8, dispatch=Dispatch.ALL_GATHER),
    LayerStrategy(sp=8, ep=8, dispatch=Dispatch.ALL_TO_ALL),
    LayerStrategy(sp=8, ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
    LayerStrategy(tp=8, ep=8, dispatch=Dispatch.ALL_GATHER),
)


def _program(strategy: LayerStrategy, seq_len: int) -> LayerProgram:
    model = load_model("internal-352b")
    setting = ProgramSetting(
        hidden=model.hidden, micro_batch=1, seq_len=seq_len, strategy=strategy, gpus_per_node=CLUSTER.gpus_per_node
    )
    return build_layer(model.layers[-1], setting)


def _runtime(overlap: LayerOverlap | None) -> RuntimeSpec:
    plain = load_runtime("meshwright")
    return plain if overlap is None else msgspec.structs.replace(plain, overlap=overlap)


def _both_s(cost: LayerCost) -> float:
    """A micro-batch, run as the layer's passes say."""
    forward_s = cost.forward.total_s
    if cost.passes is LayerPasses.JOINED:
        return forward_s + cost.backward.total_s
    return forward_s + cost.dgrad.total_s + cost.wgrad.total_s - cost.overlap_saving_s


@pytest.mark.parametrize("passes", [LayerPasses.JOINED, LayerPasses.SPLIT, LayerPasses.OVERLAPPED])
@pytest.mark.parametrize(
    "overlap",
    [
        None,
        LayerOverlap(),
        LayerOverlap(expert=OverlapLevel.INTER_BATCH),
        LayerOverlap(tensor=OverlapLevel.FUSED, sequence=OverlapLevel.FUSED, expert=OverlapLevel.INTER_BATCH),
    ],
    ids=["meshwright", "blocking", "inter-batch", "fused and inter-batch"],
)
def test_no_order_costs_less(overlap: LayerOverlap | None, passes: LayerPasses) -> None:
    """Short sequences too, where the GPU waits for the host."""
    runtime = _runtime(overlap)
    for strategy, policy, seq_len in product(SPLITS, (Recompute.NONE, Recompute.SELECTIVE), (512, 8192)):
        program = _program(strategy, seq_len)
        least = layer_bound(program, policy, CLUSTER, runtime, passes)
        cost = layer_cost(program, policy, CLUSTER, runtime, passes)
        for name in ("forward", "backward", "dgrad", "wgrad"):
            assert getattr(least, name).total_s <= getattr(cost, name).total_s * (1 + 1e-9), name
        assert _both_s(least) <= _both_s(cost) * (1 + 1e-9)
        assert (least.weights, least.kept_bytes) == (cost.weights, cost.kept_bytes)


@pytest.mark.parametrize("passes", [LayerPasses.JOINED, LayerPasses.SPLIT, LayerPasses.OVERLAPPED])
def test_memory_is_what_every_order_keeps_to(passes: LayerPasses) -> None:
    runtime = load_runtime("meshwright")
    for strategy in SPLITS:
        program = _program(strategy, 8192)
        least = layer_bound(program, Recompute.SELECTIVE, CLUSTER, runtime, passes)
        cost = layer_cost(program, Recompute.SELECTIVE, CLUSTER, runtime, passes)
        reserve = reserved_bytes(program, Recompute.SELECTIVE, runtime, passes)
        assert cost.transient_bytes <= reserve == least.transient_bytes
