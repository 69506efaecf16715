"""Pictures over one key: a curve of a metric with peak memory below it, or bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshwright.planner.sweep.metrics import GIB, METRICS, Metric
from meshwright.planner.sweep.result import SweepResult
from meshwright.planner.sweep.row import Outcome, SweepRow
from meshwright.planner.sweep.scale import Scale, scale_of, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLAN_COLOUR, LINE_COLOUR, HELD_COLOUR, LIMIT_COLOUR, FAILED_COLOUR = "#d62728", "#1f77b4", "#7f7f7f", "black", "#b03030"


def draw_star(axes: Axes, x: float | None, y: float | None) -> None:
    """The plan as it is, where both figures are known."""
    if x is not None and y is not None:
        label = "the plan as it is"
        axes.plot([x], [y], marker="*", markersize=15, color=PLAN_COLOUR, linestyle="none", zorder=5, label=label)


def draw_curve(figure: Figure, result: SweepResult, metric: Metric) -> None:
    """The metric over the key, and under it the peak memory against its limit."""
    scale = scale_of(result, 0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_metric(upper, result, scale, metric)
    _draw_metric(lower, result, scale, METRICS["peak_memory"])
    _draw_limit(lower, result, scale)
    lower.set_xlabel(scale.label)
    if scale.is_wide:
        lower.set_xscale("log")
    _mark_failed(upper, result, scale)
    upper.legend(fontsize="small")
    lower.legend(fontsize="small")


def _draw_metric(axes: Axes, result: SweepResult, scale: Scale, metric: Metric) -> None:
    name = "best plan" if result.replanned else "plan held"
    rows = sorted(result.rows, key=lambda row: scale.of(row.values[0]))
    if result.replanned:
        held = [(row, row.held) for row in rows if row.held is not None]
        _line(axes, held, scale, metric, ("this plan held", HELD_COLOUR))
    _line(axes, [(row, row.outcome) for row in rows if row.outcome], scale, metric, (name, LINE_COLOUR))
    if not isinstance(result.plan_values[0], str):
        draw_star(axes, scale.of(result.plan_values[0]), metric.of(result.planned))
    axes.set_ylabel(metric.label.replace(" of the fullest stage", ""))
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)


def _line(
    axes: Axes,
    points: Sequence[tuple[SweepRow, Outcome | None]],
    scale: Scale,
    metric: Metric,
    style: tuple[str, str],
) -> None:
    """A line; points that do not fit are hollow."""
    name, colour = style
    known = [
        (scale.of(row.values[0]), value, found.fits)
        for row, found in points
        if found is not None and (value := metric.of(found)) is not None
    ]
    axes.plot([x for x, _, _ in known], [y for _, y, _ in known], color=colour, label=name, zorder=2)
    for fits, face, label in ((True, colour, None), (False, "white", f"{name}: does not fit")):
        some = [(x, y) for x, y, fit in known if fit is fits]
        if some:
            axes.plot(
                [x for x, _ in some],
                [y for _, y in some],
                marker="o",
                linestyle="none",
                color=colour,
                markerfacecolor=face,
                label=label,
                zorder=3,
            )


def _draw_limit(axes: Axes, result: SweepResult, scale: Scale) -> None:
    """The memory limit, which another GPU or another size of memory moves."""
    rows = sorted((row for row in result.rows if row.outcome), key=lambda row: scale.of(row.values[0]))
    limits = [(scale.of(row.values[0]), row.outcome.memory_limit_bytes / GIB) for row in rows if row.outcome]
    if limits:
        axes.plot(
            [x for x, _ in limits],
            [y for _, y in limits],
            color=LIMIT_COLOUR,
            linestyle="--",
            label="memory limit",
            zorder=4,
        )
    axes.set_ylim(bottom=0, top=1.15 * axes.dataLim.y1)


def _mark_failed(axes: Axes, result: SweepResult, scale: Scale) -> None:
    """Points without a figure, at the foot of the picture."""
    failed = [scale.of(row.values[0]) for row in result.rows if row.outcome is None]
    if failed:
        label = "no plan" if result.replanned else "contradicts the plan"
        foot = [0.03] * len(failed)
        axes.plot(
            failed,
            foot,
            marker="x",
            linestyle="none",
            color=FAILED_COLOUR,
            transform=axes.get_xaxis_transform(),
            label=label,
        )


def draw_bars(figure: Figure, result: SweepResult, metric: Metric) -> None:
    """A bar for each value, with its figure, and a line where the plan is."""
    axes = figure.subplots()
    names = [words(result, 0, row.values[0]) for row in result.rows]
    values = [metric.of(row.outcome) if row.outcome else None for row in result.rows]
    for place, (row, value) in enumerate(zip(result.rows, values, strict=True)):
        fits = row.outcome is not None and row.outcome.fits
        if value is None:
            label = "no plan" if result.replanned else "contradicts\nthe plan"
            axes.text(place, 0.0, label, ha="center", va="bottom", color=FAILED_COLOUR, fontsize="small")
            continue
        face = LINE_COLOUR if fits else "white"
        axes.bar(place, value, color=face, edgecolor=LINE_COLOUR, hatch=None if fits else "//", width=0.7)
        note = f"{value:.{metric.digits}g}" + ("" if fits else "\ndoes not fit")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
        axes.text(place, 0.97 * value, note, ha="center", va="top", fontsize="small", bbox=box)
    own = metric.of(result.planned)
    if own is not None:
        label = f"the plan as it is ({words(result, 0, result.plan_values[0])}): {own:.{metric.digits}g}"
        axes.axhline(own, color=PLAN_COLOUR, linestyle="--", label=label)
    axes.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) * len(names) > 70 else 0)
    axes.set_ylabel(metric.label)
    axes.set_xlabel(result.keys[0])
    axes.margins(y=0.15)
    axes.legend(fontsize="small")
