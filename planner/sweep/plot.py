"""The picture of a sweep: curves over one key of numbers, bars over one of words, a heat map over two, else a front.

What does not fit is drawn hollow, what has no figure at all is marked where it would be; the plan itself is a star.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from meshwright.planner.sweep.curve import draw_bars, draw_curve
from meshwright.planner.sweep.front import draw_front
from meshwright.planner.sweep.heat_map import draw_heat_map
from meshwright.planner.sweep.metrics import METRICS, Metric, chosen_metrics, default_metric
from meshwright.planner.sweep.result import SweepResult
from meshwright.planner.sweep.scale import is_numeric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
WIDTH_INCHES, HEIGHT_INCHES = 8.0, 6.0
TITLE_WORDS = 100


def sweep_png(result: SweepResult, metrics: tuple[str, ...] = ()) -> bytes:
    """The picture as PNG. Two metrics, or more than two keys: one against the other; else by the kind of the keys."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure, result, chosen_metrics(metrics))
    figure.suptitle(_title(result), fontsize="medium")
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)
    return stream.getvalue()


def _draw(figure: Figure, result: SweepResult, metrics: tuple[Metric, ...]) -> None:
    metric = metrics[0] if metrics else default_metric(result)
    if len(metrics) > 1:
        draw_front(figure, result, metrics[0], metrics[1])
    elif len(result.keys) > 2:
        draw_front(figure, result, METRICS["peak_memory"], metric)
    elif len(result.keys) == 2:
        draw_heat_map(figure, result, metric)
    elif is_numeric(result, 0):
        draw_curve(figure, result, metric)
    else:
        draw_bars(figure, result, metric)


def _title(result: SweepResult) -> str:
    how = "best plan at each point" if result.replanned else "plan held"
    changes = ", ".join(f"{key}={value}" for key, value in result.changes)
    partial = "" if result.complete else f" ({len(result.rows):,} of {result.num_points:,} points)"
    text = f"{result.model}, {result.planned.num_gpus:,} GPUs, {how}{partial}" + (f"; {changes}" if changes else "")
    return text if len(text) <= TITLE_WORDS else text[: TITLE_WORDS - 1] + "…"
