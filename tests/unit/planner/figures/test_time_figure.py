from __future__ import annotations

import pytest
from matplotlib.collections import PolyCollection

from meshwright.costmodel.errors import InputError
from meshwright.planner.figures import layer_figure, pipeline_figure, png
from meshwright.planner.figures.time_figure import COLOURS, time_figure
from meshwright.planner.plan import Plan
from meshwright.planner.report.charts import ChartRow, TimeChart

CHART = TimeChart(
    end_s=4.0,
    rows=(
        ChartRow(label="stage 0", slices=((0.0, 1.0, "forward", "F0", 0, 1.0), (2.0, 4.0, "backward", "B0", 0, 1.0))),
        ChartRow(label="data-parallel", slices=((3.5, 4.0, "reduce", "", 0, 1.0),), thin=True),
    ),
    texts=("",),
)


def test_bars_lie_where_the_slices_are() -> None:
    figure = time_figure(CHART, "a step", {"forward": "F", "backward": "B", "optimizer": "O"}, unit_s=1.0)
    (axes,) = figure.axes
    bars = [bar for bar in axes.collections if isinstance(bar, PolyCollection)]
    boxes = [path.get_extents() for bar in bars for path in bar.get_paths()]
    assert [(box.x0, box.x1) for box in boxes] == [(0.0, 1.0), (2.0, 4.0), (3.5, 4.0)]
    assert axes.get_xlim() == (0.0, 4.0)
    assert axes.get_xlabel() == "time [s]"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stage 0", "data-parallel"]
    assert [text.get_text() for text in axes.texts] == ["F0", "B0"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["F", "B"]  # of what occurs


def test_the_pipeline_of_a_plan(tiny_plan: Plan) -> None:
    figure = pipeline_figure(tiny_plan)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "time [ms]"
    assert axes.get_xlim()[1] == pytest.approx(tiny_plan.prediction.step_time_s * 1e3)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label for label in labels if label.startswith("stage")] == ["stage 0", "stage 1"]
    assert png(figure).startswith(b"\x89PNG")


def test_the_streams_of_a_layer_before_and_after(tiny_plan: Plan) -> None:
    (axes,) = layer_figure(tiny_plan, "forward").axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "program order, nothing overlapped:  compute"
    assert "the plan's order:  compute" in labels
    with pytest.raises(InputError, match="pass: sideways: is not of this layer; expected one of forward"):
        layer_figure(tiny_plan, "sideways")


def test_every_kind_of_slice_has_a_colour() -> None:
    from meshwright.planner.report.chart_sections import LAYER_LEGEND, PIPELINE_LEGEND

    assert COLOURS.keys() == PIPELINE_LEGEND.keys() | LAYER_LEGEND.keys()
