"""The maps of rows from several ranks against a loop, and against the slots that the ranks sent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meshwright.kernels.errors import KernelInputError
from meshwright.kernels.index.operator import index
from meshwright.kernels.regroup.operator import regroup


def _grouped(counts: list[list[int]], tile: int) -> tuple[list[int], list[int]]:
    """The arrival number of each grouped row, -1 for padding, and the ends of the groups."""
    arrivals = [
        (expert, source)
        for source, of_source in enumerate(counts)
        for expert, n in enumerate(of_source)
        for _ in range(n)
    ]
    rows: list[int] = []
    ends: list[int] = []
    for expert in range(len(counts[0])):
        rows += [number for number, (other, _) in enumerate(arrivals) if other == expert]
        rows += [-1] * (-len(rows) % tile)
        ends.append(len(rows))
    return rows, ends


@given(
    counts=st.integers(1, 4).flatmap(
        lambda experts: st.lists(
            st.lists(st.integers(0, 3), min_size=experts, max_size=experts), min_size=1, max_size=3
        )
    ),
    tile=st.sampled_from([1, 2, 8]),
    behind=st.integers(0, 3),
)
def test_rows_are_grouped_by_expert_then_source(counts: list[list[int]], tile: int, behind: int) -> None:
    """Rows behind those that the counts tell of go nowhere."""
    num_rows = sum(map(sum, counts))
    rowmap = regroup(torch.tensor(counts, dtype=torch.int32), num_rows + behind, tile=tile)
    rows, ends = _grouped(counts, tile)
    assert rowmap.slots_P.tolist() == rows + [-1] * (rowmap.capacity - len(rows))
    assert rowmap.offsets_E.tolist() == ends
    assert rowmap.places_TK.tolist() == [[rows.index(number)] for number in range(num_rows)] + [[-1]] * behind
    assert rowmap.counts_E.tolist() == [sum(column) for column in zip(*counts, strict=True)]


@given(
    counts=st.integers(1, 4).flatmap(
        lambda experts: st.lists(
            st.lists(st.integers(0, 3), min_size=experts, max_size=experts), min_size=1, max_size=3
        )
    ),
    spare=st.integers(0, 3),
)
def test_what_stands_at_the_begin_of_parts_is_grouped_alike(counts: list[list[int]], spare: int) -> None:
    part = max(map(sum, counts)) + spare
    matrix = torch.tensor(counts, dtype=torch.int32)
    rowmap = regroup(matrix, len(counts) * part, in_parts=True)
    side_by_side = regroup(matrix, int(matrix.sum()))
    stands = [source * part + row for source, of_source in enumerate(counts) for row in range(sum(of_source))]
    slots = [stands[slot] for slot in side_by_side.slots_P.tolist()]
    assert rowmap.slots_P.tolist() == slots + [-1] * (rowmap.capacity - len(slots))
    assert rowmap.places_TK.flatten().tolist() == [
        slots.index(row) if row in slots else -1 for row in range(len(counts) * part)
    ]
    assert torch.equal(rowmap.offsets_E, side_by_side.offsets_E)
    assert torch.equal(rowmap.counts_E, side_by_side.counts_E)


def test_parts_are_equal() -> None:
    with pytest.raises(KernelInputError, match="5 rows are no equal parts of 2 sources"):
        regroup(torch.zeros(2, 2, dtype=torch.int32), 5, in_parts=True)


def test_the_order_is_by_expert_source_and_token() -> None:
    """Two ranks sort and send their slots; what the receiver groups is one stable sort of all of them."""
    ranks, per_rank = 2, 4
    generator = torch.Generator().manual_seed(0)
    experts = torch.stack(
        [torch.rand(10, 8, generator=generator).topk(3).indices.to(torch.int32) for _ in range(ranks)]
    )
    sent = [index(own, ranks * per_rank) for own in experts]
    for receiver in range(ranks):
        first = receiver * per_rank
        arriving = torch.stack([rowmap.counts_E[first : first + per_rank] for rowmap in sent])
        arrived = [
            (source, int(slot))
            for source, rowmap in enumerate(sent)
            for slot in rowmap.slots_P
            if first <= int(experts[source].flatten()[slot]) < first + per_rank
        ]
        grouped = regroup(arriving, len(arrived))
        found = [arrived[int(number)] for number in grouped.slots_P]
        whole = index(experts.flatten(0, 1), per_rank, first_expert=first)
        expected = [divmod(int(slot), experts[0].numel()) for slot in whole.slots_P if slot >= 0]
        assert found == expected
        assert torch.equal(grouped.offsets_E, whole.offsets_E)


@pytest.mark.parametrize("counts", [torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.zeros(0, 2).int()])
def test_counts_must_be_a_matrix_of_integers(counts: torch.Tensor) -> None:
    with pytest.raises(KernelInputError, match="expected int32"):
        regroup(counts, 0)
