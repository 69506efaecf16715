from __future__ import annotations

import pytest

from meshwright.planner.plan import Plan
from meshwright.planner.sweep.axes import parse_axes
from meshwright.planner.sweep.evaluate import Evaluator, Job
from meshwright.planner.what_if import what_if


def _job(plan: Plan, *texts: str, **fields: object) -> Job:
    return Job(plan=plan, grid=parse_axes(texts), **fields)  # type: ignore[arg-type]


def test_a_point_is_the_what_if_of_its_values(tiny_plan: Plan) -> None:
    row = Evaluator(_job(tiny_plan, "seq_len=2048,4096", fixed=(("cluster.gpu", "h200"),))).row(1)
    alone = what_if(tiny_plan, ("gpu=h200", "seq_len=4096")).prediction
    assert row.values == (4096,)
    assert row.held is not None
    assert row.held.step_time_s == alone.step_time_s
    assert row.held.peak_memory_bytes == max(alone.peak_memory_bytes)
    assert (row.held.tokens_per_s, row.held.mfu, row.reason) == (alone.tokens_per_s, alone.mfu, "")


def test_the_plan_s_own_values_give_the_plan(tiny_plan: Plan) -> None:
    evaluator = Evaluator(_job(tiny_plan, "seq_len=2048", "mesh.ep=4", "runtime.cuda_graphs=off"))
    assert evaluator.row(0).held == evaluator.plan_outcome()
    assert evaluator.row(0).values == evaluator.plan_values() == (2048, 4, False)
    assert evaluator.plan_outcome().step_time_s == tiny_plan.prediction.step_time_s


def test_a_point_that_contradicts_the_plan_keeps_its_values_and_has_a_reason(tiny_plan: Plan) -> None:
    row = Evaluator(_job(tiny_plan, "top_k=9", "nvlink_bytes_per_s=2x", "usable_memory_bytes=9 TB")).row(0)
    assert (row.values, row.held, row.outcome) == ((9, 900e9, 9e12), None, None)
    assert row.reason == "is more than gpu.memory_bytes"


def test_a_point_that_does_not_fit_has_figures_and_a_reason(tiny_plan: Plan) -> None:
    row = Evaluator(_job(tiny_plan, "usable_memory_bytes=2 GiB")).row(0)
    assert row.held is not None
    assert not row.held.fits
    assert row.reason.startswith(f"stage {row.held.fullest_stage} is ")
    assert row.reason.endswith(" over the memory limit")


def test_the_price_of_a_trillion_tokens(tiny_plan: Plan) -> None:
    row = Evaluator(_job(tiny_plan, "price_per_gpu_hour=2", "seq_len=2048")).row(0)
    assert row.held is not None
    hours = 1e12 / tiny_plan.prediction.tokens_per_s / 3600
    assert row.held.cost_per_trillion_tokens == pytest.approx(8 * hours * 2)
    assert Evaluator(_job(tiny_plan, "seq_len=2048")).plan_outcome().cost_per_trillion_tokens is None


def test_failures_show_in_the_whole_run(tiny_plan: Plan) -> None:
    evaluator = Evaluator(_job(tiny_plan, "mean_time_between_failures_s=1000 h,100000 h", "tokens=1e12"))
    often, seldom = (evaluator.row(index).held for index in (0, 1))
    assert often is not None
    assert seldom is not None
    assert often.run is not None
    assert seldom.run is not None
    assert often.run.effective_fraction < seldom.run.effective_fraction < 1
    assert often.step_time_s == seldom.step_time_s
    assert Evaluator(_job(tiny_plan, "seq_len=2048")).row(0).held == Evaluator(_job(tiny_plan, "top_k=2")).row(0).held


def test_the_plan_is_compared_for_the_same_goal(tiny_plan: Plan) -> None:
    goal = (("run.tokens", "15e12"), ("cluster.price_per_gpu_hour", "2"))
    evaluator = Evaluator(_job(tiny_plan, "mean_time_between_failures_s=1x,0.1x", fixed=goal))
    own, same = evaluator.plan_outcome(), evaluator.row(0).held
    assert own == same
    assert own.run is not None
    assert own.run.tokens == 15e12
    assert own.step_time_s == tiny_plan.prediction.step_time_s
