"""Parameters are put together in model order, up to a size."""

from __future__ import annotations

import pytest

from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameters import Block, Cut, ParameterSpec
from meshwright.executor.state import buckets
from meshwright.executor.state.flat import ALIGNMENT, OwnedParameter


def make_part(name: str, *rooms: int) -> list[OwnedParameter]:
    return [
        OwnedParameter(
            name=f"{name}{index}",
            spec=ParameterSpec(name=f"{name}{index}", shape=(room * ALIGNMENT,)),
            groups=LayerGroups(),
        )
        for index, room in enumerate(rooms)
    ]


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (0, ["a0 a1", "b0 b1", "c0 c1", "c2"]),
        (5, ["a0 a1 b0 b1", "c0 c1", "c2"]),  # b ends behind 5 and more
        (100, ["a0 a1 b0 b1", "c0 c1", "c2"]),  # never more than 8, unless one alone has more
    ],
)
def test_buffers_end_with_parts_once_they_are_large_enough(
    least: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "MOST_ELEMENTS", 8 * ALIGNMENT)
    parts = [make_part("a", 1, 2), make_part("b", 2, 1), make_part("c", 3, 3, 9)]
    found = buckets.buckets(parts, least * ALIGNMENT)
    assert [" ".join(one.name for one in bucket) for bucket in found] == expected


def test_ranks_with_other_parts_of_the_same_parameters_find_the_same_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "MOST_ELEMENTS", 3 * ALIGNMENT)
    table = ParameterSpec(name="table", shape=(3, ALIGNMENT), cut=Cut.TENSOR, blocks=(Block(count=3, even=False),))
    found = []
    for rank in range(2):
        groups = LayerGroups(tensor=Communicator(size=2, rank=rank))
        owned = [OwnedParameter(name=name, spec=table, groups=groups) for name in "abc"]
        found.append([" ".join(one.name for one in bucket) for bucket in buckets.buckets([owned], 0)])
    assert found[0] == found[1]


def test_parts_without_parameters_of_a_kind_make_no_buffer() -> None:
    assert list(buckets.buckets([[], make_part("a", 1), []], 0)) == [tuple(make_part("a", 1))]
