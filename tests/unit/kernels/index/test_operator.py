"""The maps against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


def test_experts_must_be_integers() -> None:
    with pytest.raises(KernelInputError, match="expected int32"):
        index(torch.zeros(2, 2), 4)
