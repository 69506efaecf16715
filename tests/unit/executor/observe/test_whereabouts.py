"""Where a rank is can be read by others, and a rank that does not get on ends itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import (
    Collective,
    CollectiveWork,
    Group,
    MemoryKernel,
    MemoryWork,
    Operator,
    Pass,
    Work,
)
from meshwright.executor.observe import lookout
from meshwright.executor.observe.lookout import Lookout
from meshwright.executor.observe.spans import PassAt
from meshwright.executor.observe.whereabouts import Outcome, Position, Whereabouts, others_words, read_position

GATHER = CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=1.0, group=Group(size=2, ranks_per_node=2))


def operator(name: str, work: Work) -> Operator:
    return Operator(name=name, module="ffn", phase=Pass.FORWARD, work=work, reads=(), writes=())


def memory(kernel: MemoryKernel) -> MemoryWork:
    return MemoryWork(kernel=kernel, read_bytes=1.0, write_bytes=1.0)


@pytest.fixture
def here(tmp_path: Path) -> Whereabouts:
    whereabouts = Whereabouts(tmp_path / "0")
    whereabouts.enter_step(5)
    whereabouts.enter(PassAt(title="layer 3", kind=PassKind.DGRAD, micro_batch=1))
    return whereabouts


@pytest.mark.parametrize(
    ("name", "work", "doing", "waits"),
    [
        ("norm", memory(MemoryKernel.NORM), "norm", False),
        ("dispatch", GATHER, "all-gather dispatch", True),
        ("all_gather.qkv", GATHER, "all_gather.qkv", True),
        ("topk", memory(MemoryKernel.ROUTER), "topk", True),
    ],
)
def test_an_operator_is_in_the_file_when_it_begins(
    here: Whereabouts, tmp_path: Path, name: str, work: Work, doing: str, *, waits: bool
) -> None:
    here.operator(operator(name, work))
    found = read_position(tmp_path / "0")
    assert found == here.position
    assert found == Position(place="step 5, layer 3 dgrad of micro-batch 1", doing=doing, waits=waits)
    assert str(found) == f"step 5, layer 3 dgrad of micro-batch 1, {doing}"


def test_what_the_device_is_in_counts_more_than_where_the_host_is(here: Whereabouts) -> None:
    here.do("sums of loss and norm", waits=True)
    assert str(here.position) == "step 5, sums of loss and norm"
    here.set_device("layer 0 forward of micro-batch 0, all-to-all dispatch")
    assert str(here.position) == "step 5, layer 0 forward of micro-batch 0, all-to-all dispatch"
    here.set_device("")
    assert str(here.position) == "step 5, sums of loss and norm"


def test_long_words_are_cut(here: Whereabouts) -> None:
    here.do("x" * 1000, waits=False)
    assert set(here.position.doing) == {"x"}
    assert here.position.place == "step 5"


def test_ranks_are_told_by_where_they_are() -> None:
    begun = Position(place="", doing="", waits=False)
    works = Position(place="step 1", doing="optimizer", waits=False)
    assert (
        others_words([(0, begun), (1, works), (2, begun)])
        == "ranks 0, 2 stayed in the start; rank 1 was in step 1, optimizer"
    )


def looked_out(
    monkeypatch: pytest.MonkeyPatch, whereabouts: Whereabouts, device: str = "", parent: int = 0
) -> list[int]:
    """What a look-out of 0.2 s has done in a second: the status with which it would have ended the process."""
    statuses: list[int] = []
    monkeypatch.setattr(lookout, "POLL_S", 0.02)
    monkeypatch.setattr(lookout, "DEVICE_BEHIND_S", 0.05)
    one = Lookout(whereabouts, lambda: device, timeout_s=0.2, parent=parent, hung=lambda: None)

    def end(status: int) -> None:
        if not statuses:
            statuses.append(status)
        one._ended.set()

    monkeypatch.setattr(os, "_exit", end)
    one.start()
    deadline_s = time.monotonic() + 1.0
    while not statuses and time.monotonic() < deadline_s:
        time.sleep(0.02)
    one.close()
    return statuses


def test_a_rank_that_waits_for_too_long_ends(here: Whereabouts, monkeypatch: pytest.MonkeyPatch) -> None:
    here.operator(operator("dispatch", GATHER))
    assert looked_out(monkeypatch, here) == [1]
    assert here.position.outcome is Outcome.HUNG


def test_a_rank_that_computes_may_take_its_time(here: Whereabouts, monkeypatch: pytest.MonkeyPatch) -> None:
    here.operator(operator("norm", memory(MemoryKernel.NORM)))
    assert looked_out(monkeypatch, here) == []


def test_a_device_that_stands_still_ends_it_too(here: Whereabouts, monkeypatch: pytest.MonkeyPatch) -> None:
    here.do("end", waits=False)
    assert looked_out(monkeypatch, here, device="layer 0 forward of micro-batch 0, dispatch") == [1]
    assert here.position.device == "step 5, layer 0 forward of micro-batch 0, dispatch"


def test_a_rank_whose_parent_is_gone_ends(here: Whereabouts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked_out(monkeypatch, here, parent=os.getppid() + 1) == [1]
    assert here.position.outcome is None
