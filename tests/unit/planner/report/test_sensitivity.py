from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import predict
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.report.sensitivity import FACTORS, Sensitivity, sensitivities
from meshwright.planner.what_if import what_if

replace = msgspec.structs.replace


@pytest.fixture
def found(tiny_plan: Plan) -> dict[str, Sensitivity]:
    return {one.resource: one for one in sensitivities(configuration_of(tiny_plan))}


def test_one_node_has_no_network_to_buy(found: dict[str, Sensitivity]) -> None:
    assert set(found) == {"compute", "memory bandwidth", "nvlink", "memory"}
    assert all(tuple(point.factor for point in one.points) == FACTORS for one in found.values())


def test_points_are_what_if_answers(found: dict[str, Sensitivity], tiny_plan: Plan) -> None:
    """The same question asked through the command line's own door."""
    for factor in (0.5, 2.0):
        answer = what_if(tiny_plan, (f"nvlink_bytes_per_s={factor}x",))
        assert found["nvlink"].at(factor).step_time_s == answer.prediction.step_time_s


def test_twice_the_compute_halves_the_peak_bound_time(
    found: dict[str, Sensitivity], tiny_configuration: TrainingConfiguration
) -> None:
    own_s = predict(tiny_configuration).step_time_s
    assert own_s / 2 < found["compute"].at(2.0).step_time_s < own_s


def test_memory_changes_only_whether_it_fits(tiny_configuration: TrainingConfiguration) -> None:
    peak = max(predict(tiny_configuration).peak_memory_bytes)
    gpu = replace(tiny_configuration.cluster.gpu, usable_memory_bytes=1.2 * peak + 1.5 * 2**30)
    profile = replace(tiny_configuration.cluster.profile, gpu=gpu)
    tight = replace(tiny_configuration, cluster=replace(tiny_configuration.cluster, profile=profile))
    memory = next(one for one in sensitivities(tight) if one.resource == "memory")
    assert {point.step_time_s for point in memory.points} == {predict(tight).step_time_s}
    assert [point.fits for point in memory.points] == [point.factor > 0.9 for point in memory.points]


def test_the_most_worthwhile_comes_first(found: dict[str, Sensitivity]) -> None:
    steps_s = [one.at(1.25).step_time_s for one in found.values()]
    assert steps_s == sorted(steps_s)
