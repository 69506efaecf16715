"""Charts over time: rows of slices, one bar each; the pipeline of a step, and the streams of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from meshwright.costmodel.errors import InputError
from meshwright.planner.figures.png import new_figure
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.report.chart_sections import LAYER_LEGEND, PIPELINE_LEGEND
from meshwright.planner.report.charts import ChartRow, TimeChart
from meshwright.planner.report.layer_charts import layer_charts
from meshwright.planner.report.pipeline_chart import pipeline_chart
from meshwright.planner.simulated_step import simulated_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "forward": "#2f6fb7",
    "backward": "#c25e00",
    "dgrad": "#e58a35",
    "wgrad": "#efbe4e",
    "recompute": "#8660b5",
    "communication": "#1d9584",
    "gather": "#1d9584",
    "reduce": "#b8508c",
    "optimizer": "#596273",
}
WIDTH_INCHES, ROW_INCHES, FRAME_INCHES = 10.0, 0.28, 1.3
ROW_HEIGHT, THIN_HEIGHT = 0.84, 0.4
MIN_LABEL_FRACTION = 0.035
"""Slices shorter than this share of the axis get no text."""


def pipeline_figure(plan: Plan) -> Figure:
    """What each stage of the pipeline does when, over one step."""
    chart = pipeline_chart(simulated_step(configuration_of(plan)))
    schedule = plan.pipeline.schedule.value
    title = f"{plan.model.name}: one step of {schedule} on {plan.mesh.pp} stages, {chart.end_s:.3f} s"
    return time_figure(chart, title, PIPELINE_LEGEND, unit_s=1.0 if chart.end_s >= 1.0 else 1e-3)


def layer_figure(plan: Plan, name: str = "backward") -> Figure:
    """The streams of the plan's most frequent layer in one pass, in program order and as ordered.

    `name`: forward, backward, dgrad, wgrad or joint. Raises `InputError` for a pass that the layer does not have.
    """
    layer = layer_charts(configuration_of(plan))[0]
    passes = {one.name: one for one in layer.passes}
    if name not in passes:
        raise InputError("pass", name, f"is not of this layer; expected one of {', '.join(passes)}")
    one = passes[name]
    title = (
        f"{layer.title}\n{one.title}: {one.before_s * 1e3:.2f} ms in program order, {one.after_s * 1e3:.2f} ms ordered"
    )
    return time_figure(one.chart, title, LAYER_LEGEND, unit_s=1e-3)


def time_figure(chart: TimeChart, title: str, legend: dict[str, str], *, unit_s: float) -> Figure:
    """A chart as a figure; times in `unit_s`, a second or a millisecond. Texts stand where slices are long enough."""
    from matplotlib.patches import Patch

    figure = new_figure(WIDTH_INCHES, FRAME_INCHES + ROW_INCHES * len(chart.rows))
    axes = figure.add_subplot()
    for place, row in enumerate(chart.rows):
        _draw_row(axes, row, place, chart.end_s, unit_s)
    axes.set_yticks(range(len(chart.rows)), _row_labels(chart.rows), fontsize="small")
    axes.set_ylim(len(chart.rows) - 0.4, -0.6)
    axes.set_xlim(0.0, chart.end_s / unit_s)
    axes.set_xlabel(f"time [{'s' if unit_s == 1.0 else 'ms'}]")
    axes.set_title(title, fontsize="medium")
    used = {slice_[2] for row in chart.rows for slice_ in row.slices}
    patches = [Patch(color=COLOURS[name], label=words) for name, words in legend.items() if name in used]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(4, len(patches)), fontsize="small")
    return figure


def _row_labels(rows: Sequence[ChartRow]) -> list[str]:
    """Labels of rows; where rows are in groups, the first of each names it."""
    return list(_labels(rows))


def _labels(rows: Sequence[ChartRow]) -> Iterator[str]:
    group = ""
    for row in rows:
        yield f"{row.group}:  {row.label}" if row.group and row.group != group else row.label
        group = row.group


def _draw_row(axes: Axes, row: ChartRow, place: int, end_s: float, unit_s: float) -> None:
    height = THIN_HEIGHT if row.thin else ROW_HEIGHT
    for colour in dict.fromkeys((slice_[2], slice_[5]) for slice_ in row.slices):
        alike = [slice_ for slice_ in row.slices if (slice_[2], slice_[5]) == colour]
        bars = [(start_s / unit_s, (stop_s - start_s) / unit_s) for start_s, stop_s, *_ in alike]
        axes.broken_barh(
            bars,
            (place - height / 2, height),
            facecolors=COLOURS[colour[0]],
            alpha=colour[1],
            edgecolor="white",
            linewidth=0.3,
        )
    for start_s, stop_s, _, text, _, _ in row.slices:
        if text and stop_s - start_s >= MIN_LABEL_FRACTION * end_s * max(1.0, len(text) / 4):
            middle = (start_s + stop_s) / 2 / unit_s
            axes.text(middle, place, text, ha="center", va="center", fontsize=5.5, color="white", clip_on=True)
