from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.errors import StrategyError
from meshwright.planner.held.stages import even_split, held_stages

counts = st.lists(st.integers(1, 12), min_size=1, max_size=12).map(tuple)


@given(counts=counts)
def test_as_many_layers_and_stages_stay_as_they_are(counts: tuple[int, ...]) -> None:
    assert held_stages(counts, sum(counts), len(counts)) == counts


@given(counts=counts, factor=st.integers(2, 5))
def test_twice_the_layers_are_twice_in_every_stage(counts: tuple[int, ...], factor: int) -> None:
    assert held_stages(counts, factor * sum(counts), len(counts)) == tuple(factor * count for count in counts)


@given(counts=counts, more=st.integers(0, 40))
def test_all_layers_lie_somewhere_and_no_stage_is_emptied(counts: tuple[int, ...], more: int) -> None:
    num_layers = len(counts) + more
    held = held_stages(counts, num_layers, len(counts))
    assert sum(held) == num_layers
    assert min(held) >= 1


@given(num_layers=st.integers(1, 200), num_stages=st.integers(1, 20))
def test_an_even_split_is_even(num_layers: int, num_stages: int) -> None:
    if num_layers < num_stages:
        with pytest.raises(StrategyError, match=f"{num_stages} virtual stages, but only {num_layers} layers"):
            even_split(num_layers, num_stages)
        return
    split = even_split(num_layers, num_stages)
    assert (sum(split), len(split), max(split) - min(split) <= 1) == (num_layers, num_stages, True)
    assert held_stages((1,) * (num_stages + 1), num_layers, num_stages) == split
