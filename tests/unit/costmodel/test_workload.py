from __future__ import annotations

import math

import msgspec
import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.expert_load import ExpertPlacement, HistogramLoad, ZipfLoad
from meshwright.costmodel.workload import MAX_SEQ_LEN, Workload


def test_tokens_of_a_step() -> None:
    assert Workload(global_batch=720, seq_len=8192).tokens == 5_898_240


@pytest.mark.parametrize("field", ["global_batch", "seq_len"])
@pytest.mark.parametrize("value", [0, -8])
def test_sizes_are_positive(field: str, value: int) -> None:
    with pytest.raises(StrategyError, match=f"workload: {field}: {value} is not a positive whole number"):
        msgspec.structs.replace(Workload(global_batch=8, seq_len=8), **{field: value})


def test_a_sequence_beyond_any_sense_is_refused_with_the_limit() -> None:
    assert Workload(global_batch=1, seq_len=MAX_SEQ_LEN).tokens == MAX_SEQ_LEN
    with pytest.raises(StrategyError, match="seq_len: 100,000,000 tokens are over the limit of 16,777,216"):
        Workload(global_batch=1, seq_len=100_000_000)


@pytest.mark.parametrize("imbalance", [0.9, float("nan"), float("inf")])
def test_the_busiest_rank_has_at_least_the_mean(imbalance: float) -> None:
    with pytest.raises(StrategyError, match="expert_imbalance"):
        Workload(global_batch=8, seq_len=8, expert_imbalance=imbalance)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_capacity_is_a_positive_number(factor: float) -> None:
    with pytest.raises(StrategyError, match=f"workload: capacity_factor: {factor} is not a positive number"):
        Workload(global_batch=8, seq_len=8, capacity_factor=factor)


def test_without_a_load_routing_is_even_and_dropless() -> None:
    workload = Workload(global_batch=8, seq_len=8)
    assert workload.routes_evenly
    assert (workload.known_load, workload.capacity) == (None, math.inf)
    assert not msgspec.structs.replace(workload, capacity_factor=1.25).routes_evenly
    assert not msgspec.structs.replace(workload, expert_load=ZipfLoad(exponent=1.0)).routes_evenly


def test_files_leave_out_what_is_not_given() -> None:
    assert b"expert_load" not in msgspec.json.encode(Workload(global_batch=8, seq_len=8))
    assert b"capacity_factor" not in msgspec.json.encode(Workload(global_batch=8, seq_len=8))


@pytest.mark.parametrize(
    "load",
    [
        ZipfLoad(exponent=1.2),
        HistogramLoad(shares=(0.5, 0.25, 0.25), source="loads.csv", placement=ExpertPlacement.PACKED),
    ],
)
def test_a_load_survives_a_file(load: ZipfLoad | HistogramLoad) -> None:
    workload = Workload(global_batch=8, seq_len=8, expert_load=load, capacity_factor=1.5)
    assert msgspec.json.decode(msgspec.json.encode(workload), type=Workload) == workload
