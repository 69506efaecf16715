from __future__ import annotations

from meshwright.planner.plan import Plan
from meshwright.planner.sweep import sweep
from meshwright.planner.sweep.describe import MAX_SHOWN, SHOWN_OF_MANY, describe_sweep


def test_the_plan_comes_first_and_every_row_has_a_cell_for_each_column(tiny_plan: Plan) -> None:
    for values, replan in (({"top_k": [1, 9]}, False), ({"restart_s": [1, 2]}, False), ({"top_k": [1, 9]}, True)):
        (section,) = describe_sweep(sweep(tiny_plan, values, replan=replan))
        assert section.rows[0][0] == "the plan"
        assert {len(row) for row in section.rows} == {len(section.columns)}


def test_values_have_their_units(tiny_plan: Plan) -> None:
    (section,) = describe_sweep(sweep(tiny_plan, {"nvlink_bytes_per_s": [3e11]}, set={"gpu": "h200"}))
    assert section.columns[1] == "nvlink"
    assert [row[1] for row in section.rows] == ["450 GB/s", "300 GB/s"]
    assert section.notes == ("set at every point: cluster.gpu=h200",)


def test_the_goal_of_a_run_is_said(tiny_plan: Plan) -> None:
    (section,) = describe_sweep(sweep(tiny_plan, {"restart_s": ["1 min"]}, set={"tokens": 15e12}))
    assert section.rows[1][1] == "60 s"
    assert section.notes[-1] == "days and cost are for 1.5e+13 tokens, in closed form"


def test_of_very_many_rows_the_best_are_shown(tiny_plan: Plan) -> None:
    result = sweep(tiny_plan, {"nvlink_latency_s": [1e-6 + 1e-9 * number for number in range(MAX_SHOWN + 1)]})
    (section,) = describe_sweep(result)
    assert len(section.rows) == 1 + SHOWN_OF_MANY
    fastest = min(row.held.step_time_s for row in result.rows if row.held)
    assert f"{fastest * 1e3:.2f} ms" in section.rows[1]
    assert section.notes[0].startswith("shown of 401 points: the 50 that train most tokens a second and fit")
