from __future__ import annotations

from itertools import pairwise

import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.stage_cost import cost_context
from meshwright.planner.report.layer_charts import AFTER, BEFORE, LayerCharts, layer_charts


@pytest.fixture
def layers(tiny_configuration: TrainingConfiguration) -> tuple[LayerCharts, ...]:
    return layer_charts(tiny_configuration)


def test_kinds_of_layers_the_most_frequent_first(layers: tuple[LayerCharts, ...]) -> None:
    assert [layer.count for layer in layers] == [3, 1]
    assert layers[0].title.endswith("/ none")
    assert layers[1].title.endswith("/ full")


def test_only_passes_that_the_schedule_runs(layers: tuple[LayerCharts, ...]) -> None:
    assert [one.name for one in layers[0].passes] == ["forward", "backward"]


def test_the_plan_is_never_longer_than_program_order(layers: tuple[LayerCharts, ...]) -> None:
    for layer in layers:
        for one in layer.passes:
            assert 0.0 < one.after_s <= one.before_s
            assert one.chart.end_s == one.before_s


def test_before_nothing_runs_beside_anything(layers: tuple[LayerCharts, ...]) -> None:
    for one in layers[0].passes:
        before = sorted(slice_[:2] for row in one.chart.rows if row.group == BEFORE for slice_ in row.slices)
        assert before[0][0] == 0.0
        for (_, end), (start, _) in pairwise(before):
            assert start == pytest.approx(end, abs=2e-9)


def test_after_ends_where_the_cost_model_says(
    layers: tuple[LayerCharts, ...], tiny_configuration: TrainingConfiguration
) -> None:
    context, strategy = cost_context(tiny_configuration), tiny_configuration.stages[0][0]
    timelines = context.timelines(tiny_configuration.model.layers[0], strategy)
    forward = layers[0].passes[0]
    ends = [slice_[1] for row in forward.chart.rows if row.group == AFTER for slice_ in row.slices]
    assert timelines.forward is not None
    assert max(ends) == pytest.approx(timelines.forward.end_s, abs=1e-9)


def test_recomputation_has_its_own_colour(layers: tuple[LayerCharts, ...]) -> None:
    colors = [
        {slice_[2] for one in layer.passes for row in one.chart.rows for slice_ in row.slices} for layer in layers
    ]
    assert "recompute" not in colors[0]
    assert "recompute" in colors[1]
    assert "communication" in colors[0]
