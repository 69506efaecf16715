from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import predict
from meshwright.planner.explain.describe_marginal import describe_marginal, held_section
from meshwright.planner.explain.marginal import Marginal, marginal_values
from meshwright.planner.explain.resources import RESOURCES, resources_of
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.what_if import what_if


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    """The progress of `resolved`."""
    return []


@pytest.fixture(scope="module")
def resolved(searched_plan: Plan, told: list[tuple[str, int, int]]) -> Marginal:
    """All resources of the tiny plan, held and re-solved."""
    return marginal_values(searched_plan, resolve=True, progress=lambda *step: told.append(step))


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_only_the_resource_becomes_more(resource: object, tiny_configuration: TrainingConfiguration) -> None:
    found = next(known for known in RESOURCES if known is resource)
    cluster = tiny_configuration.cluster
    richer = found.with_amount(cluster, 2 * found.amount(cluster))
    assert found.amount(richer) == pytest.approx(2 * found.amount(cluster))
    others = [known for known in RESOURCES if known is not resource]
    assert [known.amount(richer) for known in others] == [known.amount(cluster) for known in others]
    assert found.with_amount(richer, found.amount(cluster)).num_gpus == cluster.num_gpus


def test_only_what_can_matter_is_offered(tiny_configuration: TrainingConfiguration) -> None:
    assert {resource.name for resource in resources_of(tiny_configuration)} == {
        "memory",
        "compute",
        "memory bandwidth",
        "nvlink",
        "gpus",
    }
    two_nodes = msgspec.structs.replace(
        tiny_configuration,
        cluster=tiny_configuration.cluster.with_gpus(16),
        mesh=msgspec.structs.replace(tiny_configuration.mesh, dp=4),
    )
    assert "network" in {resource.name for resource in resources_of(two_nodes)}


def test_held_is_what_simulate_says(tiny_plan: Plan) -> None:
    """Ten per cent more NVLink by another way: `simulate --set`."""
    nvlink = next(value for value in marginal_values(tiny_plan, resolve=False).values if value.resource == "nvlink")
    other = what_if(tiny_plan, ("nvlink_bytes_per_s=1.1x",)).prediction.step_time_s
    assert nvlink.held_saving_s == pytest.approx(tiny_plan.prediction.step_time_s - other)
    assert nvlink.held_per_unit_s == pytest.approx((tiny_plan.prediction.step_time_s - other) / 45)
    assert (nvlink.amount, round(nvlink.added, 9), nvlink.unit) == (450, 45, "GB/s")


def test_more_is_not_slower_and_memory_alone_is_nothing(tiny_plan: Plan) -> None:
    values = {value.resource: value for value in marginal_values(tiny_plan, resolve=False).values}
    assert values["memory"].held_saving_s == 0.0
    assert all(value.held_saving_s is not None and value.held_saving_s >= 0 for value in values.values())
    assert values["gpus"].held_saving_s > 0.0  # type: ignore[operator]


def test_gpus_come_in_numbers_that_share_the_batch(tiny_plan: Plan) -> None:
    """dp 2 with 16 sequences: the least that shares them is dp 4, 8 GPUs more."""
    gpus = next(value for value in marginal_values(tiny_plan, resolve=False).values if value.resource == "gpus")
    assert (gpus.amount, gpus.added) == (8, 8)
    wider = what_if(tiny_plan, ("num_gpus=16",)).prediction.step_time_s
    assert gpus.held_saving_s == pytest.approx(tiny_plan.prediction.step_time_s - wider)


def test_gpus_that_cannot_be_used_say_why(tiny_configuration: TrainingConfiguration, tiny_plan: Plan) -> None:
    workload = msgspec.structs.replace(tiny_configuration.workload, global_batch=2)
    pipeline = msgspec.structs.replace(tiny_plan.pipeline, num_micro_batches=1)
    plan = msgspec.structs.replace(tiny_plan, workload=workload, pipeline=pipeline)
    gpus = next(value for value in marginal_values(plan, resolve=False).values if value.resource == "gpus")
    assert gpus.held_saving_s is None
    assert gpus.held_reason == "no dp up to 4 shares 2 sequences evenly in micro-batches of 1"


def test_resolving_never_does_worse_than_holding(resolved: Marginal) -> None:
    assert resolved.baseline is not None
    for value in resolved.values:
        assert value.saving_s is not None
        if value.held_saving_s is not None:
            already_s = resolved.step_s - resolved.baseline.step_s
            assert value.saving_s >= value.held_saving_s - already_s - 1e-15


def test_what_is_proven_holds_the_saving_of_what_was_found(resolved: Marginal) -> None:
    assert resolved.baseline is not None
    for value in resolved.values:
        assert value.resolved is not None
        assert value.saving_interval_s is not None
        least_s, most_s = value.saving_interval_s
        assert least_s <= resolved.baseline.objective_s - value.resolved.objective_s <= most_s
        assert value.is_within_gap is (least_s <= 0.0)


def test_memory_is_within_the_gap_and_compute_is_not(resolved: Marginal) -> None:
    values = {value.resource: value for value in resolved.values}
    assert values["memory"].is_within_gap
    assert not values["compute"].is_within_gap
    printed = {row[0]: row for row in describe_marginal(resolved)[1].rows}
    assert printed[values["memory"].what][-1] == "within the certificate's gap"
    assert printed[values["compute"].what][-1] == ""


def test_progress_counts_every_search(resolved: Marginal, told: list[tuple[str, int, int]]) -> None:
    assert [done for _, done, _ in told] == list(range(len(resolved.values) + 1))
    assert {of for _, _, of in told} == {len(resolved.values) + 1}


def test_held_figures_have_units_and_signs(searched_plan: Plan) -> None:
    marginal = marginal_values(searched_plan, resolve=False)
    rows = {row[0]: row for row in held_section(marginal).rows}
    compute = rows["peak of matrix products, efficiencies held"]
    assert compute[1:3] == ("989.4 TFLOP/s", "+98.94")
    assert compute[3].startswith("-")
    assert compute[5].endswith(" a TFLOP/s")
    assert marginal.step_s == predict(configuration_of(searched_plan)).step_time_s
