from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.order.ordered_pass import OrderedPass
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.stage_cost import cost_context
from meshwright.planner.explain.exposure import exposures


def _passes(configuration: TrainingConfiguration, level: OverlapLevel) -> list[OrderedPass]:
    overlap = LayerOverlap(tensor=level, sequence=level, context=level, expert=level)
    runtime = msgspec.structs.replace(configuration.runtime, overlap=overlap)
    context = cost_context(msgspec.structs.replace(configuration, runtime=runtime))
    return list(context.ordered(configuration.model.layers[0], configuration.stages[0][0]).values())


@pytest.mark.parametrize("level", [OverlapLevel.NONE, OverlapLevel.INTER_OPERATOR, OverlapLevel.FUSED])
def test_sums_by_link_are_those_of_the_pass(large_configuration: TrainingConfiguration, level: OverlapLevel) -> None:
    seen = False
    for ordered in _passes(large_configuration, level):
        found, use = exposures(ordered), ordered.use()
        for link in (Resource.NVLINK, Resource.NETWORK):
            own = [found[op.name] for op in ordered.problem.operators if op.resource is link]
            seen = seen or bool(own)
            assert sum(entry.exposed_s for entry in own) == pytest.approx(use.exposed_s[link], abs=1e-12)
            assert sum(entry.hidden_s for entry in own) == pytest.approx(use.hidden_s[link], abs=1e-12)
    assert seen


def test_what_blocks_is_exposed_in_full(large_configuration: TrainingConfiguration) -> None:
    for ordered in _passes(large_configuration, OverlapLevel.NONE):
        times_s = {op.name: t for op, t in zip(ordered.problem.operators, ordered.problem.time_s, strict=True)}
        for name, entry in exposures(ordered).items():
            assert (entry.exposed_s, entry.hidden_s) == (times_s[name], 0.0)


def test_overlap_hides_something(large_configuration: TrainingConfiguration) -> None:
    found = [
        entry
        for ordered in _passes(large_configuration, OverlapLevel.INTER_OPERATOR)
        for entry in exposures(ordered).values()
    ]
    assert any(entry.hidden_s > 0 for entry in found)
    assert all(entry.exposed_s >= 0 and entry.hidden_s >= 0 for entry in found)
