from __future__ import annotations

import pytest

from meshwright.costmodel.program.operators import Group
from meshwright.executor.measure_hardware.links.ranks import partitions, place_from_environment


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert place_from_environment() is None


def test_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    place = place_from_environment()
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.local_size) == (9, 16, 1, 8)
    assert not place.is_first


def test_every_rank_is_in_one_group_of_a_shape() -> None:
    for shape in (Group(size=2, ranks_per_node=2), Group(size=16, ranks_per_node=8), Group(size=2, ranks_per_node=1)):
        parts = partitions(shape, 16, 8)
        assert sorted(rank for part in parts for rank in part) == list(range(16))
        assert all(len(part) == shape.size for part in parts)
