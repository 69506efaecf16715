"""All ranks make the same communicators in the same order; numbers of SMs have communicators of their own."""

from __future__ import annotations

import pytest

from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.executor.ranks import communicators
from meshwright.executor.ranks.communicators import Communicators
from meshwright.executor.ranks.place import Place

MESH = Mesh(dp=2, sp=2, ep=4)
STRATEGY = LayerStrategy(sp=2, ep=4)
Made = list[tuple[tuple[int, ...], int]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """What groups are made, with their SMs."""
    found: Made = []

    def note(ranks: tuple[int, ...], num_sms: int) -> None:
        found.append((ranks, num_sms))

    monkeypatch.setattr(communicators, "_group", note)
    return found


def _of_rank(rank: int, gpus_per_node: int = 4) -> Communicators:
    return Communicators(
        Place(mesh=MESH, rank=rank), (STRATEGY,), (0,), sms=((STRATEGY, 8),), gpus_per_node=gpus_per_node
    )


def test_every_rank_makes_the_same(made: Made) -> None:
    _of_rank(0)
    first = list(made)
    assert len(set(first)) == len(first)
    made.clear()
    _of_rank(3)
    assert made == first
    assert {ranks for ranks, num_sms in first if num_sms == 8} == {(0, 1), (2, 3), (0, 1, 2, 3)}


def test_a_layer_finds_those_of_its_sms(made: Made) -> None:
    found = _of_rank(1)
    assert made
    groups, limited = found.layer(STRATEGY), found.layer(STRATEGY, num_sms=8)
    assert groups.sequence is not limited.sequence
    assert (limited.sequence.size, limited.sequence.rank, limited.expert.size) == (2, 1, 4)
    assert found.layer(STRATEGY, num_sms=16).sequence is groups.sequence, "no such communicators: the library decides"


def test_between_nodes_the_library_decides(made: Made) -> None:
    found = _of_rank(0, gpus_per_node=2)
    assert {ranks for ranks, num_sms in made if num_sms == 8} == {(0, 1), (2, 3)}
    assert found.layer(STRATEGY, num_sms=8).expert is found.layer(STRATEGY).expert
