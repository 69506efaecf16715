"""The plot of `meshwright validate`: predicted against measured throughput, on logarithmic axes, by framework."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from meshwright.costmodel.errors import InputError
from meshwright.planner.validation.statistics import quantile
from meshwright.planner.validation.validation import RowResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BANDS = ((0.2, "0.93"), (0.1, "0.85"))
MARKERS = {"dense": "o", "moe": "^"}
SIZE_INCHES = (7.0, 6.5)
DOTS_PER_INCH = 150


def write_scatter(results: Sequence[RowResult], path: Path) -> None:
    """Draw the predicted rows into a PNG file, which is there in full or not at all."""
    image = _draw([result for result in results if result.error is not None])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(image)
        temporary.replace(path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise InputError(str(path), "", f"cannot be written: {problem.strerror}") from problem


def _draw(results: list[RowResult]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_bands(axes, [result.measured_tokens_per_s_per_gpu or 1.0 for result in results] or [1.0])
    for index, (framework, kind) in enumerate(dict.fromkeys((r.framework, r.kind) for r in results)):
        chosen = [r for r in results if (r.framework, r.kind) == (framework, kind)]
        axes.scatter(
            [r.measured_tokens_per_s_per_gpu or 0.0 for r in chosen],
            [r.predicted_tokens_per_s_per_gpu or 0.0 for r in chosen],
            s=18,
            alpha=0.7,
            color=f"C{index}",
            marker=MARKERS.get(kind, "s"),
            label=f"{framework}, {kind} ({len(chosen)})",
        )
    _label(axes, results)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)
    return stream.getvalue()


def _draw_bands(axes: Axes, measured: list[float]) -> None:
    ends = [0.7 * min(measured), 1.4 * max(measured)]
    for width, grey in BANDS:
        low, high = [end * (1.0 - width) for end in ends], [end * (1.0 + width) for end in ends]
        axes.fill_between(ends, low, high, color=grey, label=f"within {width:.0%}", linewidth=0.0)
    axes.plot(ends, ends, color="black", linewidth=0.8)


def _label(axes: Axes, results: list[RowResult]) -> None:
    errors = [abs(result.error or 0.0) for result in results]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured throughput of one GPU [tokens/s]")
    axes.set_ylabel("predicted throughput of one GPU [tokens/s]")
    if errors:
        axes.set_title(f"{len(errors)} published training runs, median absolute error {quantile(errors, 0.5):.1%}")
    axes.legend(loc="upper left", fontsize="small")
