from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.circumstances import NONE, Circumstances, LinkPlace, Recovery, SlowGpu, SlowLink
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.value import Value

replace = msgspec.structs.replace


def test_by_default_nothing_is_slow() -> None:
    assert Circumstances() == NONE
    assert not NONE.slows
    assert Circumstances(slow_gpu=SlowGpu(time_factor=1.1)).slows
    assert Circumstances(slow_link=SlowLink(bandwidth_fraction=0.5)).slows


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (SlowGpu, {"time_factor": 0.9}, "slow_gpu: 0.9 is not a factor >= 1"),
        (SlowGpu, {"time_factor": float("inf")}, "slow_gpu: inf is not a factor >= 1"),
        (SlowGpu, {"time_factor": 1.1, "stage": -2}, "slow_gpu: stage -2 is negative"),
        (SlowLink, {"bandwidth_fraction": 0.0}, "slow_link: 0.0 is not a share of bandwidth"),
        (SlowLink, {"bandwidth_fraction": 1.5}, "slow_link: 1.5 is not a share of bandwidth"),
        (Recovery, {"restart_s": -1.0}, "restart_s: -1.0 is not a time >= 0"),
        (Recovery, {"checkpoint_write_s": float("nan")}, "checkpoint_write_s: nan is not a time >= 0"),
        (Recovery, {"checkpoint_interval_s": 0.0}, "checkpoint_interval_s: 0.0 is neither 'optimal' nor a time > 0"),
        (
            Recovery,
            {"checkpoint_interval_s": 60.0, "checkpoint_store_s": 90.0},
            "checkpoint_interval_s: 60 s is shorter than the 90 s that storing a checkpoint takes",
        ),
        (Recovery, {"num_spare_nodes": -1}, "spares: -1 is negative"),
        (Circumstances, {"jitter_fraction": 1.5}, "jitter: 1.5 is not a coefficient of variation"),
        (Circumstances, {"tokens": -1.0}, "tokens: -1.0 is not a number of tokens"),
        (Circumstances, {"seed": -1}, "seed: -1 is negative"),
    ],
)
def test_impossible_circumstances(kind: type[Value], fields: dict[str, object], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        kind(**fields)


def test_stages_that_there_are_not(tiny_configuration: TrainingConfiguration) -> None:
    for circumstances, message in (
        (
            Circumstances(slow_gpu=SlowGpu(time_factor=1.1, stage=2)),
            "slow_gpu: place 2, but there are 2 pipeline stages",
        ),
        (
            Circumstances(slow_link=SlowLink(bandwidth_fraction=0.5, place=LinkPlace.BOUNDARY, stage=1)),
            "slow_link: place 1, but there are 1 boundaries",
        ),
    ):
        with pytest.raises(StrategyError, match=message):
            replace(tiny_configuration, circumstances=circumstances)


def test_words() -> None:
    assert str(SlowGpu(time_factor=1.1)) == "1.1"
    assert str(SlowGpu(time_factor=1.1, stage=3)) == "1.1@stage:3"
    assert str(SlowLink(bandwidth_fraction=0.5)) == "0.5"
    assert str(SlowLink(bandwidth_fraction=0.5, place=LinkPlace.BOUNDARY, stage=3)) == "0.5@boundary:3"
    assert str(SlowLink(bandwidth_fraction=0.5, place=LinkPlace.DATA_PARALLEL)) == "0.5@data-parallel"
