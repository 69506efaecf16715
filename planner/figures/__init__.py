"""A plan in pictures by matplotlib, for notebooks and papers: its pipeline, the streams of its layers, its memory.

The same data and colours as the page of `planner.report`, which can be zoomed; these can be printed.
"""

from __future__ import annotations

from meshwright.planner.figures.memory_figure import memory_figure
from meshwright.planner.figures.png import png
from meshwright.planner.figures.time_figure import layer_figure, pipeline_figure

__all__ = ["layer_figure", "memory_figure", "pipeline_figure", "png"]
