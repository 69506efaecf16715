"""One metric against another: every point, and the front of those that no other betters in both."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meshwright.planner.sweep.curve import LINE_COLOUR, draw_star
from meshwright.planner.sweep.metrics import Metric
from meshwright.planner.sweep.result import SweepResult
from meshwright.planner.sweep.row import SweepRow
from meshwright.planner.sweep.scale import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NAMED = 12


def draw_front(figure: Figure, result: SweepResult, first: Metric, second: Metric) -> None:
    """Points that fit, points that do not (hollow), the front as a line with names, and the plan."""
    axes = figure.subplots()
    points = _points(result, first, second)
    for fits, face, label in ((True, LINE_COLOUR, "fits"), (False, "white", "does not fit")):
        some = [point for point in points if point.fits is fits]
        if some:
            xs, ys = [point.x for point in some], [point.y for point in some]
            axes.plot(xs, ys, "o", color=LINE_COLOUR, markerfacecolor=face, markersize=5, alpha=0.7, label=label)
    front = _front(points, first, second)
    axes.plot([p.x for p in front], [p.y for p in front], color="black", linewidth=1, label="Pareto front")
    for point in front[:: -(-len(front) // MAX_NAMED) or 1]:
        place = (point.x, point.y)
        axes.annotate(_name(result, point.row), place, textcoords="offset points", xytext=(6, 4), fontsize=7)
    draw_star(axes, first.of(result.planned), second.of(result.planned))
    axes.set_xlabel(first.label)
    axes.set_ylabel(second.label)
    axes.grid(visible=True, color="0.9")
    axes.margins(0.12)
    axes.legend(fontsize="small")


def pareto_front(result: SweepResult, first: Metric, second: Metric) -> tuple[SweepRow, ...]:
    """The rows that fit and that no other that fits betters in one metric without losing in the other; by the first."""
    return tuple(point.row for point in _front(_points(result, first, second), first, second))


class _Point(NamedTuple):
    row: SweepRow
    x: float
    y: float
    fits: bool


def _points(result: SweepResult, first: Metric, second: Metric) -> list[_Point]:
    """The rows that have both figures."""
    points = []
    for row in result.rows:
        if row.outcome is not None:
            x, y = first.of(row.outcome), second.of(row.outcome)
            if x is not None and y is not None:
                points.append(_Point(row, x, y, row.outcome.fits))
    return points


def _front(points: list[_Point], first: Metric, second: Metric) -> list[_Point]:
    sign_x, sign_y = (1.0 if metric.less_is_better else -1.0 for metric in (first, second))
    front: list[_Point] = []
    for point in sorted(points, key=lambda point: (sign_x * point.x, sign_y * point.y)):
        if point.fits and (not front or sign_y * point.y < sign_y * front[-1].y):
            front.append(point)
    return front


def _name(result: SweepResult, row: SweepRow) -> str:
    return ", ".join(words(result, place, value) for place, value in enumerate(row.values))
