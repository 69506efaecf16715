from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.errors import StrategyError
from meshwright.planner.validation.layer_split import layer_split


@given(st.integers(1, 128), st.integers(1, 64), st.integers(0, 1))
def test_all_layers_are_placed_and_loads_differ_by_one_at_most(layers: int, stages: int, extra: int) -> None:
    if layers < stages:
        return
    split = layer_split(layers, stages, extra)
    assert (len(split), sum(split)) == (stages, layers)
    assert min(split) >= 0
    if layers % stages or extra:
        inner = split[1:-1]
        assert not inner or max(inner) - min(inner) <= 1


def test_known_splits() -> None:
    assert layer_split(94, 32) == (2, *(3,) * 30, 2)  # Qwen3-235B, pp 8, four virtual stages
    assert layer_split(61, 16, 1) == (3, *(4,) * 14, 2)  # DeepSeek-V3 with its prediction module on the last stage


def test_more_stages_than_layers_is_refused() -> None:
    with pytest.raises(StrategyError, match="4 layers cannot fill 8 stages"):
        layer_split(4, 8)
