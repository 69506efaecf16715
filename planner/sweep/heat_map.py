"""The picture over two keys: a metric in colours, each cell with its figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meshwright.planner.sweep.curve import FAILED_COLOUR, PLAN_COLOUR
from meshwright.planner.sweep.metrics import Metric
from meshwright.planner.sweep.result import SweepResult
from meshwright.planner.sweep.scale import distinct, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = list[int | float | str | bool]
MAX_ANNOTATED = 200
MAX_TICKS = 24
MAX_WORDS = 40


def draw_heat_map(figure: Figure, result: SweepResult, metric: Metric) -> None:
    """The first key upwards, the second to the right; what does not fit is hatched, what has no figure is bare."""
    axes = figure.subplots()
    up, right = distinct(result, 0), distinct(result, 1)
    colours = np.full((len(up), len(right)), np.nan)
    for row in result.rows:
        if row.outcome is not None and (value := metric.of(row.outcome)) is not None:
            colours[up.index(row.values[0]), right.index(row.values[1])] = value
    image = axes.imshow(
        colours, origin="lower", aspect="auto", cmap="viridis_r" if metric.less_is_better else "viridis"
    )
    figure.colorbar(image, ax=axes, label=metric.label)
    _annotate(axes, result, metric, (up, right), colours)
    _mark_plan(axes, result, metric, (up, right))
    _ticks(axes, result, up, right)
    axes.set_ylabel(result.keys[0])
    axes.set_xlabel(result.keys[1])


def _annotate(
    axes: Axes, result: SweepResult, metric: Metric, values: tuple[Values, Values], colours: np.ndarray
) -> None:
    from matplotlib.patches import Rectangle

    up, right = values
    low, high = (np.nanmin(colours), np.nanmax(colours)) if np.isfinite(colours).any() else (0.0, 1.0)
    dark_is_high = metric.less_is_better
    for row in result.rows:
        y, x = up.index(row.values[0]), right.index(row.values[1])
        if row.outcome is None:
            axes.plot([x], [y], marker="x", color=FAILED_COLOUR, markersize=9)
            continue
        if not row.outcome.fits:
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="//", edgecolor="white", linewidth=0))
        value = metric.of(row.outcome)
        if value is None or len(result.rows) > MAX_ANNOTATED:
            continue
        share = (value - low) / (high - low) if high > low else 0.0
        is_dark = share > 0.5 if dark_is_high else share < 0.5
        note = f"{value:.{metric.digits}g}" + ("" if row.outcome.fits else "\nno fit")
        axes.text(x, y, note, ha="center", va="center", fontsize=8, color="white" if is_dark else "black")


def _mark_plan(axes: Axes, result: SweepResult, metric: Metric, values: tuple[Values, Values]) -> None:
    """A frame around the cell of the plan's own values (where there is one), and what the signs mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    up, right = values
    own = ", ".join(words(result, place, value) for place, value in enumerate(result.plan_values))
    figure = metric.of(result.planned)
    label = f"the plan as it is ({own})" + ("" if figure is None else f": {figure:.{metric.digits}g}")
    if len(own) > MAX_WORDS:
        label = "the plan as it is" + ("" if figure is None else f": {figure:.{metric.digits}g}")
    signs: list[Line2D | Patch] = [Patch(fill=False, edgecolor="none", label=label)]
    if result.plan_values[0] in up and result.plan_values[1] in right:
        place = right.index(result.plan_values[1]) - 0.5, up.index(result.plan_values[0]) - 0.5
        axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=PLAN_COLOUR, linewidth=3, zorder=4))
        signs[0] = Patch(fill=False, edgecolor=PLAN_COLOUR, linewidth=2, label=label)
    if any(row.outcome is None for row in result.rows):
        label = "no plan" if result.replanned else "contradicts the plan"
        signs.append(Line2D([], [], marker="x", color=FAILED_COLOUR, linestyle="none", label=label))
    if any(row.outcome is not None and not row.outcome.fits for row in result.rows):
        signs.append(Patch(facecolor="0.6", hatch="//", edgecolor="white", label="does not fit in memory"))
    axes.legend(handles=signs, loc="upper center", bbox_to_anchor=(0.5, 1.09), ncols=3, fontsize="small")


def _ticks(axes: Axes, result: SweepResult, up: Values, right: Values) -> None:
    for place, values, tick in ((0, up, axes.set_yticks), (1, right, axes.set_xticks)):
        step = -(-len(values) // MAX_TICKS)
        shown = range(0, len(values), step)
        names = [words(result, place, values[number]) for number in shown]
        crowded = place == 1 and sum(map(len, names)) > 60
        tick(list(shown), names, rotation=40 if crowded else 0)
