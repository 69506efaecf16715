from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.program.operators import Group, Resource
from meshwright.costmodel.strategy import AxisOrder, LayerStrategy, Mesh, place_group, place_over_replicas

POWERS = st.sampled_from([1, 2, 4, 8, 16, 32])


@pytest.mark.parametrize(
    ("size", "stride", "gpus_per_node", "expected"),
    [
        (8, 1, 8, Group(size=8, ranks_per_node=8)),
        (4, 1, 8, Group(size=4, ranks_per_node=4)),
        (16, 1, 8, Group(size=16, ranks_per_node=8)),
        (4, 2, 8, Group(size=4, ranks_per_node=4)),
        (4, 4, 8, Group(size=4, ranks_per_node=2)),
        (4, 8, 8, Group(size=4, ranks_per_node=1)),
        (4, 16, 8, Group(size=4, ranks_per_node=1)),
        (12, 1, 8, Group(size=12, ranks_per_node=4)),
    ],
)
def test_groups_are_placed_on_nodes(size: int, stride: int, gpus_per_node: int, expected: Group) -> None:
    assert place_group(size, stride, gpus_per_node) == expected


@given(size=st.integers(1, 64), stride=st.integers(1, 64), gpus_per_node=POWERS)
def test_a_group_fills_its_nodes_evenly(size: int, stride: int, gpus_per_node: int) -> None:
    group = place_group(size, stride, gpus_per_node)
    assert group.num_nodes * group.ranks_per_node == size
    assert group.ranks_per_node * min(stride, gpus_per_node) <= gpus_per_node
    assert (group.resource is Resource.NVLINK) == (group.ranks_per_node == size)


@given(pp=POWERS, dp=POWERS, tp=POWERS, sp=POWERS, cp=POWERS, ep=POWERS, etp=POWERS)
def test_both_views_of_a_mesh_have_the_same_gpus(
    pp: int, dp: int, tp: int, sp: int, cp: int, ep: int, etp: int
) -> None:
    if (dp * tp * sp * cp) % (ep * etp):
        with pytest.raises(StrategyError, match="does not divide"):
            Mesh(pp=pp, dp=dp, tp=tp, sp=sp, cp=cp, ep=ep, etp=etp)
        return
    mesh = Mesh(pp=pp, dp=dp, tp=tp, sp=sp, cp=cp, ep=ep, etp=etp)
    assert mesh.num_gpus == pp * dp * tp * sp * cp == pp * mesh.edp * ep * etp


def test_folding_that_does_not_divide_says_which_degrees() -> None:
    with pytest.raises(StrategyError) as error:
        Mesh(dp=2, tp=3, ep=4)
    expected = "mesh: ep: ep 4 x etp 1 does not divide dp 2 x cp 1 x sp 1 x tp 3 = 6 GPUs of a pipeline stage"
    assert str(error.value) == expected


def test_a_degree_is_positive() -> None:
    with pytest.raises(StrategyError, match="mesh: tp: 0 is not a positive whole number"):
        Mesh(tp=0)
    with pytest.raises(StrategyError, match="layer: sp: -1 is not a positive whole number"):
        LayerStrategy(sp=-1)


def test_strides_follow_the_order_of_axes() -> None:
    inner = Mesh(pp=4, dp=8, tp=2, cp=2)
    assert (inner.data_stride, inner.pipeline_stride) == (4, 32)
    outer = Mesh(pp=4, dp=8, tp=2, cp=2, order=AxisOrder.DP_OUTERMOST)
    assert (outer.data_stride, outer.pipeline_stride) == (16, 4)


def test_dense_width_is_split_over_ranks_that_share_tokens() -> None:
    assert LayerStrategy(tp=2, sp=4, ffn_tp=8).replica_gpus == 8
    with pytest.raises(StrategyError, match="ffn_tp: 4 does not divide tp 2 x sp 1 x cp 1 = 2"):
        LayerStrategy(tp=2, ffn_tp=4)


def test_whole_tokens_on_every_tensor_rank_exclude_exchanges() -> None:
    assert LayerStrategy(tp=4, ffn_tp=4, sequence_parallel=False).tp == 4
    with pytest.raises(StrategyError, match="layer: ep: ep 2 x etp 2 with tp 4 needs sequence_parallel"):
        LayerStrategy(tp=4, ep=2, etp=2, sequence_parallel=False)
    with pytest.raises(StrategyError, match="layer: ffn_tp: 2 must be 1 or tp 4 without sequence_parallel"):
        LayerStrategy(tp=4, ffn_tp=2, sequence_parallel=False)


def _counted(size: int, stride: int, replica: int, data_stride: int, gpus_per_node: int) -> tuple[int, set[int]]:
    """Nodes that the first such ranks lie on, and how many of them on each."""
    ranks = [rank // replica * data_stride + rank % replica for rank in range(0, size * stride, stride)]
    nodes = Counter(rank // gpus_per_node for rank in ranks)
    return len(nodes), set(nodes.values())


@pytest.mark.parametrize("pp", [1, 2, 4])
@pytest.mark.parametrize("replica", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("stride", [1, 2, 4, 16])
@pytest.mark.parametrize("size", [2, 8, 32])
def test_ranks_of_a_group_are_on_as_many_nodes_as_counted(size: int, stride: int, replica: int, pp: int) -> None:
    data_stride = replica * pp
    group = place_over_replicas(size, stride, replica, data_stride, 8)
    assert (group.num_nodes, {group.ranks_per_node}) == _counted(size, stride, replica, data_stride, 8)
