"""The plot of a study: step time against capacity, the Pareto front and the base model marked."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from meshwright.costmodel.value import Value
from meshwright.planner.codesign.budget import Measure
from meshwright.planner.codesign.describe import MEASURE_WORDS, measure_text, tokens_text
from meshwright.planner.codesign.labels import Label, place_labels
from meshwright.planner.codesign.outcome import Front, ShapeOutcome
from meshwright.planner.codesign.study import CodesignStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

SIZE_INCHES = (9.5, 6.0)
DOTS_PER_INCH = 130
FRONT_COLOUR = "#c44e1c"
MAX_LABELS = 24
"""With more shapes than this, only the front and the base model are named."""

WIDE_RANGE = 5.0
"""Axes that span more than this factor are logarithmic."""

ONE_PROPORTION = 0.01
"""Days are drawn as a second scale where they are in proportion to step time within this."""


class Scales(Value, frozen=True, kw_only=True):
    """The units of the two axes: their words and how much one is in SI."""

    capacity: str
    capacity_unit: float
    step: str
    step_unit_s: float


class Point(Value, frozen=True, kw_only=True):
    """A planned shape where it is drawn."""

    shape: ShapeOutcome
    x: float
    y: float
    mfu_percent: float


def plot_png(study: CodesignStudy) -> bytes:
    """The plot as a PNG image."""
    stream = BytesIO()
    plot(study).savefig(stream, format="png", dpi=DOTS_PER_INCH)
    return stream.getvalue()


def plot(study: CodesignStudy) -> Figure:
    """The plot as a matplotlib figure, which a notebook shows. Empty axes where nothing was planned."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes, scales = figure.add_subplot(), _scales(study)
    points = _points(study, scales)
    axes.set_xlabel(scales.capacity)
    axes.set_ylabel(scales.step)
    axes.set_title(_title(study, len(points)), fontsize="medium")
    axes.grid(visible=True, alpha=0.3)
    if points:
        axes.margins(0.14)
        _draw_shapes(figure, axes, points)
        _draw_front(axes, points)
        _draw_base(axes, points, study.model)
        _use_logarithms(axes, points)
        _draw_days(axes, study, scales)
        axes.legend(loc="best", fontsize="small")
        _draw_labels(canvas, axes, points, tuple(study.vary))
    return figure


def _title(study: CodesignStudy, num_planned: int) -> str:
    held = f"{MEASURE_WORDS[study.budget.measure]} held at {measure_text(study.budget.measure, study.budget.amount)}"
    workload = study.workload
    trained = f"{workload.global_batch:,} x {workload.seq_len:,} tokens a step, {workload.precision.upper()}"
    missing = len(study.shapes) - num_planned
    left_out = f", {missing} more without a plan" if missing else ""
    partial = f"PARTIAL: {study.stopped}. " if study.is_partial else ""
    return (
        f"Shapes of {study.model} on {study.num_gpus:,} GPUs ({study.cluster}), {trained}\n"
        f"{partial}{held} by {study.adjust}: {num_planned} shapes{left_out}"
    )


def _scales(study: CodesignStudy) -> Scales:
    largest = max((shape.amount(study.capacity) or 0.0 for shape in study.shapes), default=0.0)
    longest_s = max((shape.plan.step_time_s for shape in study.shapes if shape.plan), default=0.0)
    unit, prefix = (1e9, "billion") if largest >= 1e9 else (1e6, "million")
    words = MEASURE_WORDS[study.capacity]
    step_unit_s, step = (1.0, "s") if longest_s >= 1.0 else (1e-3, "ms")
    return Scales(
        capacity=f"{words} [{prefix}]" if study.capacity is not Measure.FLOPS else f"{words} [GFLOP]",
        capacity_unit=unit if study.capacity is not Measure.FLOPS else 1e9,
        step=f"step time of the best plan [{step}]",
        step_unit_s=step_unit_s,
    )


def _points(study: CodesignStudy, scales: Scales) -> tuple[Point, ...]:
    return tuple(
        Point(
            shape=shape,
            x=(shape.amount(study.capacity) or 0.0) / scales.capacity_unit,
            y=shape.plan.step_time_s / scales.step_unit_s,
            mfu_percent=shape.plan.mfu * 100,
        )
        for shape in study.shapes
        if shape.plan is not None
    )


def _draw_shapes(figure: Figure, axes: Axes, points: tuple[Point, ...]) -> None:
    drawn = axes.scatter(
        [point.x for point in points],
        [point.y for point in points],
        c=[point.mfu_percent for point in points],
        s=45,
        zorder=3,
        label="shape with its best plan",
    )
    figure.colorbar(drawn, ax=axes, label="MFU [%]", pad=0.02)


def _draw_front(axes: Axes, points: tuple[Point, ...]) -> None:
    """A stair: with at least this much capacity, the fastest shape takes this long."""
    front = sorted((point.x, point.y) for point in points if point.shape.front is Front.ON)
    xs, ys = [x for x, _ in front], [y for _, y in front]
    label = "Pareto front: no shape is at least as large and faster"
    axes.step(xs, ys, where="pre", color=FRONT_COLOUR, linewidth=1.2, zorder=2, label=label)
    axes.scatter(xs, ys, s=130, facecolors="none", edgecolors=FRONT_COLOUR, zorder=4)


def _draw_base(axes: Axes, points: tuple[Point, ...], model: str) -> None:
    for point in points:
        if point.shape.is_base:
            axes.scatter([point.x], [point.y], marker="*", s=260, color="black", zorder=5, label=f"base: {model}")


def _draw_labels(canvas: FigureCanvasAgg, axes: Axes, points: tuple[Point, ...], names: tuple[str, ...]) -> None:
    """What was varied, beside each point: the base model and the front first."""
    first = sorted(points, key=lambda point: (not point.shape.is_base, point.shape.front is not Front.ON))
    labels = [
        Label(x=point.x, y=point.y, text=", ".join(f"{name} {point.shape.sizes[name]}" for name in names))
        for point in first
        if len(points) <= MAX_LABELS or point.shape.is_base or point.shape.front is Front.ON
    ]
    place_labels(canvas, axes, labels, [Label(x=point.x, y=point.y, text="") for point in points])


def _use_logarithms(axes: Axes, points: tuple[Point, ...]) -> None:
    """Wide ranges on logarithmic axes, with plain numbers."""
    if _is_wide([point.x for point in points]):
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    if _is_wide([point.y for point in points]):
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)


def _is_wide(values: list[float]) -> bool:
    return max(values) > WIDE_RANGE * min(values)


def _plain_numbers(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, written out."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def _draw_days(axes: Axes, study: CodesignStudy, scales: Scales) -> None:
    """A second scale in days of training; none where failures take other shares of the time of other shapes."""
    plans = [shape.plan for shape in study.shapes if shape.plan is not None]
    ratios = [plan.days / plan.step_time_s * scales.step_unit_s for plan in plans if plan.days is not None]
    if len(ratios) < len(plans) or max(ratios) > min(ratios) * (1.0 + ONE_PROPORTION):
        return
    days = sum(ratios) / len(ratios)
    scale = axes.secondary_yaxis("right", functions=(lambda y: np.multiply(y, days), lambda y: np.divide(y, days)))
    scale.set_ylabel(f"days to {tokens_text(study.tokens)}")
    if axes.get_yscale() == "log":
        _plain_numbers(scale.yaxis)
