"""A rank's place in both views of a mesh."""

from __future__ import annotations

import pytest

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.strategy import AxisOrder, Mesh, ZeroStage
from meshwright.executor.ranks.place import Place, holder_lines

FOLDED = Mesh(pp=2, dp=2, sp=2, tp=2, ep=4)
OUTER_DP = Mesh(pp=2, dp=2, sp=2, tp=2, ep=4, order=AxisOrder.DP_OUTERMOST)


def places(mesh: Mesh) -> list[Place]:
    return [Place(mesh=mesh, rank=rank) for rank in range(mesh.num_gpus)]


@pytest.mark.parametrize("mesh", [FOLDED, OUTER_DP])
def test_numbers_in_a_stage_lead_back_to_the_rank(mesh: Mesh) -> None:
    for place in places(mesh):
        assert place.of_stage(place.in_stage) == place.rank


def test_tensor_ranks_are_neighbours_and_stages_are_far_apart() -> None:
    place = Place(mesh=FOLDED, rank=5)
    assert place.line(2, 1) == (4, 5)
    assert place.line(2, 2) == (5, 7)
    assert place.across_stages((0, 1)) == (5, 13)


def test_with_dp_outermost_replicas_are_far_apart() -> None:
    place = Place(mesh=OUTER_DP, rank=5)
    assert (place.stage, place.replica) == (1, 0)
    assert place.across_stages((0, 1)) == (1, 5)
    assert place.line(2, 4) == (5, 13)


def test_expert_groups_fold_over_sequence_and_data_ranks() -> None:
    mesh = Mesh(dp=4, sp=2, ep=4)
    assert Place(mesh=mesh, rank=6).line(4, 1) == (4, 5, 6, 7)
    assert Place(mesh=mesh, rank=6).copies(4) == (2, 6)


@pytest.mark.parametrize("mesh", [FOLDED, OUTER_DP])
@pytest.mark.parametrize("split", [1, 2, 4, 8])
def test_copies_and_those_who_share_one_copy_meet_in_one_rank(mesh: Mesh, split: int) -> None:
    for place in places(mesh):
        sharing, copies = set(place.line(split, 1)), set(place.copies(split))
        assert sharing & copies == {place.rank}
        assert len(sharing) * len(copies) == mesh.stage_gpus


@pytest.mark.parametrize("mesh", [FOLDED, OUTER_DP])
def test_all_lines_are_each_ranks_own_line_once(mesh: Mesh) -> None:
    lines = Place(mesh=mesh, rank=0).all_lines(4, 2)
    assert sorted(rank for line in lines for rank in line) == list(range(mesh.num_gpus))
    assert {place.line(4, 2) for place in places(mesh)} == set(lines)


@pytest.mark.parametrize("mesh", [FOLDED, OUTER_DP])
@pytest.mark.parametrize("split", [1, 2, 4])
def test_shards_of_replicas_are_the_copies_each_once(mesh: Mesh, split: int) -> None:
    sharding = Sharding(zero=ZeroStage.PARAMETERS, shard_degree=2)
    for place in places(mesh):
        shards, replicas = (place.line(*line) for line in holder_lines(mesh, split, sharding))
        found = [
            rank
            for replica in replicas
            for rank in Place(mesh=mesh, rank=replica).line(*holder_lines(mesh, split, sharding)[0])
        ]
        assert len(replicas) == min(mesh.stage_gpus // split, mesh.dp * mesh.cp * mesh.sp // 2)
        assert len(shards) * len(replicas) == mesh.stage_gpus // split
        assert sorted(found) == sorted(place.copies(split))


@pytest.mark.parametrize(
    ("zero", "degree", "shards"),
    [
        (ZeroStage.NONE, 0, 1),
        (ZeroStage.NONE, 2, 1),
        (ZeroStage.OPTIMIZER, 0, 8),
        (ZeroStage.OPTIMIZER, 4, 4),
        (ZeroStage.GRADIENTS, 3, 1),  # no part of 8 copies has 3
    ],
)
def test_how_many_shards(zero: ZeroStage, degree: int, shards: int) -> None:
    lines = holder_lines(Mesh(dp=8), 1, Sharding(zero=zero, shard_degree=degree))
    assert [size for size, _ in lines] == [shards, 8 // shards]
