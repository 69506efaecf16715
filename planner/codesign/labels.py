"""Names beside the points of a plot, none over another, over a point or over the legend."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from meshwright.costmodel.value import Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

POINT_PIXELS = 9.0
DISTANCES_POINTS = (8, 18, 30, 44, 60, 80)
DIRECTIONS = ((1, -1), (1, 1), (-1, 1), (-1, -1), (0, 1), (0, -1))
NEAR_POINTS = 8
"""Labels farther away than this get a line to their point."""


class Label(Value, frozen=True, kw_only=True):
    """A text that belongs to a point, in the units of the axes."""

    x: float
    y: float
    text: str


def place_labels(canvas: FigureCanvasAgg, axes: Axes, labels: Sequence[Label], points: Sequence[Label]) -> int:
    """Write labels where they fit, the first ones first; how many found no place and are left out.

    The layout of the figure is settled here: draw everything else before.
    """
    figure = canvas.figure
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # matplotlib has no annotations for it
    taken = [_around(axes, point) for point in points]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    return sum(not _place(renderer, axes, label, taken) for label in labels)


def _around(axes: Axes, point: Label) -> Bbox:
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform((point.x, point.y))
    return Bbox.from_extents(x - POINT_PIXELS, y - POINT_PIXELS, x + POINT_PIXELS, y + POINT_PIXELS)


def _place(renderer: RendererAgg, axes: Axes, label: Label, taken: list[Bbox]) -> bool:
    """The first place from near to far that is free."""
    from matplotlib.text import Text

    inside = axes.get_window_extent()
    for distance, direction in product(DISTANCES_POINTS, DIRECTIONS):
        annotation = _annotation(axes, label, distance, direction)
        annotation.update_positions(renderer)
        box = Text.get_window_extent(annotation, renderer)  # the text alone, without its line
        if not any(box.overlaps(other) for other in taken) and _contains(inside, box):
            taken.append(box)
            return True
        annotation.remove()
    return False


def _contains(outer: Bbox, inner: Bbox) -> bool:
    inside: bool = outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1
    return inside


def _annotation(axes: Axes, label: Label, distance: int, direction: tuple[int, int]) -> Annotation:
    right, up = direction
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.45", "shrinkB": 4.0}
    return axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(distance * right, distance * up),
        textcoords="offset points",
        ha={1: "left", 0: "center", -1: "right"}[right],
        va="bottom" if up > 0 else "top",
        fontsize="x-small",
        zorder=6,
        bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        arrowprops=line if distance > NEAR_POINTS else None,
    )
