"""Which changes of a configuration buy most: every legal single one is predicted, then one is taken after another."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import schedule_of, stage_memory
from meshwright.costmodel.value import Value
from meshwright.planner.foreign.framework import Framework
from meshwright.planner.foreign.settings import Settings, SettingValue
from meshwright.planner.validation.validation import predicted_step_s

LEAST_GAIN = 0.002
"""Changes that gain less than this share of the step are not worth a line."""
MAX_ROUNDS = 6


class Advice(Value, frozen=True, kw_only=True):
    """A change as the framework writes it, and what it would do. `gain`: share of the step that it saves."""

    change: str
    step_time_s: float
    gain: float
    peak_memory_bytes: float
    fits: bool


class Outcome(Value, frozen=True, kw_only=True):
    """What a configuration comes to: seconds of a step, bytes of the fullest stage, whether that fits."""

    step_time_s: float
    peak_bytes: float
    fits: bool


class Start(Value, frozen=True, kw_only=True):
    """What changes are made to: settings, what they stand for on a cluster, and what that comes to."""

    framework: Framework
    settings: Settings
    cluster: ClusterSpec
    expert_imbalance: float
    configuration: TrainingConfiguration
    outcome: Outcome


class Course(Value, frozen=True, kw_only=True):
    """The best change, on top of it the best next one, and so on: all of them, how many, and where that ends."""

    changes: dict[str, SettingValue]
    num_rounds: int
    end: Start


class Changed(Value, frozen=True, kw_only=True):
    """A change that keeps every rule, and what comes of it."""

    changes: dict[str, SettingValue]
    configuration: TrainingConfiguration
    outcome: Outcome


def advise(start: Start) -> tuple[Advice, ...]:
    """Single changes, best first.

    Of a configuration that fits: what fits and is faster. Of one that does not: what fits, fastest first; where nothing
    does, what saves most memory.
    """
    return tuple(_advice(start, changed.changes, changed.outcome) for changed in _ranked(start))


def follow(start: Start) -> Course:
    """Take the best single change, then the best next one, until none is worth it."""
    changes: dict[str, SettingValue] = {}
    here, rounds = start, 0
    while rounds < MAX_ROUNDS and (ranked := _ranked(here)):
        best, rounds = ranked[0], rounds + 1
        changes |= best.changes
        here = msgspec.structs.replace(
            here,
            settings=here.settings.changed(best.changes),
            configuration=best.configuration,
            outcome=best.outcome,
        )
    return Course(changes=changes, num_rounds=rounds, end=here)


def combine(start: Start, course: Course) -> tuple[Advice, ...]:
    """All changes of a course as one; empty where one change is all there is."""
    return (_advice(start, course.changes, course.end.outcome),) if course.num_rounds > 1 else ()


def switches(start: Start, course: Course) -> str:
    """Those changes of a course without which the framework would run in another way: its overlap, its formats."""
    runtime = course.end.configuration.runtime
    needed = {
        name: value
        for name, value in course.changes.items()
        if _runtime(start, {other: course.changes[other] for other in course.changes if other != name}) != runtime
    }
    return start.framework.write(start.settings, needed)


def _runtime(start: Start, changes: dict[str, SettingValue]) -> RuntimeSpec | None:
    """How the framework runs with changes; None where they contradict each other."""
    try:
        settings = start.settings.changed(changes)
        return start.framework.configuration_of(settings, start.cluster, start.expert_imbalance).runtime
    except MeshwrightError:
        return None


def _advice(start: Start, changes: dict[str, SettingValue], outcome: Outcome) -> Advice:
    return Advice(
        change=start.framework.write(start.settings, changes),
        step_time_s=outcome.step_time_s,
        gain=1.0 - outcome.step_time_s / start.outcome.step_time_s,
        peak_memory_bytes=outcome.peak_bytes,
        fits=outcome.fits,
    )


def _outcome(configuration: TrainingConfiguration, *, only_fitting: bool) -> Outcome | None:
    """What a configuration comes to; None where it does not fit and that is all that counts."""
    memory = stage_memory(schedule_of(configuration), stage_costs(configuration))
    peak_bytes = max(stage.total for stage in memory)
    fits = peak_bytes <= memory_limit_bytes(configuration.cluster.gpu.usable_memory_bytes)
    if only_fitting and not fits:
        return None
    return Outcome(step_time_s=predicted_step_s(configuration), peak_bytes=peak_bytes, fits=fits)


def _ranked(start: Start) -> list[Changed]:
    found, here = _changed(start), start.outcome
    if here.fits:
        least_s = here.step_time_s * (1.0 - LEAST_GAIN)
        faster = [one for one in found if one.outcome.step_time_s <= least_s]
        return sorted(faster, key=lambda one: one.outcome.step_time_s)
    fitting = [one for one in found if one.outcome.fits]
    if fitting:
        return sorted(fitting, key=lambda one: one.outcome.step_time_s)
    smaller = [one for one in found if one.outcome.peak_bytes < here.peak_bytes]
    return sorted(smaller, key=lambda one: one.outcome.peak_bytes)


def _changed(start: Start) -> list[Changed]:
    """Every change that keeps the rules and makes a difference; of several with the same result the first."""
    framework, cluster = start.framework, start.cluster
    already = framework.broken_rules(start.settings, cluster.num_gpus)
    found: list[Changed] = []
    seen = {_key(start.configuration)}
    for edit in framework.edits(start.settings, start.configuration):
        settings = start.settings.changed(edit.changes)
        if any(rule not in already for rule in framework.broken_rules(settings, cluster.num_gpus)):
            continue
        try:
            configuration = framework.configuration_of(settings, cluster, start.expert_imbalance)
            key = _key(configuration)
            if key not in seen:
                seen.add(key)
                outcome = _outcome(configuration, only_fitting=start.outcome.fits)
                if outcome is not None:
                    found.append(Changed(changes=edit.changes, configuration=configuration, outcome=outcome))
        except MeshwrightError:
            continue
    return found


def _key(configuration: TrainingConfiguration) -> tuple[object, ...]:
    """What tells two changes of one configuration apart: model and cluster stay the same."""
    parts = (configuration.workload, configuration.runtime, configuration.mesh, configuration.sharding)
    return (*parts, configuration.pipeline, configuration.stages)
