"""Co-design: which shape of a model suits a machine. Every shape of a grid, at a held budget, with its best plan.

`dimensions` are the sizes that can change, `budget` solves one of them so that parameters or FLOPs stay, `grid` makes
the shapes, `evaluate` plans one, `study` plans all in parallel, `pareto` marks those that no other beats; `describe`,
`columns` and `plot` show them. After Pangu Ultra MoE (arXiv 2505.04519), which simulated whole models from their
operators up to choose the architecture for its machine.
"""

from __future__ import annotations

from meshwright.planner.codesign.budget import Budget, Measure
from meshwright.planner.codesign.grid import Grid, Shape, make_grid, parse_vary, shapes
from meshwright.planner.codesign.outcome import Front, ShapeOutcome, ShapePlan, Status
from meshwright.planner.codesign.study import CodesignStudy, codesign

__all__ = [
    "Budget",
    "CodesignStudy",
    "Front",
    "Grid",
    "Measure",
    "Shape",
    "ShapeOutcome",
    "ShapePlan",
    "Status",
    "codesign",
    "make_grid",
    "parse_vary",
    "shapes",
]
