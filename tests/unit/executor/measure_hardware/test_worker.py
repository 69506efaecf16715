"""What a rank does when another one cannot take part."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TypeVar

import pytest

from meshwright.executor.measure_hardware import Extent, build_survey
from meshwright.executor.measure_hardware.cpu_device import CpuDevice
from meshwright.executor.measure_hardware.journal import Outcome, Skipped
from meshwright.executor.measure_hardware.links import worker
from meshwright.executor.measure_hardware.links.worker import LinkWorker

T = TypeVar("T")
SURVEY = build_survey(Extent.TINY, num_gpus=2, gpus_per_node=2)


class FakeRanks:
    """Rank 0 of two; the other one has no memory left. Whoever waits for it waits for ever."""

    place = SimpleNamespace(is_first=True, rank=0, size=2, local_size=2)

    def gathered(self, value: T) -> list[T | str]:
        return [value, "OutOfMemoryError: no memory"]

    def group(self, shape: object, num_ctas: int = 0) -> SimpleNamespace:
        del shape, num_ctas
        return SimpleNamespace(size=lambda: 2, rank=lambda: 0)

    def wait(self) -> None:
        pytest.fail("waits for a rank that never comes")

    def largest(self, value: float) -> float:
        del value
        pytest.fail("waits for a rank that never comes")


@pytest.fixture
def recorded() -> dict[str, Outcome]:
    return {}


@pytest.fixture
def alone(recorded: dict[str, Outcome]) -> LinkWorker:
    return LinkWorker(FakeRanks(), CpuDevice(), recorded.__setitem__)  # type: ignore[arg-type]  # a fake


def test_a_collective_that_one_rank_cannot_hold_is_skipped_by_all(
    alone: LinkWorker, recorded: dict[str, Outcome]
) -> None:
    alone._link(SURVEY.links[0], 0.01)
    reason = "not measured: rank 1: OutOfMemoryError: no memory"
    assert recorded == {SURVEY.links[0].key: Skipped(what=SURVEY.links[0].key, reason=reason)}


def test_an_interference_that_one_rank_cannot_hold_is_skipped_by_all(
    alone: LinkWorker, recorded: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "slowdowns", lambda *_: pytest.fail("measures"))
    pair = SURVEY.link_interference[0]
    alone._interference(pair)
    assert isinstance(recorded[pair.key], Skipped)
