from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import meshwright
from meshwright.costmodel.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan
from meshwright.planner.sweep import run, sweep
from meshwright.planner.sweep.row import SweepRow
from meshwright.planner.sweep.worker import forget

GRID = {"network_bytes_per_s": ["100 Gbit/s", "400 Gbit/s", "1x"], "top_k": [1, 2, 9], "recompute": ["none", "full"]}


def test_rows_do_not_depend_on_the_number_of_workers(tiny_plan: Plan) -> None:
    alone, together = sweep(tiny_plan, GRID, workers=1), sweep(tiny_plan, GRID, workers=2)
    assert alone == together
    assert alone.complete
    assert [row.index for row in alone.rows] == list(range(18))
    assert sum(row.held is None for row in alone.rows) == 6


def test_rows_do_not_depend_on_what_is_remembered(tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sweep(tiny_plan, GRID)
    forget()
    monkeypatch.setattr("meshwright.planner.sweep.worker.FORGET_AFTER", 4)
    assert sweep(tiny_plan, GRID) == before


def test_a_plan_can_be_given_by_its_path(tiny_plan: Plan, tmp_path: Path) -> None:
    write_plan(tiny_plan, tmp_path / "plan.json")
    values = {"ep": [4]}
    assert meshwright.sweep(str(tmp_path / "plan.json"), values) == sweep(tiny_plan, values)


def test_what_is_set_holds_at_every_point(tiny_plan: Plan) -> None:
    result = sweep(tiny_plan, {"seq_len": [2048, 4096]}, set={"gpu": "h200", "nvlink_bytes_per_s": 9e11})
    assert result.changes == (("cluster.gpu", "h200"), ("cluster.nvlink_bytes_per_s", "900000000000.0"))
    assert all(row.held and row.held.step_time_s < result.planned.step_time_s for row in result.rows[:1])


def test_progress_is_told(tiny_plan: Plan) -> None:
    told: list[tuple[int, int]] = []
    sweep(tiny_plan, {"top_k": [1, 2, 4]}, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("problem", "stopped"), [(KeyboardInterrupt(), run.INTERRUPTED), (BrokenProcessPool(), run.WORKER_DIED)]
)
def test_what_is_finished_is_kept(
    tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch, problem: BaseException, stopped: str
) -> None:
    whole = sweep(tiny_plan, {"top_k": [1, 2, 4]})

    def some(*_: object) -> Iterator[list[SweepRow]]:
        yield [whole.rows[2]]
        yield [whole.rows[0]]
        raise problem

    monkeypatch.setattr(run, "_in_processes", some)
    partial = sweep(tiny_plan, {"top_k": [1, 2, 4]}, workers=2)
    assert partial.rows == (whole.rows[0], whole.rows[2])
    assert (partial.complete, partial.num_points, partial.stopped) == (False, 3, stopped)


def test_replanning_finds_a_plan_at_every_point_and_never_one_slower_than_the_held(tiny_plan: Plan) -> None:
    result = sweep(tiny_plan, {"nvlink_bytes_per_s": ["1x", "0.25x"], "top_k": [2, 9]}, replan=True)
    for row in result.rows:
        if row.values[1] == 9:
            assert (row.held, row.best) == (None, None)
            assert row.reason == "9 is more than num_experts 8"
            continue
        assert row.held is not None
        assert row.best is not None
        assert row.best.step_time_s <= row.held.step_time_s
        assert row.gap is not None
        assert 0 <= row.gap < 0.05
    assert result == sweep(tiny_plan, {"nvlink_bytes_per_s": ["1x", "0.25x"], "top_k": [2, 9]}, replan=True)


def test_swept_choices_are_pinned_in_the_searches(tiny_plan: Plan) -> None:
    result = sweep(tiny_plan, {"pp": [1, 2, 3]}, replan=True, fix=("ep=2",))
    meshes = [row.best.mesh if row.best else "" for row in result.rows]
    assert "pp" not in meshes[0]
    assert meshes[1].startswith("pp2 ")
    assert all("ep2" in mesh.split() for mesh in meshes[:2])
    assert result.rows[2].best is None
    assert "product 3 does not divide 8 GPUs" in result.rows[2].reason


def test_a_point_where_nothing_fits_keeps_its_reason(tiny_plan: Plan) -> None:
    (row,) = sweep(tiny_plan, {"num_experts": [64]}, set={"usable_memory_bytes": "2.2 GB"}, replan=True).rows
    assert row.held is not None
    assert not row.held.fits
    assert row.best is None
    assert row.reason.startswith("no plan fits: ")
    assert "over the limit of" in row.reason


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fix": ("tp=2",)}, "--fix: pins choices of a search; it needs --replan"),
        ({"fix": ("tp=x",), "replan": True}, "--fix: tp: 'x' is not a positive whole number"),
        ({"workers": 0}, "--workers: 0 is not a positive whole number"),
        ({"set": {"top_k": 1}}, "--sweep: model.top_k: is set as well"),
    ],
)
def test_what_contradicts_itself_is_refused(tiny_plan: Plan, fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(tiny_plan, {"top_k": [1, 2]}, **fields)  # type: ignore[arg-type]


def test_too_many_points_are_refused_before_anything_is_computed(tiny_plan: Plan) -> None:
    with pytest.raises(InputError, match="100,000 points"):
        sweep(tiny_plan, {"seq_len": "1..100000"})
