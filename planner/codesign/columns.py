"""A study as a flat table: what its CSV file and its DataFrame hold. SI units; what is not there is left empty."""

from __future__ import annotations

import csv
from io import StringIO

from meshwright.costmodel.value import Value
from meshwright.planner.codesign.outcome import ShapeOutcome, ShapePlan
from meshwright.planner.codesign.study import CodesignStudy

AXES = ("pp", "dp", "tp", "sp", "cp", "ep", "etp")
SHAPE_FIELDS = ("total_parameters", "active_parameters", "flops_per_token", "budget_excess")
PLAN_FIELDS = (
    "step_time_s",
    "gap",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "mfu",
    "days",
    "gpu_hours",
    "cost",
    "peak_memory_bytes",
    "memory_limit_bytes",
)
PIPELINE_FIELDS = ("schedule", "virtual_stages", "micro_batch_size")

Cell = str | int | float | bool | None


class Records(Value, frozen=True, kw_only=True):
    """Columns, and a row of as many cells for each shape."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def records(study: CodesignStudy) -> Records:
    """The study as a table."""
    rows = [_record(study, shape) for shape in study.shapes]
    return Records(columns=tuple(rows[0]), rows=tuple(tuple(row.values()) for row in rows))


def csv_bytes(study: CodesignStudy) -> bytes:
    """The table as CSV with a heading, in UTF-8."""
    table, stream = records(study), StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return stream.getvalue().encode()


def _record(study: CodesignStudy, shape: ShapeOutcome) -> dict[str, Cell]:
    plan = shape.plan
    record: dict[str, Cell] = {"shape": shape.name, "base": shape.is_base}
    record |= {name.replace("-", "_"): shape.sizes.get(name) for name in (*study.vary, study.adjust)}
    record |= {"status": shape.status.value, "reason": shape.reason, "front": shape.front.value}
    record |= {name: getattr(shape, name) for name in SHAPE_FIELDS}
    record |= {name: getattr(plan, name, None) for name in PLAN_FIELDS}
    return record | _plan_record(plan)


def _plan_record(plan: ShapePlan | None) -> dict[str, Cell]:
    """The choices of a plan, a column each."""
    names = (*AXES, *PIPELINE_FIELDS, "zero", "offload_optimizer", "recompute")
    if plan is None:
        return dict.fromkeys(names)
    axes = {axis: getattr(plan.mesh, axis) for axis in AXES}
    pipeline = {
        "schedule": plan.schedule.value,
        "virtual_stages": plan.virtual_stages,
        "micro_batch_size": plan.micro_batch_size,
    }
    state = {"zero": plan.sharding.stage, "offload_optimizer": plan.sharding.offload_optimizer}
    return {**axes, **pipeline, **state, "recompute": " ".join(plan.recompute)}
