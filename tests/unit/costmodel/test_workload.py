from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.workload import Workload


def test_tokens_of_a_step() -> None:
    assert Workload(global_batch=720, seq_len=8192).tokens == 5_898_240


@pytest.mark.parametrize("field", ["global_batch", "seq_len"])
@pytest.mark.parametrize("value", [0, -8])
def test_sizes_are_positive(field: str, value: int) -> None:
    with pytest.raises(StrategyError, match=f"workload: {field}: {value} is not a positive whole number"):
        msgspec.structs.replace(Workload(global_batch=8, seq_len=8), **{field: value})


@pytest.mark.parametrize("imbalance", [0.9, float("nan"), float("inf")])
def test_the_busiest_rank_has_at_least_the_mean(imbalance: float) -> None:
    with pytest.raises(StrategyError, match="expert_imbalance"):
        Workload(global_batch=8, seq_len=8, expert_imbalance=imbalance)
