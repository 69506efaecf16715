"""A study as sections of a report: the question, the table of shapes, those without a plan, how to read it."""

from __future__ import annotations

from meshwright.planner.codesign.budget import Measure
from meshwright.planner.codesign.outcome import Front, ShapeOutcome, ShapePlan, Status
from meshwright.planner.codesign.study import CodesignStudy
from meshwright.planner.describe.certificate import AXES
from meshwright.planner.describe.headline import billions, seconds
from meshwright.planner.describe.section import Section, gib

MEASURE_WORDS = {
    Measure.PARAMETERS: "total parameters",
    Measure.ACTIVE_PARAMETERS: "active parameters",
    Measure.FLOPS: "training FLOPs a token",
}
MARKS = {Front.ON: "*", Front.NEAR: "(*)", Front.OFF: "", Front.NONE: ""}
BASE = "base"


def describe_study(study: CodesignStudy) -> tuple[Section, ...]:
    """All of it, in reading order."""
    planned = [shape for shape in study.shapes if shape.plan is not None]
    others = [shape for shape in study.shapes if shape.plan is None]
    sections = [_question(study)]
    if planned:
        sections.append(_table(study, planned))
    if others:
        sections.append(_without_plan(study, others))
    return tuple(sections)


def measure_text(measure: Measure, amount: float) -> str:
    """An amount with its unit.

    >>> measure_text(Measure.PARAMETERS, 351.86e9), measure_text(Measure.FLOPS, 282.5e9)
    ('351.9 B', '282.5 GFLOP/token')
    """
    return f"{amount / 1e9:,.1f} GFLOP/token" if measure is Measure.FLOPS else billions(round(amount))


def giga(number: float) -> str:
    """Billions, as digits without a unit.

    >>> giga(351.86e9), giga(12.88e9), giga(71_345_152)
    ('351.9', '12.88', '0.071')
    """
    return f"{number / 1e9:,.{1 if number >= 1e11 else 2 if number >= 1e9 else 3}f}"


def tokens_text(tokens: float) -> str:
    """A number of tokens in trillions or billions.

    >>> tokens_text(15e12), tokens_text(3e11)
    ('15 T tokens', '300 B tokens')
    """
    return f"{tokens / 1e12:g} T tokens" if tokens >= 1e12 else f"{tokens / 1e9:g} B tokens"


def plan_text(plan: ShapePlan) -> str:
    """A plan in a few words: mesh, schedule, micro-batch, model state."""
    axes = [f"{axis}{getattr(plan.mesh, axis)}" for axis in AXES if getattr(plan.mesh, axis) > 1]
    chunks = f" x {plan.virtual_stages}" if plan.virtual_stages > 1 else ""
    state = f"zero{plan.sharding.stage}{', optimizer on the host' if plan.sharding.offload_optimizer else ''}"
    return f"{' '.join(axes) or 'one GPU'}, {plan.schedule}{chunks}, mbs {plan.micro_batch_size}, {state}"


def _question(study: CodesignStudy) -> Section:
    budget, workload = study.budget, study.workload
    steps = f" to a multiple of {study.multiple}" if study.multiple > 1 else ""
    held = f"{MEASURE_WORDS[budget.measure]}, {measure_text(budget.measure, budget.amount)}"
    varied = "; ".join(f"{name} {', '.join(map(str, sizes))}" for name, sizes in study.vary.items())
    rows = (
        ("base", study.model),
        ("cluster", f"{study.num_gpus:,} GPUs, {study.cluster}"),
        ("workload", f"{workload.global_batch:,} x {workload.seq_len:,} tokens a step, {workload.precision.upper()}"),
        ("held", f"{held} within {budget.tolerance_fraction:.1%}, by {study.adjust} rounded{steps}"),
        ("varied", varied),
    )
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}  {text}" for label, text in rows]
    return Section(title=f"Shapes of {study.model}", lines=(*lines, *_partial(study)))


def _partial(study: CodesignStudy) -> tuple[str, ...]:
    done = sum(shape.status is not Status.NOT_DONE for shape in study.shapes)
    return (f"PARTIAL: {study.stopped} after {done} of {len(study.shapes)} shapes",) if study.is_partial else ()


def _table(study: CodesignStudy, planned: list[ShapeOutcome]) -> Section:
    columns = (
        "front",
        *_size_columns(study),
        "total [B]",
        "active [B]",
        "GFLOP/ token",
        "step",
        "gap",
        "tokens/s a GPU",
        "MFU",
        "days",
        "peak GiB",
        "plan",
    )
    return Section(
        title="Best plan of each shape",
        columns=columns,
        rows=tuple(_row(study, shape, shape.plan) for shape in planned if shape.plan is not None),
        notes=_notes(study),
    )


def _size_columns(study: CodesignStudy) -> tuple[str, ...]:
    return tuple(name.replace("-", " ") for name in (*study.vary, study.adjust))


def _row(study: CodesignStudy, shape: ShapeOutcome, plan: ShapePlan) -> tuple[str, ...]:
    return (
        " ".join(filter(None, (MARKS[shape.front], BASE if shape.is_base else ""))),
        *(str(shape.sizes[name]) for name in (*study.vary, study.adjust)),
        giga(shape.total_parameters or 0),
        giga(shape.active_parameters or 0),
        giga(shape.flops_per_token or 0.0),
        seconds(plan.step_time_s),
        f"{plan.gap * 100:.2f} %",
        f"{plan.tokens_per_s_per_gpu:,.0f}",
        f"{plan.mfu * 100:.1f} %",
        "-" if plan.days is None else f"{plan.days:,.1f}",
        gib(plan.peak_memory_bytes),
        plan_text(plan),
    )


def _notes(study: CodesignStudy) -> tuple[str, ...]:
    capacity = MEASURE_WORDS[study.capacity]
    failures = "failures and restarts at the cluster's rate included" if study.with_failures else "no failures counted"
    days = f"days: to train on {tokens_text(study.tokens)}, {failures}"
    near = any(shape.front is Front.NEAR for shape in study.shapes)
    return (
        f"*: on the Pareto front of step time (small) and {capacity} (large); all shapes have the same batch and"
        " cluster, so step time stands for the cost of training",
        *(("(*): beaten by less than the gap its search leaves, so it may be on the front",) if near else ()),
        days,
        "what a shape learns from a token is not modelled: the front says what is cheap to train, not what is good",
        *(("PARTIAL: the front is that of the shapes that were reached",) if study.is_partial else ()),
    )


def _without_plan(study: CodesignStudy, others: list[ShapeOutcome]) -> Section:
    names = (*study.vary, study.adjust)
    rows = (
        (*(str(shape.sizes.get(name, "-")) for name in names), shape.status.value, shape.reason or "-")
        for shape in others
    )
    return Section(
        title=f"Shapes without a plan: {len(others)}",
        columns=(*_size_columns(study), "status", "reason"),
        rows=tuple(rows),
    )
