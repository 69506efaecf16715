"""Steps of pipelines whose passes take a random time around their mean: many pipelines at once, event by event."""

from __future__ import annotations

import numpy as np

from meshwright.costmodel.formulas.stragglers import log_normal_parameters
from meshwright.costmodel.simulate.durations import Array, Durations
from meshwright.costmodel.simulate.step_graph import StepGraph

BLOCK = 2048
"""Pipelines simulated at once: as many as keep an event's times in the processor's cache."""


def jittered_step_times_s(
    step: StepGraph, durations: Durations, jitter_fraction: float, num_pipelines: int, generator: np.random.Generator
) -> Array:
    """Step times of `num_pipelines` independent pipelines, each pass of each micro-batch with a factor of its own.

    The factor is log-normal with mean 1 and coefficient of variation `jitter_fraction`. Messages and the collectives
    of parameters and gradients keep their durations; in a slot of two actions both share one factor. Without jitter
    the times are those of `simulate`, to the last digit.
    """
    blocks = [min(BLOCK, num_pipelines - start) for start in range(0, num_pipelines, BLOCK)]
    return np.concatenate([_block(step, durations, jitter_fraction, size, generator) for size in blocks])


def _block(
    step: StepGraph, durations: Durations, jitter_fraction: float, size: int, generator: np.random.Generator
) -> Array:
    graph, delays = step.graph, step.graph.delays(durations.vector)
    slot_s = _slot_durations_s(step, delays)
    last_use = _last_use(step)
    mu, sigma = log_normal_parameters(jitter_fraction)
    times: list[Array | None] = [np.zeros(size)]
    edges = zip(
        graph.first, delays[graph.first_class].tolist(), graph.second, delays[graph.second_class].tolist(), strict=True
    )
    for event, (a, delay_a, b, delay_b) in enumerate(edges, start=1):
        first, second = times[a], times[b]
        assert first is not None
        assert second is not None
        time = first + delay_a if a == b and delay_a == delay_b else np.maximum(first + delay_a, second + delay_b)
        duration_s = slot_s.get(event, 0.0)
        if duration_s and sigma:
            time += duration_s * (generator.lognormal(mu, sigma, size) - 1.0)
        times.append(time)
        for used in {a, b}:
            if last_use[used] == event:
                times[used] = None
    end = times[-1]
    assert end is not None
    return end


def _slot_durations_s(step: StepGraph, delays: Array) -> dict[int, float]:
    """Seconds of the slot that ends at each event."""
    return {
        event: float(delays[kind])
        for events, kinds in zip(step.slot_events, step.slot_classes, strict=True)
        for event, kind in zip(events, kinds, strict=True)
    }


def _last_use(step: StepGraph) -> list[int]:
    """The last event that waits for each event."""
    last = [0] * (len(step.graph.first) + 1)
    for event, pair in enumerate(zip(step.graph.first, step.graph.second, strict=True), start=1):
        for used in pair:
            last[used] = event
    return last
