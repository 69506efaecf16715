from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.planner.layer_pattern import layer_runs


@pytest.mark.parametrize(
    ("layer_types", "expected"),
    [
        ((0,) * 5, [((0,), 5)]),
        ((0, 1) * 6, [((0, 1), 6)]),
        ((0, 0, 0, 1) * 12, [((0, 0, 0, 1), 12)]),
        ((0, 0, 0) + (1,) * 58, [((0,), 3), ((1,), 58)]),
        ((2,) + (0, 1) * 12, [((2,), 1), ((0, 1), 12)]),
    ],
)
def test_finds_the_unit_that_repeats(layer_types: tuple[int, ...], expected: list[tuple[tuple[int, ...], int]]) -> None:
    assert [(run.unit, run.repeats) for run in layer_runs(layer_types)] == expected


@given(st.lists(st.integers(0, 2), min_size=1, max_size=24))
def test_runs_spell_the_stack(layer_types: list[int]) -> None:
    runs = layer_runs(tuple(layer_types))
    assert [kind for run in runs for kind in run.unit * run.repeats] == layer_types
