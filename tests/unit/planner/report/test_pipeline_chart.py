from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.report.charts import TimeChart
from meshwright.planner.report.pipeline_chart import colors_of, pipeline_chart
from meshwright.planner.simulated_step import simulated_step


def _dualpipe(configuration: TrainingConfiguration) -> TrainingConfiguration:
    pipeline = Pipeline(schedule=ScheduleKind.DUALPIPE_V, virtual_stages=2)
    stages = tuple((strategy,) for stage in configuration.stages for strategy in stage)
    return msgspec.structs.replace(configuration, pipeline=pipeline, stages=stages)


@pytest.fixture(params=["1f1b", "dualpipe-v"])
def configuration(tiny_configuration: TrainingConfiguration, request: pytest.FixtureRequest) -> TrainingConfiguration:
    return tiny_configuration if request.param == "1f1b" else _dualpipe(tiny_configuration)


@pytest.fixture
def chart(configuration: TrainingConfiguration) -> TimeChart:
    return pipeline_chart(simulated_step(configuration))


def test_every_action_is_drawn_once(chart: TimeChart, configuration: TrainingConfiguration) -> None:
    drawn = [(row.label, slice_[3], slice_[4]) for row in chart.rows for slice_ in row.slices if slice_[3]]
    forwards = [label for _, label, _ in drawn if label.startswith("F")]
    assert len(forwards) == configuration.num_micro_batches * len(configuration.stages)
    assert set(forwards) == {f"F{number}" for number in range(configuration.num_micro_batches)}


def test_slices_of_a_row_are_in_order_and_apart(chart: TimeChart) -> None:
    for row in chart.rows:
        for one, next_ in zip(row.slices, row.slices[1:], strict=False):
            assert one[1] <= next_[0] + 2e-9


def test_forwards_beside_a_backward_have_a_row_of_their_own(tiny_configuration: TrainingConfiguration) -> None:
    labels = {row.label for row in pipeline_chart(simulated_step(tiny_configuration)).rows}
    assert "beside" not in labels
    rows = pipeline_chart(simulated_step(_dualpipe(tiny_configuration))).rows
    beside = [slice_ for row in rows if row.label == "beside" for slice_ in row.slices]
    assert beside
    assert all(slice_[2] == "forward" for slice_ in beside)


def test_the_legend_has_what_is_drawn(configuration: TrainingConfiguration, chart: TimeChart) -> None:
    drawn = {slice_[2] for row in chart.rows for slice_ in row.slices}
    assert set(colors_of(simulated_step(configuration))) == drawn


def test_words_say_what_a_slice_is(tiny_configuration: TrainingConfiguration) -> None:
    chart = pipeline_chart(simulated_step(_dualpipe(tiny_configuration)))
    assert "forward, virtual stage 0, micro-batch 0" in chart.texts
    assert "backward, gradient of the input (dgrad), virtual stage 3, micro-batch 0" in chart.texts
