"""Operators are measured beside what was predicted for them."""

from __future__ import annotations

import pytest

from meshwright.costmodel.alone import timing
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.stage_cost import cost_context
from meshwright.executor.layer.groups import ALONE
from meshwright.executor.observe.operator_samples import OperatorKey, OperatorSamples
from meshwright.executor.train.operator_table import COLUMNS, COMPARED_COLUMNS, operator_rows, worst_operators
from meshwright.executor.train.operator_times import (
    OperatorTimes,
    alike_parts,
    gather_medians,
    operator_times,
    rank_medians,
)


def key(title: str, name: str, stream: Resource = Resource.COMPUTE) -> OperatorKey:
    return OperatorKey(title=title, kind=PassKind.FORWARD, name=name, recomputes=False, stream=stream)


def times(configuration: TrainingConfiguration, **seconds: tuple[float, ...]) -> dict[str, OperatorTimes]:
    """Of operators of the layers' forward, by rank."""
    ranks = [
        {key("layers 0-3", name): of_ranks[rank] for name, of_ranks in seconds.items()}
        for rank in range(len(next(iter(seconds.values()))))
    ]
    return {one.name: one for one in operator_times(configuration, ranks)}


def test_layers_alike_are_one_part(tiny_configuration: TrainingConfiguration) -> None:
    parts = alike_parts(tiny_configuration)
    assert [part.name for part in parts] == ["embedding", "layers 0-3", "head"]
    assert parts[1].titles == ("layer 0", "layer 1", "layer 2", "layer 3")


def test_a_ranks_medians_are_over_layers_alike(tiny_configuration: TrainingConfiguration) -> None:
    samples = OperatorSamples(seconds={key("layer 0", "qkv"): [1.0, 9.0], key("layer 3", "qkv"): [2.0]})
    own = rank_medians(samples, alike_parts(tiny_configuration))
    assert own == {key("layers 0-3", "qkv"): 2.0}
    assert gather_medians(own, ALONE) == [own]


def test_collectives_are_as_long_as_for_the_rank_that_comes_last(tiny_configuration: TrainingConfiguration) -> None:
    found = times(tiny_configuration, qkv=(1.0, 2.0, 6.0), dispatch=(5.0, 3.0, 4.0))
    assert (found["qkv"].measured_s, found["qkv"].longest_s) == (2.0, 6.0)
    assert (found["dispatch"].measured_s, found["dispatch"].longest_s) == (3.0, 5.0)


def test_operators_are_told_with_the_stream_that_they_ran_on(tiny_configuration: TrainingConfiguration) -> None:
    own = {key("layers 0-3", "qkv"): 1.0, key("layers 0-3", "dispatch", Resource.NVLINK): 2.0}
    found = {one.name: (one.stream, one.measured_s) for one in operator_times(tiny_configuration, [own])}
    assert found == {"qkv": (Resource.COMPUTE, 1.0), "dispatch": (Resource.NVLINK, 2.0)}


def test_predictions_are_those_of_the_operator_alone(tiny_configuration: TrainingConfiguration) -> None:
    found = times(tiny_configuration, qkv=(1.0,))["qkv"]
    context = cost_context(tiny_configuration)
    (operator,) = (
        operator
        for operator in context.program(tiny_configuration.model.layers[0], tiny_configuration.stages[0][0]).forward
        if operator.name == "qkv"
    )
    predicted = timing(operator.work, context.cluster, context.runtime)
    assert (found.predicted_s, found.basis, found.work) == (predicted.time_s, predicted.basis, "gemm")
    assert found.runs == 4 * tiny_configuration.num_micro_batches
    assert found.error == pytest.approx(predicted.time_s - 1.0)


def test_the_worst_are_those_that_cost_a_step_most(tiny_configuration: TrainingConfiguration) -> None:
    found = times(tiny_configuration, qkv=(1.0,), attention=(3.0,), dispatch=(2.0,))
    rows = operator_rows(worst_operators(tuple(found.values()), shown=2), comparable=True)
    assert [row[2] for row in rows] == ["attention", "dispatch"]
    assert rows[0][:4] == ["layers 0-3", "forward", "attention", "3 s"]
    assert rows[0][5] == "-100%"
    assert len(rows[0]) == len(COMPARED_COLUMNS)


def test_there_is_no_error_of_another_device(tiny_configuration: TrainingConfiguration) -> None:
    (row,) = operator_rows(tuple(times(tiny_configuration, qkv=(1.0,)).values()), comparable=False)
    assert len(row) == len(COLUMNS)
    assert not any("%" in cell for cell in row)


def test_what_did_not_run_is_left_out(tiny_configuration: TrainingConfiguration) -> None:
    assert operator_times(tiny_configuration, [{}]) == ()
