"""Parts of steps are timed apart."""

from __future__ import annotations

import time

import pytest
import torch

from meshwright.costmodel.program.operators import Collective, CollectiveWork, GemmWork, Group, Operator, Pass
from meshwright.executor.stopwatch import StepPart, Stopwatch


class Clock:
    """Every look is a second later."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_a_step_that_begins_again_counts_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", Clock())
    watch = Stopwatch(torch.device("cpu"))
    with watch.part(StepPart.FORWARD):
        pass
    watch.begin_again()
    with watch.part(StepPart.BACKWARD):
        pass
    watch.end_step()
    (step,) = watch.steps()
    assert (step[StepPart.FORWARD], step[StepPart.BACKWARD]) == (0.0, 1.0)


def test_parts_add_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", Clock())
    watch = Stopwatch(torch.device("cpu"))
    for forwards in (2, 1):
        for _ in range(forwards):
            with watch.part(StepPart.FORWARD), watch.part(StepPart.COLLECTIVES):
                pass
        watch.end_step()
    with watch.part(StepPart.WAIT):  # of a step that has not ended
        pass
    first, second = watch.steps()
    assert (first[StepPart.FORWARD], first[StepPart.COLLECTIVES], first[StepPart.WAIT]) == (6.0, 2.0, 0.0)
    assert (second[StepPart.FORWARD], second[StepPart.COLLECTIVES]) == (3.0, 1.0)
    assert watch.steps() == (first, second)


def test_collectives_that_block_are_exposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", Clock())
    watch = Stopwatch(torch.device("cpu"))
    group = Group(size=2, ranks_per_node=2)
    works = (
        CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=1.0, group=group),
        GemmWork(m=1, n=1, k=1),
    )
    for work in works:
        operator = Operator(name="one", module="layer", phase=Pass.FORWARD, work=work, reads=(), writes=())
        watch.around(operator, lambda: None)
    watch.waiting(lambda: None)
    watch.end_step()
    (step,) = watch.steps()
    assert (step[StepPart.COLLECTIVES], step[StepPart.EXPOSED]) == (3.0, 2.0)


def test_reductions_inside_a_backward_are_not_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", Clock())
    watch = Stopwatch(torch.device("cpu"))
    with watch.part(StepPart.BACKWARD):  # seven seconds from the first look to the last
        with watch.part(StepPart.COLLECTIVES):
            pass
        for _ in range(2):
            with watch.part(StepPart.GRADIENTS):
                pass
    watch.end_step()
    (step,) = watch.steps()
    assert (step[StepPart.BACKWARD], step[StepPart.COLLECTIVES], step[StepPart.GRADIENTS]) == (5.0, 1.0, 2.0)


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_devices_time() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(2):
        start_s = time.perf_counter()
        with watch.part(StepPart.FORWARD):
            torch.cuda._sleep(200_000_000)  # clock cycles
        assert time.perf_counter() - start_s < 0.05
        watch.end_step()
    assert all(step[StepPart.FORWARD] > 0.05 for step in watch.steps())
