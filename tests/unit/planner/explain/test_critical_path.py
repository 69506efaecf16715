"""The path that decides the step of the 352B plan."""

from __future__ import annotations

import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.explain.critical_path import PathPart, step_path
from meshwright.planner.explain.parts import part_terms
from meshwright.planner.explain.stages import stage_terms


def test_the_path_of_the_pipeline(large_configuration: TrainingConfiguration) -> None:
    """The last device is the slowest: the path pays all of its 12 x 10 forwards and backwards, once up and down."""
    path = step_path(large_configuration)
    stages = stage_terms(large_configuration, part_terms(large_configuration))
    busy_s = 12 * sum(sum(chunk.passes_s.values()) for chunk in stages[-1].chunks)
    assert path.seconds[PathPart.PIPELINE.value] > busy_s
    head = [
        term
        for term in path.terms
        if term.term in ("forward", "backward_input", "backward_weight") and term.stage == 59
    ]
    assert [term.count for term in head] == [12, 12, 12]
    assert sum(term.total_s for term in head) == pytest.approx(12 * sum(stages[-1].chunks[-1].passes_s.values()))
