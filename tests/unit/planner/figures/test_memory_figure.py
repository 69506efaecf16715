from __future__ import annotations

import pytest

from meshwright.planner.describe.section import GIB
from meshwright.planner.figures import memory_figure
from meshwright.planner.plan import Plan


def test_the_parts_of_a_stage_add_up_to_its_peak(tiny_plan: Plan) -> None:
    (axes,) = memory_figure(tiny_plan).axes
    tops = [0.0] * tiny_plan.mesh.pp
    for bars in axes.containers:
        for stage, bar in enumerate(bars):
            assert bar.get_y() == pytest.approx(tops[stage])
            tops[stage] += bar.get_height()
    assert tops == pytest.approx([peak / GIB for peak in tiny_plan.prediction.peak_memory_bytes])
    (limit,) = axes.get_lines()
    assert limit.get_path().get_extents().y0 == pytest.approx(tiny_plan.prediction.memory_limit_bytes / GIB)
