"""A plan as the configuration of another framework, or the reasons why that cannot be.

Settings are found by reading the framework's option table backwards. They are then read as `check` reads a file; what
differs from the plan is either a reason to refuse or a note. So nothing that a framework cannot say is left out in
silence.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InfeasibleError, InputError, MeshwrightError
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.costmodel.units import format_bytes
from meshwright.costmodel.value import Value
from meshwright.planner.describe.headline import seconds
from meshwright.planner.foreign.export.differences import differences, ends_as_layers, ends_note, misfits
from meshwright.planner.foreign.export.plan_command import plan_command
from meshwright.planner.foreign.exporter import Exporter
from meshwright.planner.foreign.framework import Source
from meshwright.planner.foreign.megatron.exporting import TO_MEGATRON
from meshwright.planner.foreign.option_table import option_table
from meshwright.planner.foreign.settings import Settings
from meshwright.planner.foreign.torchtitan.exporting import TO_TORCHTITAN
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of

EXPORTERS = {exporter.framework.name: exporter for exporter in (TO_MEGATRON, TO_TORCHTITAN)}


class Export(Value, frozen=True, kw_only=True):
    """An exported plan: the file's text and the version of the framework whose options it has.

    `differences`: what runs otherwise than planned; `unmodelled`: what the prediction for the framework leaves out;
    `comparison`: both step times in words.
    `step_time_s`, `peak_memory_bytes`: under the framework's runtime; `plan_step_time_s`: what the plan promises.
    """

    framework: str
    version: str
    text: str
    differences: tuple[str, ...]
    comparison: str
    unmodelled: tuple[str, ...]
    plan_step_time_s: float
    step_time_s: float
    peak_memory_bytes: float
    memory_limit_bytes: float


class _Attempt(Value, frozen=True, kw_only=True):
    """Settings, what they are read as, what that comes to, and what of it is not as planned."""

    settings: Settings
    read: TrainingConfiguration
    prediction: StepPrediction
    differences: tuple[str, ...]


def export(plan: Plan, to: str) -> Export:
    """The plan as a file of a framework.

    Raises `InputError` for an unknown framework, and `InfeasibleError` with one line a reason where the framework
    cannot run the plan; its last line is the `plan` command whose plan it can run.
    """
    exporter = _exporter(to)
    planned = configuration_of(plan)
    configuration = ends_as_layers(planned)
    best = _best(exporter, configuration)
    title = exporter.framework.title
    unmodelled = tuple(f"{use.option}: {use.why}" for use in exporter.unmodelled(best.settings, configuration))
    otherwise = (*ends_note(planned, configuration, title), *best.differences)
    best = msgspec.structs.replace(best, differences=otherwise)
    comments = _comments(plan, best, exporter, unmodelled)
    text = exporter.write(best.settings, configuration, comments)
    _check_text(exporter, best.settings, text)
    return Export(
        framework=to,
        version=_version(exporter),
        text=text,
        differences=best.differences,
        comparison=_comparison(plan, best, title),
        unmodelled=unmodelled,
        plan_step_time_s=plan.prediction.step_time_s,
        step_time_s=best.prediction.step_time_s,
        peak_memory_bytes=max(best.prediction.peak_memory_bytes),
        memory_limit_bytes=best.prediction.memory_limit_bytes,
    )


def _exporter(name: str) -> Exporter:
    if name not in EXPORTERS:
        raise InputError("--to", name, f"is unknown; expected {' or '.join(EXPORTERS)}")
    return EXPORTERS[name]


def _best(exporter: Exporter, configuration: TrainingConfiguration) -> _Attempt:
    """The fastest settings that fit and recompute as planned, or else that fit; where there are none, the reasons."""
    obstacles = list(exporter.obstacles(configuration))
    if obstacles:
        raise _refusal(exporter, configuration, obstacles)
    base = exporter.settings_of(configuration)
    reasons: dict[str, None] = {}
    attempts: list[_Attempt] = []
    for changes in exporter.ways(configuration):
        settings = base.changed(changes)
        found = list(_reasons(exporter, settings, configuration))
        if found:
            reasons |= dict.fromkeys(found)
        else:
            attempts.append(_attempt(exporter, settings, configuration))
    if not attempts:
        raise _refusal(exporter, configuration, list(reasons))
    fitting = [attempt for attempt in attempts if attempt.prediction.fits]
    if not fitting:
        raise _refusal(exporter, configuration, [_too_large(exporter, attempts)])
    exact = [attempt for attempt in fitting if _recomputes_alike(attempt.read, configuration)]
    return min(exact or fitting, key=lambda attempt: attempt.prediction.step_time_s)


def _reasons(exporter: Exporter, settings: Settings, configuration: TrainingConfiguration) -> Iterator[str]:
    """Why the framework would not run these settings, or not as this plan."""
    title = exporter.framework.title
    for broken in exporter.broken_rules(settings, configuration):
        yield f"{broken.rule} ({title}); the plan has {broken.values}"
    try:
        read = exporter.configuration_of(settings, configuration)
    except MeshwrightError as error:
        yield str(error)
        return
    yield from misfits(configuration, read, title)


def _attempt(exporter: Exporter, settings: Settings, configuration: TrainingConfiguration) -> _Attempt:
    read = _routed_alike(exporter.configuration_of(settings, configuration), configuration)
    return _Attempt(
        settings=settings,
        read=read,
        prediction=predict(read),
        differences=tuple(differences(configuration, read, exporter.framework.title)),
    )


def _routed_alike(read: TrainingConfiguration, configuration: TrainingConfiguration) -> TrainingConfiguration:
    """With the plan's popularity of experts, which no option says: the same tokens are routed."""
    load = configuration.workload.expert_load
    return msgspec.structs.replace(read, workload=msgspec.structs.replace(read.workload, expert_load=load))


def _recomputes_alike(one: TrainingConfiguration, other: TrainingConfiguration) -> bool:
    return [[strategy.recompute for strategy in stage] for stage in one.stages] == [
        [strategy.recompute for strategy in stage] for stage in other.stages
    ]


def _too_large(exporter: Exporter, attempts: list[_Attempt]) -> str:
    least = min(max(attempt.prediction.peak_memory_bytes) for attempt in attempts)
    limit = attempts[0].prediction.memory_limit_bytes
    needs = f"needs {format_bytes(least)} at least on the fullest GPU"
    return f"it does not fit there: {needs}, of {format_bytes(limit)}, whatever {exporter.framework.title} recomputes"


def _refusal(exporter: Exporter, configuration: TrainingConfiguration, reasons: list[str]) -> InfeasibleError:
    title, runtime = exporter.framework.title, exporter.framework.runtime
    command = plan_command(configuration, runtime=runtime, fixes=exporter.fixes(configuration))
    lines = [f"{title} cannot run this plan", *(f"  {reason}" for reason in reasons)]
    return InfeasibleError("\n".join([*lines, f"this finds one that it can run: {command}"]))


def _comparison(plan: Plan, attempt: _Attempt, title: str) -> str:
    ours, theirs = plan.prediction.step_time_s, attempt.prediction.step_time_s
    return f"step: {seconds(ours)} as planned, {seconds(theirs)} predicted for {title} ({theirs / ours - 1:+.1%})"


def _comments(plan: Plan, attempt: _Attempt, exporter: Exporter, unmodelled: tuple[str, ...]) -> tuple[str, ...]:
    """What stands at the head of the file."""
    title = exporter.framework.title
    cluster = plan.cluster
    lines = [
        f"{plan.model.name} on {cluster.num_gpus} GPUs ({cluster.name}); plan of meshwright {plan.meshwright_version}",
        f"options of {_version(exporter)}",
        _comparison(plan, attempt, title),
    ]
    if attempt.differences:
        lines += ["", "Runs otherwise than planned:", *(f"  {line}" for line in attempt.differences)]
    if unmodelled:
        lines += ["", "Left out of that prediction:", *(f"  {line}" for line in unmodelled)]
    return tuple(lines)


def _version(exporter: Exporter) -> str:
    """The version whose options are known, without the files that were read."""
    return option_table(exporter.framework.name).source.partition(" (")[0]


def _check_text(exporter: Exporter, settings: Settings, text: str) -> None:
    """The file says what the settings say."""
    reading = exporter.framework.read(Source(where="exported", text=text, suffix=exporter.suffix))
    said = {name: value for name, value in reading.settings.values.items() if value != settings.values[name]}
    assert set(said) <= WRITTEN_FOR_USERS, said
    assert reading.unknown == (), reading.unknown
    assert reading.notes == (), reading.notes


WRITTEN_FOR_USERS = frozenset(("tokenizer_type", "tokenizer_model", "moe_router_load_balancing_type"))
"""Settings that the file leaves to variables, or that a plan has no choice in."""
