"""Steps are timed by their parts, recorded ones by their operators."""

from __future__ import annotations

import time

import pytest
import torch

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import (
    Collective,
    CollectiveWork,
    Group,
    MemoryKernel,
    MemoryWork,
    Operator,
    Pass,
    Resource,
)
from meshwright.executor.observe.observer import StepObserver
from meshwright.executor.observe.operator_samples import OperatorKey
from meshwright.executor.observe.spans import OperatorAt, PartAt
from meshwright.executor.stopwatch import StepPart


class Clock:
    """Every look is a second later."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def operator(name: str, *, communicates: bool = False) -> Operator:
    group = Group(size=2, ranks_per_node=2)
    return Operator(
        name=name,
        module="ffn",
        phase=Pass.FORWARD,
        work=CollectiveWork(collective=Collective.ALL_TO_ALL, num_bytes=1.0, group=group)
        if communicates
        else MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1.0, write_bytes=1.0),
        reads=(),
        writes=(),
    )


NORM, DISPATCH = operator("norm"), operator("dispatch", communicates=True)


def step(observer: StepObserver, beside: dict[str, Resource] | None = None) -> list[str]:
    """A forward of two operators."""
    ran: list[str] = []
    with observer.part(StepPart.FORWARD, "forward 3"):
        observer.enter("layer 1", PassKind.FORWARD, 3, beside)
        for one in (NORM, DISPATCH):
            observer.around(one, lambda one=one: ran.append(one.name))  # type: ignore[misc]
    observer.end_step()
    return ran


@pytest.fixture
def observer(monkeypatch: pytest.MonkeyPatch) -> StepObserver:
    monkeypatch.setattr(time, "perf_counter", Clock())
    return StepObserver(torch.device("cpu"))


def test_a_plain_step_has_its_parts_alone(observer: StepObserver) -> None:
    assert step(observer) == ["norm", "dispatch"]
    (times,) = observer.stopwatch.steps()
    parts = (StepPart.FORWARD, StepPart.COLLECTIVES, StepPart.EXPOSED)
    assert [times[part] for part in parts] == [5.0, 3.0, 1.0], "each look at the clock takes a second"
    assert observer.latest is None
    assert not observer.samples.seconds


def test_a_recorded_step_has_its_operators_and_counts_for_nothing_else(observer: StepObserver) -> None:
    step(observer)
    for _ in range(2):
        observer.record_step()
        assert step(observer) == ["norm", "dispatch"]
    step(observer)
    assert len(observer.stopwatch.steps()) == 2
    keys = [
        OperatorKey(title="layer 1", kind=PassKind.FORWARD, name=name, recomputes=False)
        for name in ("norm", "dispatch")
    ]
    assert observer.samples.seconds == {key: [1.0, 1.0] for key in keys}


def test_the_latest_recorded_step_has_everything_in_order(observer: StepObserver) -> None:
    observer.record_step()
    step(observer)
    assert observer.latest is not None
    whole, norm, dispatch = observer.latest.spans
    assert whole.what == PartAt(part=StepPart.FORWARD, name="forward 3")
    assert whole.start_s < norm.start_s < norm.end_s < dispatch.start_s < dispatch.end_s < whole.end_s
    assert isinstance(dispatch.what, OperatorAt)
    assert (dispatch.what.operator, dispatch.what.within.micro_batch) == (DISPATCH, 3)


def test_collectives_inside_another_operator_are_waited_for(observer: StepObserver) -> None:
    for records in (False, True):
        if records:
            observer.record_step()
        with observer.part(StepPart.FORWARD, "forward 0"), observer.exchanging():
            pass
        observer.end_step()
    (times,) = observer.stopwatch.steps()
    assert [times[part] for part in (StepPart.FORWARD, StepPart.COLLECTIVES, StepPart.EXPOSED)] == [5.0, 3.0, 1.0]
    assert observer.latest is not None
    assert [span.what for span in observer.latest.spans] == [PartAt(part=StepPart.FORWARD, name="forward 0")]


def test_a_forward_beside_a_backward_is_timed_with_it_and_recorded_by_itself(observer: StepObserver) -> None:
    for records in (False, True):
        if records:
            observer.record_step()
        with observer.joint_part("forward 3", "backward 1"):
            observer.enter("layer 1", PassKind.FORWARD, 3, beside=True)
            observer.around(NORM, lambda: None)
        observer.end_step()
    (times,) = observer.stopwatch.steps()
    assert (times[StepPart.FORWARD], times[StepPart.BACKWARD]) == (0.0, 1.0)
    assert observer.latest is not None
    forward, backward, norm = (span.what for span in observer.latest.spans)
    assert forward == PartAt(part=StepPart.FORWARD, name="forward 3", beside=True)
    assert backward == PartAt(part=StepPart.BACKWARD, name="backward 1")
    assert isinstance(norm, OperatorAt)
    assert norm.within.beside


def test_an_operator_is_known_by_the_stream_that_it_ran_on(observer: StepObserver) -> None:
    for beside in ({"dispatch": Resource.NVLINK}, None):
        observer.record_step()
        step(observer, beside)
    assert [(key.name, key.stream, len(seconds)) for key, seconds in observer.samples.seconds.items()] == [
        ("norm", Resource.COMPUTE, 2),
        ("dispatch", Resource.NVLINK, 1),
        ("dispatch", Resource.COMPUTE, 1),
    ]


def test_waits_of_a_recorded_step_count_for_no_plain_one(observer: StepObserver) -> None:
    waited: list[int] = []
    observer.record_step()
    observer.waiting(lambda: waited.append(1))
    step(observer)
    observer.waiting(lambda: waited.append(2))
    step(observer)
    (times,) = observer.stopwatch.steps()
    assert (waited, times[StepPart.EXPOSED]) == ([1, 2], 2.0), "of the wait and of the collective that blocks"


@pytest.mark.gpu
def test_on_a_gpu_operators_take_the_devices_time() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    observer = StepObserver(torch.device("cuda"))
    observer.record_step()
    observer.enter("layer 1", PassKind.FORWARD, 0)
    observer.around(NORM, lambda: torch.cuda._sleep(200_000_000))  # clock cycles
    observer.around(DISPATCH, lambda: None)
    observer.end_step()
    slept, nothing = (seconds for (seconds,) in observer.samples.seconds.values())
    assert slept > 0.05 > nothing
