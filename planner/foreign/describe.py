"""The result of a check in words and tables, as sections that the command line prints."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import predict
from meshwright.costmodel.units import format_bytes
from meshwright.planner.describe.headline import seconds, speed_rows
from meshwright.planner.describe.layers import layers_section, mesh_section, pipeline_section
from meshwright.planner.describe.memory import memory_section
from meshwright.planner.describe.section import Section, gib, percent
from meshwright.planner.describe.step_time import step_time_section
from meshwright.planner.foreign.advice import Advice
from meshwright.planner.foreign.best_plan import BestPlan
from meshwright.planner.foreign.check import FRAMEWORKS, CheckResult
from meshwright.planner.foreign.settings import IgnoredUse
from meshwright.planner.foreign.violation import Violation
from meshwright.planner.layer_splits import layers_mesh, strategies_of
from meshwright.planner.layer_words import RECOMPUTE_WORDS
from meshwright.planner.plan import Plan, SearchRecord
from meshwright.planner.plan_conversion import build_plan

NUM_ADVICE = 8
AXES = ("pp", "dp", "tp", "sp", "cp", "ep", "etp")
NO_SEARCH = SearchRecord(
    candidates=0,
    rejected=0,
    pruned=0,
    solved=0,
    objective_s=0.0,
    lower_bound_s=0.0,
    gap=1.0,
    order_gap=1.0,
    solve_time_s=0.0,
    space="not searched: a configuration written by hand",
    solvers=(),
)


def describe_check(result: CheckResult, *, verbose: bool) -> tuple[Section, ...]:
    """Verdict, broken rules, what became of the options, prediction, best plan, advice."""
    sections = [verdict_section(result), _problems_section(result), *_option_sections(result, verbose=verbose)]
    if result.configuration is not None:
        sections += _plan_sections(as_plan(result.configuration))
    sections += [_best_section(result), _advice_section(result)]
    return tuple(section for section in sections if section.rows or section.lines)


def verdict_section(result: CheckResult) -> Section:
    """Legal, fits, how fast, how far from the best: one line each."""
    title = FRAMEWORKS[result.framework].title
    lines = [f"legal       {_legal_words(result, title)}"]
    prediction = result.prediction
    if prediction is not None:
        peak, limit = max(prediction.peak_memory_bytes), prediction.memory_limit_bytes
        over = f"{format_bytes(peak - limit)} too much" if peak > limit else f"{format_bytes(limit - peak)} to spare"
        lines.append(
            f"fits        {'yes' if result.fits else 'no'}: {format_bytes(peak)} of {format_bytes(limit)}, {over}"
        )
        lines += [f"{label:<12}{text}" for label, text in speed_rows(prediction)]
    lines += [f"from best   {_gap_words(result)}"] if prediction is not None else []
    name = result.configuration.model.name if result.configuration else result.where
    return Section(title=f"{name} on {result.num_gpus:,} GPUs as configured for {title}", lines=tuple(lines))


def _legal_words(result: CheckResult, title: str) -> str:
    if result.legal:
        return f"yes, as far as {title}'s rules are known here"
    count = len(result.problems)
    return f"no: {count} broken rule{'s' if count > 1 else ''}, see below"


def _gap_words(result: CheckResult) -> str:
    if result.best is None or result.gap is None:
        return "not searched"
    best = f"the best plan found ({seconds(result.best.step_time_s)})"
    if not result.fits:
        return f"does not fit; {best} does"
    if result.gap <= 0:
        return f"no slower than {best}"
    return f"{percent(1.0 / (1.0 - result.gap) - 1.0)} slower than {best}"


def _problems_section(result: CheckResult) -> Section:
    return Section(title="Broken rules", lines=tuple(_problem_words(problem) for problem in result.problems))


def _problem_words(problem: Violation) -> str:
    here = f"; here {problem.values}" if problem.values else ""
    return f"{problem.whose}: {problem.rule}{here}" + (f"; would do: {problem.fix}" if problem.fix else "")


# What became of the options.


def _option_sections(result: CheckResult, *, verbose: bool) -> list[Section]:
    unknown = [
        f"{flag.option}{f' (line {flag.line})' if flag.line else ''}: unknown"
        + (f"; did you mean {flag.suggestion}?" if flag.suggestion else "")
        for flag in result.unknown_flags
    ]
    return [
        Section(title="Options that the framework does not have", lines=tuple(unknown)),
        Section(
            title="Matters, but is not modelled",
            lines=tuple(f"{use.option}: {use.why}" for use in result.unmodelled_flags),
        ),
        Section(title="Not followed", lines=result.notes),
        _ignored_section(result.ignored_flags, verbose=verbose),
    ]


def _ignored_section(ignored: tuple[IgnoredUse, ...], *, verbose: bool) -> Section:
    groups: dict[str, list[str]] = {}
    for use in ignored:
        groups.setdefault(use.group, []).append(use.option)
    if not groups:
        return Section(title="")
    if verbose:
        lines = tuple(f"{group}: {', '.join(options)}" for group, options in groups.items())
    else:
        counts = ", ".join(f"{len(options)} {group}" for group, options in groups.items())
        lines = (f"{len(ignored)} option{'s' if len(ignored) > 1 else ''}: {counts}; -v lists them",)
    return Section(title="No effect on the prediction", lines=lines)


# The run and its prediction.


def as_plan(configuration: TrainingConfiguration) -> Plan:
    """A configuration as a plan that nothing was searched or proven for."""
    return build_plan(configuration, predict(configuration), NO_SEARCH)


def _plan_sections(plan: Plan) -> tuple[Section, ...]:
    return (
        mesh_section(plan),
        layers_section(plan),
        pipeline_section(plan),
        memory_section(plan),
        step_time_section(plan),
    )


def _recompute_words(configuration: TrainingConfiguration) -> str:
    policies = [strategy.recompute for stage in configuration.stages for strategy in stage]
    kinds = list(dict.fromkeys(policies))
    if len(kinds) == 1:
        return RECOMPUTE_WORDS[kinds[0]]
    return "; ".join(f"{RECOMPUTE_WORDS[kind]} in {_layers(policies.count(kind))}" for kind in kinds)


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _best_section(result: CheckResult) -> Section:
    best = result.best
    if best is None:
        return Section(title="")
    return Section(title="The best plan found", lines=tuple(_best_lines(best)))


def _best_lines(best: BestPlan) -> Iterable[str]:
    configuration = best.configuration
    mesh, pipeline = layers_mesh(configuration.mesh, strategies_of(configuration)), configuration.pipeline
    degrees = " ".join(f"{axis} {getattr(mesh, axis)}" for axis in AXES if getattr(mesh, axis) > 1) or "one GPU"
    chunks = f" x {pipeline.virtual_stages}" if pipeline.virtual_stages > 1 else ""
    yield f"{seconds(best.step_time_s)}, {gib(best.peak_memory_bytes)} GiB at the fullest stage"
    state = f"ZeRO-{configuration.sharding.stage}"
    yield f"{degrees}, {pipeline.schedule}{chunks}, micro-batch {pipeline.micro_batch}, {state}"
    yield f"recomputed: {_recompute_words(configuration)}"
    if best.switches:
        yield f"with {best.switches}"
    if best.is_advised:
        yield "with all of the changes below: they leave the searched space, whose best plan is slower"
    if best.beyond:
        yield f"uses what the framework has not: {'; '.join(best.beyond)}"


def _advice_section(result: CheckResult) -> Section:
    prediction = result.prediction
    if prediction is None:
        return Section(title="")
    fits = bool(result.fits)
    title = "Single changes that buy most" if fits else "Single changes that make it fit"
    if not fits and not any(advice.fits for advice in result.advice):
        title = "No single change makes it fit; these save most memory"
    rows = tuple(
        (advice.change, seconds(advice.step_time_s), f"{-advice.gain * 100:+z.1f} %", gib(advice.peak_memory_bytes))
        for advice in result.advice[:NUM_ADVICE]
    )
    notes = tuple(f"one after another: {_advice_words(last)}" for last in result.combined)
    return Section(title=title, columns=("change", "step", "step time", "peak GiB"), rows=rows, notes=notes)


def _advice_words(advice: Advice) -> str:
    figures = f"{seconds(advice.step_time_s)} ({-advice.gain * 100:+z.1f} %), {gib(advice.peak_memory_bytes)} GiB"
    return f"{advice.change}: {figures}"
