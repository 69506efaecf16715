from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.circumstances import Circumstances, Recovery, SlowGpu
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.expert_load import ZipfLoad
from meshwright.costmodel.formulas.goodput import daly_interval_s
from meshwright.costmodel.step import predict
from meshwright.planner.goodput import TrainingOutlook, interruptions, step_spread, training_outlook
from meshwright.planner.goodput.interruptions import copy_to_host_s
from meshwright.planner.goodput.step_spread import independent_replicas

replace = msgspec.structs.replace
DAY = 86400.0


def _with(configuration: TrainingConfiguration, **circumstances: object) -> TrainingConfiguration:
    return replace(configuration, circumstances=Circumstances(**circumstances))  # type: ignore[arg-type]


def _outlook(configuration: TrainingConfiguration) -> TrainingOutlook:
    return training_outlook(configuration, predict(configuration))


def test_without_failures_days_are_steps(tiny_configuration: TrainingConfiguration) -> None:
    cluster = replace(tiny_configuration.cluster, mean_time_between_failures_s=None, price_per_gpu_hour=2.5)
    outlook = _outlook(_with(replace(tiny_configuration, cluster=cluster), tokens=1e9))
    step_s = predict(tiny_configuration).step_time_s
    assert outlook.interruptions is None
    assert outlook.runs is None
    assert outlook.num_steps == -(-(10**9) // tiny_configuration.workload.tokens)
    assert outlook.expected is not None
    assert outlook.expected.days == pytest.approx(outlook.num_steps * step_s / DAY)
    assert outlook.expected.gpu_hours == pytest.approx(8 * 24 * outlook.expected.days)
    assert outlook.expected.cost == pytest.approx(2.5 * outlook.expected.gpu_hours)
    assert outlook.simulated == outlook.low == outlook.high == outlook.expected


def test_failures_take_longer_as_the_closed_form_says(tiny_configuration: TrainingConfiguration) -> None:
    cluster = replace(tiny_configuration.cluster, mean_time_between_failures_s=8 * 5 * 3600.0)
    outlook = _outlook(_with(replace(tiny_configuration, cluster=cluster), tokens=1e11))
    stops, runs, expected = outlook.interruptions, outlook.runs, outlook.expected
    assert stops is not None
    assert runs is not None
    assert expected is not None
    assert stops.mean_time_between_failures_s == 5 * 3600.0
    assert stops.checkpoint_interval_s == daly_interval_s(stops.checkpoint_write_s, 5 * 3600.0)
    assert outlook.effective_fraction == stops.effective_fraction < 0.96
    assert runs.mean_wall_s == pytest.approx(expected.days * DAY, abs=4 * runs.standard_error_s)
    assert outlook.low is not None
    assert outlook.high is not None
    assert outlook.low.days < expected.days < outlook.high.days


def test_spares_cost_and_save_waiting(tiny_configuration: TrainingConfiguration) -> None:
    cluster = replace(tiny_configuration.cluster, mean_time_between_failures_s=8 * DAY)
    outlooks = [
        _outlook(
            _with(
                replace(tiny_configuration, cluster=cluster),
                recovery=Recovery(repair_s=DAY, num_spare_nodes=spares),
                tokens=1e11,
            )
        )
        for spares in (0, 2)
    ]
    waits = [outlook.interruptions.waiting_fraction for outlook in outlooks if outlook.interruptions]
    assert waits == pytest.approx([1 / 2, 1 / 16])
    for spares, outlook in zip((0, 2), outlooks, strict=True):
        assert outlook.expected is not None
        assert outlook.expected.gpu_hours == pytest.approx((8 + 8 * spares) * 24 * outlook.expected.days)


def test_only_what_a_gpu_alone_holds_is_copied(tiny_configuration: TrainingConfiguration) -> None:
    memory = predict(tiny_configuration).memory
    most = max(stage.optimizer for stage in memory)
    assert copy_to_host_s(tiny_configuration, memory) == pytest.approx(
        most / tiny_configuration.cluster.gpu.pcie_bytes_per_s
    )


def test_given_intervals_and_writes_are_kept(tiny_configuration: TrainingConfiguration) -> None:
    recovery = Recovery(checkpoint_interval_s=600.0, checkpoint_write_s=7.0, checkpoint_store_s=60.0)
    stops = interruptions(_with(tiny_configuration, recovery=recovery), predict(tiny_configuration).memory, 1.0)
    assert stops is not None
    assert (stops.checkpoint_interval_s, stops.checkpoint_write_s, stops.checkpoint_store_s) == (600.0, 7.0, 60.0)
    slow_storage = Recovery(checkpoint_write_s=0.01, checkpoint_store_s=7200.0)
    stops = interruptions(_with(tiny_configuration, recovery=slow_storage), predict(tiny_configuration).memory, 1.0)
    assert stops is not None
    assert stops.checkpoint_interval_s == 7200.0  # a checkpoint waits until the one before is stored


def test_steps_without_jitter_are_the_prediction(tiny_configuration: TrainingConfiguration) -> None:
    for configuration in (tiny_configuration, _with(tiny_configuration, slow_gpu=SlowGpu(time_factor=1.2))):
        spread = step_spread(configuration)
        step_s = predict(configuration).step_time_s
        assert {spread.steady_s, spread.mean_s, spread.p50_s, spread.p95_s} == {step_s}
        assert (spread.num_steps, spread.standard_error_s) == (0, 0.0)


def test_replicas_of_one_expert_group_run_in_lockstep(tiny_configuration: TrainingConfiguration) -> None:
    """dp 2 and sp 2, and an expert-parallel group of all four."""
    assert independent_replicas(tiny_configuration) == 1
    stages = tuple(tuple(replace(layer, ep=2) for layer in stage) for stage in tiny_configuration.stages)
    apart = replace(tiny_configuration, mesh=replace(tiny_configuration.mesh, ep=2), stages=stages)
    assert independent_replicas(apart) == 2


def test_jitter_costs_time_and_depends_on_the_seed_alone(tiny_configuration: TrainingConfiguration) -> None:
    calm, first, again, other = (
        step_spread(_with(tiny_configuration, jitter_fraction=jitter, seed=seed))
        for jitter, seed in ((0.0, 1), (0.1, 1), (0.1, 1), (0.1, 2))
    )
    assert first == again != other
    assert calm.mean_s < first.mean_s < first.p95_s
    assert 0 < first.standard_error_s < 0.01 * first.mean_s
    assert first.mean_s == pytest.approx(other.mean_s, abs=5 * first.standard_error_s)


def test_jitter_beside_a_slow_gpu_costs_less_than_alone(tiny_configuration: TrainingConfiguration) -> None:
    """The slow replica is waited for anyhow, unless its neighbour is unluckier by far."""
    stages = tuple(tuple(replace(layer, ep=2) for layer in stage) for stage in tiny_configuration.stages)
    apart = replace(tiny_configuration, mesh=replace(tiny_configuration.mesh, ep=2), stages=stages)
    alone = step_spread(_with(apart, jitter_fraction=0.05))
    beside = step_spread(_with(apart, jitter_fraction=0.05, slow_gpu=SlowGpu(time_factor=2.0)))
    assert beside.steady_s > 1.3 * alone.steady_s
    assert beside.mean_s / beside.steady_s < alone.mean_s / alone.steady_s


def test_routing_says_what_is_dropped(tiny_configuration: TrainingConfiguration) -> None:
    assert _outlook(tiny_configuration).routing is None
    workload = replace(tiny_configuration.workload, expert_load=ZipfLoad(exponent=1.0), capacity_factor=1.25)
    routing = _outlook(replace(tiny_configuration, workload=workload)).routing
    assert routing is not None
    assert (routing.load, routing.placement, routing.capacity_factor) == ("zipf:1", "contiguous", 1.25)
    assert routing.busiest_rank == 1.25
    assert 0.1 < routing.dropped_fraction < 0.4
    dropless = replace(tiny_configuration.workload, expert_load=ZipfLoad(exponent=1.0))
    routing = _outlook(replace(tiny_configuration, workload=dropless)).routing
    assert routing is not None
    assert routing.busiest_rank > 1.5
    assert routing.dropped_fraction == routing.filled_fraction == 0.0


def test_what_was_not_said_is_said_to_be_assumed(tiny_configuration: TrainingConfiguration) -> None:
    def keys(configuration: TrainingConfiguration) -> set[str]:
        return {text.rpartition("(")[2].rstrip(")") for text in _outlook(configuration).assumptions}

    assert keys(tiny_configuration) == {
        "run.detection_s",
        "run.restart_s",
        "run.checkpoint_write_s",
        "run.checkpoint_store_s",
        "run.repair_s, run.spares",
    }
    said = Recovery(detection_s=60.0, restart_s=60.0, checkpoint_write_s=5.0, checkpoint_store_s=60.0, repair_s=3600.0)
    assert keys(_with(tiny_configuration, recovery=said)) == set()
    half_said = replace(said, restart_s=Recovery().restart_s)
    assert keys(_with(tiny_configuration, recovery=half_said)) == {"run.restart_s"}
    assert keys(_with(tiny_configuration, recovery=said, jitter_fraction=0.1)) == {"cluster.jitter"}
    unknown = replace(tiny_configuration.cluster, mean_time_between_failures_s=None)
    assert keys(replace(tiny_configuration, cluster=unknown)) == {"cluster.mean_time_between_failures_s"}


def test_a_hopeless_run_is_said_to_be_one(tiny_configuration: TrainingConfiguration) -> None:
    cluster = replace(tiny_configuration.cluster, mean_time_between_failures_s=60.0)
    outlook = _outlook(replace(tiny_configuration, cluster=cluster))
    assert outlook.runs is None
    assert (outlook.simulated, outlook.low, outlook.high) == (None, None, None)
    assert outlook.effective_fraction < 0.001
