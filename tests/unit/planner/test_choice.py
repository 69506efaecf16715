from __future__ import annotations

import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.choice import Choice, EndCost, pareto_choices


def choice(key: str, **changes: float) -> Choice:
    numbers = {"forward_s": 1.0, "backward_s": 2.0, "dgrad_s": 1.0, "wgrad_s": 1.0, "kept_bytes": 5.0} | changes
    return Choice(key=key, **numbers)


def keys(choices: tuple[Choice, ...], kind: ScheduleKind) -> list[object]:
    return [kept.key for kept in pareto_choices(choices, kind)]


def test_keeps_what_is_better_in_something() -> None:
    lean = choice("lean", backward_s=3.0, kept_bytes=1.0)
    worse = choice("worse", optimizer_s=0.1)
    assert keys((worse, choice("fast"), lean, choice("twin")), ScheduleKind.ONE_F_ONE_B) == ["fast", "lean"]


def test_a_schedule_compares_the_backward_that_it_runs() -> None:
    joined, apart = choice("joined", dgrad_s=1.5), choice("apart", backward_s=2.5)
    assert keys((joined, apart), ScheduleKind.ONE_F_ONE_B) == ["joined"]
    assert keys((joined, apart), ScheduleKind.ZB_H1) == ["apart"]


def test_where_passes_overlap_it_is_better_to_save_more() -> None:
    saves_more = choice("saves more", overlap_saving_s=0.5)
    assert keys((choice("plain"), saves_more), ScheduleKind.ZB_V) == ["plain"]
    assert keys((choice("plain"), saves_more), ScheduleKind.DUALPIPE_V) == ["saves more"]
    slower = choice("slower", forward_s=1.5, overlap_saving_s=1.0)
    assert keys((choice("plain"), slower), ScheduleKind.DUALPIPE_V) == ["plain", "slower"]


@pytest.mark.parametrize(
    ("field", "value"), [("forward_s", -1.0), ("kept_bytes", float("nan")), ("overlap_saving_s", 1.5)]
)
def test_refuses_absurd_numbers(field: str, value: float) -> None:
    with pytest.raises(StrategyError, match=field):
        choice("absurd", **{field: value})


def test_ends_are_checked_too() -> None:
    with pytest.raises(StrategyError, match="grad_reduce_s"):
        EndCost(grad_reduce_s=-1.0)
