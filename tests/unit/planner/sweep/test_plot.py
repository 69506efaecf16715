from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from meshwright.costmodel.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.planner.sweep import SweepResult, sweep
from meshwright.planner.sweep.curve import draw_bars, draw_curve
from meshwright.planner.sweep.front import draw_front, pareto_front
from meshwright.planner.sweep.heat_map import draw_heat_map
from meshwright.planner.sweep.metrics import METRICS, chosen_metrics, default_metric
from meshwright.planner.sweep.plot import sweep_png

TIME, MEMORY = METRICS["step_time"], METRICS["peak_memory"]


def _words(figure: Figure) -> str:
    """All text of a picture."""
    texts = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label)]
    legends = [axes.get_legend() for axes in figure.axes]
    return "\n".join([*texts, *(text.get_text() for legend in legends if legend for text in legend.get_texts())])


def _places(line: Line2D) -> list[tuple[float, float]]:
    return list(zip(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist(), strict=True))


def test_a_curve_marks_the_plan_and_what_does_not_fit(tiny_plan: Plan) -> None:
    figure = Figure()
    result = sweep(tiny_plan, {"seq_len": [1024, 2048, 2049, 32768, 262144]}, set={"usable_memory_bytes": "8 GB"})
    draw_curve(figure, result, TIME)
    upper, lower = figure.axes
    words = _words(figure)
    for expected in ("seq len", "step time [s]", "[GiB]", "the plan as it is", "memory limit", "contradicts the plan"):
        assert expected in words
    assert "does not fit" in words
    star = next(line for line in upper.lines if line.get_marker() == "*")
    assert _places(star) == [(2048, tiny_plan.prediction.step_time_s)]
    curve = next(line for line in upper.lines if line.get_label() == "plan held")
    assert [x for x, _ in _places(curve)] == [1024, 2048, 32768, 262144]
    limit = next(line for line in lower.lines if line.get_label() == "memory limit")
    assert {y for _, y in _places(limit)} == {row.held.memory_limit_bytes / 2**30 for row in result.rows if row.held}


def test_units_are_those_that_people_use(tiny_plan: Plan) -> None:
    figure = Figure()
    draw_curve(figure, sweep(tiny_plan, {"nvlink_bytes_per_s": [3e11, 6e11]}), TIME)
    assert "nvlink [GB/s]" in _words(figure)
    assert [x for x, _ in _places(figure.axes[0].lines[0])] == [300.0, 600.0]


def test_bars_for_words(tiny_plan: Plan) -> None:
    figure = Figure()
    draw_bars(figure, sweep(tiny_plan, {"recompute": ["none", "sar", "full"], "top_k": [2]}), TIME)
    (axes,) = figure.axes
    assert len(axes.patches) == 3
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "sar", "full"]
    assert "the plan as it is (none, full)" in _words(figure)


def test_a_heat_map_has_a_figure_in_each_cell(tiny_plan: Plan) -> None:
    figure = Figure()
    result = sweep(tiny_plan, {"top_k": [1, 2, 9], "nvlink_bytes_per_s": [3e11, 4.5e11]})
    draw_heat_map(figure, result, TIME)
    words = _words(figure)
    assert f"{tiny_plan.prediction.step_time_s:.3g}" in words
    assert "contradicts the plan" in words
    assert "the plan as it is (2, 450 GB/s)" in words
    assert "450 GB/s" in [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_the_front_has_what_nothing_betters_in_both(tiny_plan: Plan) -> None:
    result = sweep(tiny_plan, {"recompute": ["none", "sar", "full"], "micro_batch_size": [1, 2, 4]})
    front = pareto_front(result, MEMORY, TIME)
    fitting = [row for row in result.rows if row.outcome and row.outcome.fits]

    def bettered(row: object) -> bool:
        own = row.outcome  # type: ignore[attr-defined]
        return any(
            other.outcome.step_time_s <= own.step_time_s
            and other.outcome.peak_memory_bytes <= own.peak_memory_bytes
            and other.outcome != own
            for other in fitting
            if other.outcome
        )

    assert {row.index for row in front} == {row.index for row in fitting if not bettered(row)}
    assert 1 < len(front) < len(fitting)
    figure = Figure()
    draw_front(figure, result, MEMORY, TIME)
    assert "Pareto front" in _words(figure)


@pytest.mark.parametrize(
    ("values", "metrics"),
    [
        ({"top_k": [1, 2]}, ()),
        ({"recompute": ["none", "full"]}, ("mfu",)),
        ({"top_k": [1, 2], "recompute": ["none", "full"]}, ()),
        ({"top_k": [1, 2], "recompute": ["none", "full"], "seq_len": [2048, 4096]}, ()),
        ({"top_k": [1, 2]}, ("tokens_per_s", "peak_memory")),
        ({"top_k": [9]}, ()),
        ({"top_k": [9], "recompute": ["full"]}, ()),
        ({"top_k": [9]}, ("step_time", "peak_memory")),
        ({"mean_time_between_failures_s": [1e8, 1e9]}, ("effective",)),
    ],
)
def test_every_sweep_can_be_drawn(tiny_plan: Plan, values: dict[str, object], metrics: tuple[str, ...]) -> None:
    image = sweep_png(sweep(tiny_plan, values), metrics)
    assert image.startswith(b"\x89PNG")
    assert len(BytesIO(image).getvalue()) > 10_000


def _with(tiny_plan: Plan, **values: object) -> SweepResult:
    return sweep(tiny_plan, values)


def test_points_that_do_different_work_are_compared_by_throughput(tiny_plan: Plan) -> None:
    assert default_metric(_with(tiny_plan, recompute=["full"])).name == "step_time"
    assert default_metric(_with(tiny_plan, seq_len=[4096])).name == "tokens_per_s"
    assert default_metric(_with(tiny_plan, num_experts=[16])).name == "tokens_per_s"
    assert default_metric(_with(tiny_plan, restart_s=[60])).name == "effective"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("steptime",), "steptime: unknown; did you mean step_time?"),
        (("x",), "x: unknown; expected one of step_time, "),
        (("mfu", "cost", "days"), "3 metrics; a picture shows one, or one against another"),
    ],
)
def test_an_unknown_metric_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen_metrics(names)


def test_a_picture_is_the_same_twice(tiny_plan: Plan, tmp_path: Path) -> None:
    result = sweep(tiny_plan, {"top_k": [1, 2]})
    (tmp_path / "one.png").write_bytes(sweep_png(result))
    assert (tmp_path / "one.png").read_bytes() == sweep_png(result)
