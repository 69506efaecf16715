"""What each stage's GPUs hold at their peak, stacked, against the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.planner.describe.memory import PARTS
from meshwright.planner.describe.section import GIB
from meshwright.planner.figures.png import new_figure
from meshwright.planner.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "parameters": "#1f4e8c",
    "gradients": "#5b97d3",
    "optimizer": "#a9cbec",
    "activations": "#e08a3c",
    "transient": "#efd08a",
}
WIDTH_INCHES, HEIGHT_INCHES = 9.0, 4.5


def memory_figure(plan: Plan) -> Figure:
    """A bar for each pipeline stage; the parts add up to its peak."""
    figure = new_figure(WIDTH_INCHES, HEIGHT_INCHES)
    axes = figure.add_subplot()
    memory, limit = plan.prediction.memory, plan.prediction.memory_limit_bytes / GIB
    stages, below = range(len(memory)), [0.0] * len(memory)
    for part in PARTS:
        heights = [getattr(stage, part) / GIB for stage in memory]
        axes.bar(stages, heights, bottom=below, color=COLOURS[part], label=part)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.axhline(limit, color="black", linestyle="--", linewidth=1.0, label=f"limit {limit:.1f} GiB")
    axes.set_xticks(stages)
    axes.set_xlabel("pipeline stage")
    axes.set_ylabel("memory of each GPU at its peak [GiB]")
    axes.set_title(f"{plan.model.name}: memory of the pipeline's stages", fontsize="medium")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
