from __future__ import annotations

import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.strategy import Mesh
from meshwright.planner.held.mesh import held_mesh

MESH = Mesh(pp=4, dp=8, tp=2, sp=2, ep=16)


def test_nothing_given_changes_nothing() -> None:
    assert held_mesh(MESH, MESH.num_gpus, {}) == MESH


@pytest.mark.parametrize(
    ("num_gpus", "given", "dp"),
    [(128, {"tp": 4}, 4), (128, {"pp": 2}, 16), (256, {}, 16), (256, {"pp": 8}, 8), (128, {"tp": 1, "sp": 4}, 8)],
)
def test_data_parallelism_takes_the_change_up(num_gpus: int, given: dict[str, int], dp: int) -> None:
    mesh = held_mesh(MESH, num_gpus, given)
    assert (mesh.dp, mesh.num_gpus) == (dp, num_gpus)


def test_it_must_be_a_whole_number() -> None:
    with pytest.raises(StrategyError, match=r"128 GPUs are not a multiple of the 48 of a replica .* are 96 or 144"):
        held_mesh(MESH, 128, {"tp": 6})


def test_all_degrees_given_must_be_the_gpus() -> None:
    with pytest.raises(StrategyError, match=r"= 256 GPUs, but cluster.num_gpus is 128; leave mesh.dp out"):
        held_mesh(MESH, 128, {"dp": 16})
    assert held_mesh(MESH, 256, {"dp": 16}).dp == 16


def test_experts_must_divide_the_stage() -> None:
    with pytest.raises(StrategyError, match="ep 16 x etp 3 does not divide"):
        held_mesh(MESH, 128, {"etp": 3})
