from __future__ import annotations

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from meshwright.planner.codesign.labels import Label, place_labels


def _placed(points: list[tuple[float, float]]) -> tuple[FigureCanvasAgg, list[Annotation], int]:
    figure = Figure(figsize=(8, 6))
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    labels = [Label(x=x, y=y, text=f"shape {number}") for number, (x, y) in enumerate(points)]
    left_out = place_labels(canvas, axes, labels, labels)
    return canvas, [text for text in axes.texts if isinstance(text, Annotation)], left_out


def test_labels_of_near_points_do_not_overlap() -> None:
    canvas, texts, left_out = _placed([(5.0, 5.0), (5.05, 5.02), (5.1, 5.05), (9.9, 9.9), (0.1, 0.1)])
    assert (len(texts), left_out) == (5, 0)
    canvas.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    axes = canvas.figure.axes[0].get_window_extent()
    assert all(axes.x0 <= box.x0 and box.x1 <= axes.x1 and axes.y0 <= box.y0 and box.y1 <= axes.y1 for box in boxes)


def test_what_finds_no_place_is_left_out_and_counted() -> None:
    _, texts, left_out = _placed([(5.0, 5.0)] * 60)
    assert left_out > 0
    assert len(texts) + left_out == 60
    assert texts[0].get_text() == "shape 0"
