"""Effort: a budget that is spent, and never negative."""

from __future__ import annotations

from meshwright.planner.effort import Effort


def test_what_is_spent_is_gone() -> None:
    effort = Effort(10.0)
    effort.spend(4.0)
    assert (effort.left, effort.times(2.0), effort.is_spent) == (6.0, 3.0, False)
    effort.spend(7.0)
    assert (effort.left, effort.is_spent) == (0.0, True)


def test_without_a_limit_nothing_is_used_up() -> None:
    effort = Effort()
    effort.spend(1e12)
    assert (effort.times(1.0), effort.is_spent) == (float("inf"), False)


def test_less_than_nothing_is_nothing() -> None:
    assert Effort(-1.0).is_spent
