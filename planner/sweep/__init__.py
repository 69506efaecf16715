"""Many what-ifs at once: a grid of values of some keys, each point with the plan held or planned anew."""

from __future__ import annotations

from meshwright.planner.sweep.axes import MAX_POINTS, Axis, Grid, grid_of
from meshwright.planner.sweep.result import SweepResult
from meshwright.planner.sweep.row import Outcome, SweepRow
from meshwright.planner.sweep.run import sweep, sweep_grid

__all__ = ["MAX_POINTS", "Axis", "Grid", "Outcome", "SweepResult", "SweepRow", "grid_of", "sweep", "sweep_grid"]
