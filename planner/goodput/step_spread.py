"""Step times of a whole run under jitter: every step waits for the slowest replica."""

from __future__ import annotations

from math import sqrt

import msgspec
import numpy as np

from meshwright.costmodel.circumstances import NONE
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import Durations, Schedule
from meshwright.costmodel.simulate.durations import Array
from meshwright.costmodel.simulate.jitter import jittered_step_times_s
from meshwright.costmodel.simulate.step_graph import StepGraph, step_graph
from meshwright.costmodel.step import schedule_of, step_inputs, step_overlap
from meshwright.costmodel.value import Value

EVENTS_SIMULATED = 50_000_000
"""How many events to simulate at most, which decides how many steps are drawn: about a second of work."""

FEWEST_STEPS, MOST_STEPS = 40, 400


class StepSpread(Value, frozen=True, kw_only=True):
    """Step times in seconds. `num_steps` were drawn (0: nothing is random), which leaves the mean its standard error.

    `num_replicas` pipelines of a step are independent: replicas that share an expert-parallel group run in lockstep.
    """

    steady_s: float
    mean_s: float
    p50_s: float
    p95_s: float
    standard_error_s: float
    num_steps: int
    num_replicas: int


def step_spread(configuration: TrainingConfiguration) -> StepSpread:
    """Step times under the circumstances of a configuration, with the jitter drawn from their seed.

    A slow GPU or link is in one of the replicas. `steady_s` is the step without jitter.
    """
    schedule = schedule_of(configuration)
    step = step_graph(schedule, step_overlap(configuration))
    slow = step_inputs(configuration, schedule)[1]
    steady_s = step.graph.times(slow.vector)[-1]
    replicas = independent_replicas(configuration)
    if not configuration.circumstances.jitter_fraction:
        return StepSpread(
            steady_s=steady_s,
            mean_s=steady_s,
            p50_s=steady_s,
            p95_s=steady_s,
            standard_error_s=0.0,
            num_steps=0,
            num_replicas=replicas,
        )
    times_s = _drawn(configuration, schedule, step, slow, replicas)
    return StepSpread(
        steady_s=steady_s,
        mean_s=float(times_s.mean()),
        p50_s=float(np.quantile(times_s, 0.5)),
        p95_s=float(np.quantile(times_s, 0.95)),
        standard_error_s=float(times_s.std(ddof=1)) / sqrt(len(times_s)),
        num_steps=len(times_s),
        num_replicas=replicas,
    )


def independent_replicas(configuration: TrainingConfiguration) -> int:
    """Pipelines of a step that do not wait for each other before its end."""
    mesh = configuration.mesh
    return max(1, mesh.stage_gpus // max(mesh.replica_gpus, mesh.ep * mesh.etp))


def _drawn(
    configuration: TrainingConfiguration, schedule: Schedule, step: StepGraph, slow: Durations, replicas: int
) -> Array:
    """Times of steps, each the slowest of its replicas."""
    circumstances = configuration.circumstances
    num_steps = EVENTS_SIMULATED // (replicas * len(step.graph.first))
    num_steps = min(MOST_STEPS, max(FEWEST_STEPS, num_steps))
    generator = np.random.default_rng(circumstances.seed)
    jitter = circumstances.jitter_fraction
    slowest_s = jittered_step_times_s(step, slow, jitter, num_steps, generator)
    if replicas == 1:
        return slowest_s
    nominal = step_inputs(msgspec.structs.replace(configuration, circumstances=NONE), schedule)[1]
    others = jittered_step_times_s(step, nominal, jitter, num_steps * (replicas - 1), generator)
    result: Array = np.maximum(slowest_s, others.reshape(num_steps, replicas - 1).max(axis=1))
    return result
