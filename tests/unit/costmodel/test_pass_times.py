from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.alone import timing
from meshwright.costmodel.formulas.experts import forwarded_s
from meshwright.costmodel.formulas.interference import between_nodes
from meshwright.costmodel.hardware import SmShare
from meshwright.costmodel.model import AttentionSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.pass_times import problem_of
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import Axis, Collective, CollectiveWork, CopyWork, Group, Operator, Pass
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Dispatch, LayerStrategy
from meshwright.hardware_profiles import load_cluster

RUNTIME = RuntimeSpec(name="plain", source="test")


@pytest.mark.parametrize("time_factor", [1.0, 2.5])
def test_traffic_between_nodes_is_on_the_share_of_the_sms_too(time_factor: float) -> None:
    """Fewer SMs slow computation less, but for longer: the cost between nodes has both from one share."""
    cluster = load_cluster("h100", num_gpus=16)
    measured = cluster.profile.interference
    share = SmShare(num_sms=8, time_factor=time_factor, compute_slowdown=1.2, communication_slowdown=4.0)
    runtime = msgspec.structs.replace(RUNTIME, overlap=LayerOverlap(data=OverlapLevel.INTER_OPERATOR))
    work = CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=2.0**28, group=Group(size=16, ranks_per_node=8))
    operator = Operator(
        name="gather", module="m", phase=Pass.FORWARD, work=work, reads=("a",), writes=("b",), axis=Axis.DATA
    )
    inside = CollectiveWork(
        collective=Collective.ALL_GATHER, num_bytes=2.0**28, group=Group(size=16, ranks_per_node=16)
    )
    alone_s, inside_s = (timing(one, cluster, runtime).time_s for one in (work, inside))
    problem = problem_of((operator,), cluster, runtime, share)
    compute, communication = between_nodes(
        (1.2, 4.0),
        (measured.network_compute_slowdown, measured.network_communication_slowdown),
        time_factor * inside_s / alone_s,
    )
    assert problem.loss[2] == pytest.approx(1.0 - 1.0 / compute)
    assert problem.stretch[2] == pytest.approx(communication)


def test_a_copy_takes_its_share_of_memory_bandwidth_from_computation() -> None:
    """Over PCIe 54 of the 2,700 GB/s that copies inside the GPU reach."""
    cluster = load_cluster("h100", num_gpus=8)
    gpu = msgspec.structs.replace(cluster.gpu, pcie_bytes_per_s=54e9, copy_bytes_per_s=2.7e12)
    cluster = msgspec.structs.replace(cluster, profile=msgspec.structs.replace(cluster.profile, gpu=gpu))
    copy = Operator(name="offload", module="m", phase=Pass.FORWARD, work=CopyWork(num_bytes=1e9), reads=(), writes=())
    problem = problem_of((copy,), cluster, RUNTIME)
    assert problem.loss[3] == pytest.approx(0.02 * (1.0 - problem.loss[1] - problem.loss[2]))


def _program(ep: int) -> LayerProgram:
    layer = LayerSpec(
        attention=AttentionSpec(num_heads=16, num_kv_heads=8, head_dim=128, value_head_dim=128),
        ffn=MoeFfnSpec(num_experts=16, top_k=4, intermediate=4096),
    )
    strategy = LayerStrategy(ep=ep, dispatch=Dispatch.ALL_TO_ALL_DEDUP)
    return build_layer(
        layer, ProgramSetting(hidden=2048, micro_batch=1, seq_len=4096, strategy=strategy, gpus_per_node=8)
    )


def test_forwarding_goes_on_under_the_network() -> None:
    """Both hops as `forwarded_s` has them; the network's costs computation what the chunks forwarded meanwhile cost."""
    cluster = load_cluster("h100", num_gpus=16)
    group, inside = Group(size=16, ranks_per_node=1), Group(size=8, ranks_per_node=8)
    works = {
        "dispatch.network": CollectiveWork(collective=Collective.ALL_TO_ALL, num_bytes=2.0**26, group=group),
        "dispatch.nvlink": CollectiveWork(collective=Collective.ALL_TO_ALL, num_bytes=2.0**28, group=inside),
    }
    operators = tuple(
        Operator(name=name, module="m", phase=Pass.FORWARD, work=work, reads=("a",), writes=(name,), axis=Axis.EXPERT)
        for name, work in works.items()
    )
    runtime = msgspec.structs.replace(RUNTIME, overlap=LayerOverlap(expert=OverlapLevel.INTER_OPERATOR))
    network_s, nvlink_s = (timing(work, cluster, runtime).time_s for work in works.values())
    problem = problem_of(operators, cluster, runtime)
    assert problem.time_s == pytest.approx(forwarded_s(network_s, nvlink_s))
    measured = cluster.profile.interference
    compute, communication = between_nodes(
        measured.slowdowns(nvlink=True),
        measured.slowdowns(nvlink=False),
        (nvlink_s - problem.time_s[1]) / problem.time_s[0],
    )
    assert problem.loss[2] == pytest.approx(1.0 - 1.0 / compute)
    assert problem.stretch[2] == pytest.approx(communication)


@pytest.mark.parametrize(("ep", "has_two_hops"), [(8, False), (16, True)])
def test_only_ranks_of_several_nodes_have_a_hop_between_them(ep: int, has_two_hops: bool) -> None:
    names = {op.name for op in problem_of(_program(ep).forward, load_cluster("h100", num_gpus=16), RUNTIME).operators}
    assert ({"dispatch.network", "dispatch.nvlink"} <= names) == has_two_hops
    assert any(name.endswith(".network") for name in names) == has_two_hops
