"""The maps against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meshwright.kernels.checking.check_index import parts_of
from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.index.contract import capacity
from meshwright.kernels.index.operator import index


def _sorted_slots(experts: list[int], here: range, tile: int) -> tuple[list[int], list[int]]:
    rows: list[int] = []
    ends: list[int] = []
    for expert in here:
        rows += [slot for slot, chosen in enumerate(experts) if chosen == expert]
        rows += [-1] * (-len(rows) % tile)
        ends.append(len(rows))
    return rows, ends


@given(
    experts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20),
    first=st.integers(0, 4),
    here=st.integers(1, 6),
    tile=st.sampled_from([1, 2, 8]),
)
def test_rows_are_sorted_stably_and_padded(experts: list[tuple[int, int]], first: int, here: int, tile: int) -> None:
    given_experts = torch.tensor(experts, dtype=torch.int32).view(-1, 2)
    rowmap = index(given_experts, here, first_expert=first, tile=tile)
    rows, ends = _sorted_slots(given_experts.flatten().tolist(), range(first, first + here), tile)
    assert len(rows) <= rowmap.capacity == capacity(2 * len(experts), here, tile)
    assert rowmap.slots_P.tolist() == rows + [-1] * (rowmap.capacity - len(rows))
    assert rowmap.offsets_E.tolist() == ends
    places = [rows.index(slot) if slot in rows else -1 for slot in range(2 * len(experts))]
    assert rowmap.places_TK.flatten().tolist() == places
    assert int(rowmap.counts_E.sum()) == sum(slot >= 0 for slot in rows)


@given(
    experts=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20),
    first=st.sampled_from([0, 2]),
    rows=st.sampled_from([1, 2, 3, 6]).flatmap(
        lambda count: st.lists(st.integers(0, 12), min_size=count, max_size=count)
    ),
)
def test_parts_begin_where_they_begin_and_have_no_more_than_their_room(
    experts: list[tuple[int, int]], first: int, rows: list[int]
) -> None:
    given_experts = torch.tensor(experts, dtype=torch.int32).view(-1, 2)
    parts = parts_of(tuple(rows), torch.device("cpu"))
    rowmap = index(given_experts, 6, first_expert=first, parts=parts)
    each = 6 // len(rows)
    slots: list[int] = []
    ends: list[int] = []
    placed: list[int] = []
    for part, room in enumerate(rows):
        of_part = range(first + part * each, first + (part + 1) * each)
        sorted_slots, part_ends = _sorted_slots(given_experts.flatten().tolist(), of_part, 1)
        ends += [len(slots) + min(end, room) for end in part_ends]
        placed.append(len(sorted_slots[:room]))
        slots += (sorted_slots + [-1] * room)[:room]
    assert rowmap.slots_P.tolist() == slots
    assert rowmap.offsets_E.tolist() == ends
    places = [slots.index(slot) if slot in slots else -1 for slot in range(2 * len(experts))]
    assert rowmap.places_TK.flatten().tolist() == places
    chosen = given_experts.flatten().tolist()
    assert rowmap.counts_E.tolist() == [chosen.count(expert) for expert in range(first, first + 6)]
    assert parts.placed_counts(rowmap).sum(1).tolist() == placed


def test_experts_must_be_integers() -> None:
    with pytest.raises(KernelInputError, match="expected int32"):
        index(torch.zeros(2, 2), 4)


@pytest.mark.parametrize(("rows", "tile"), [((1, 1, 1), 1), ((1, 1), 8), ((), 1), ((1, -1), 1)])
def test_parts_have_as_many_experts_each_and_no_tiles(rows: tuple[int, ...], tile: int) -> None:
    with pytest.raises(KernelInputError, match="expected as many experts in each part"):
        index(torch.zeros(2, 2, dtype=torch.int32), 4, tile=tile, parts=parts_of(rows, torch.device("cpu")))
