from __future__ import annotations

import pytest

from meshwright.planner.validation.peers import OURS, TOOLS, PeerCase
from meshwright.planner.validation.ranking import PACKAGED, PLANS, plan_rankings, rank
from meshwright.planner.validation.rows import packaged_path, parse_row, read_table
from meshwright.planner.validation.statistics import ranks, spearman


def test_rank_correlation_and_what_the_pick_loses() -> None:
    found = rank("x", [("a", 1.0, 3.0), ("b", 2.0, 2.0), ("c", 4.0, 9.0)])
    assert (found.picked, found.best, found.regret) == ("b", "a", 1.0)
    assert found.spearman == pytest.approx(0.5)


def test_ties_share_their_rank() -> None:
    assert ranks([5.0, 1.0, 5.0]) == [2.5, 1.0, 2.5]
    assert spearman([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_a_tool_that_describes_one_plan_is_not_ranked() -> None:
    tools = dict.fromkeys((OURS, *TOOLS))
    cases = [
        PeerCase(case=f"{PLANS} {name}", kind="moe", measured_step_time_s=time, errors={**tools, OURS: 0.1})
        for name, time in (("one", 10.0), ("two", 20.0))
    ]
    assert set(plan_rankings(cases)) == {OURS}
    assert plan_rankings(cases)[OURS].spearman == pytest.approx(1.0)


def test_the_a100_rows_are_complete() -> None:
    rows = [parse_row(text) for text in read_table(packaged_path(PACKAGED))]
    assert len(rows) == 109
    assert {row.framework for row in rows} == {"megatron-deepspeed"}
    assert len({row.model for row in rows}) == 4
