"""A sweep in words and tables, for people."""

from __future__ import annotations

from meshwright.planner.describe.comparison import value_words
from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import Section, gib, percent
from meshwright.planner.sweep.result import SweepResult
from meshwright.planner.sweep.row import Outcome, SweepRow

MAX_SHOWN = 400
SHOWN_OF_MANY = 50
"""Rows shown where there are more: the best of them."""

PLAN = "the plan"


def describe_sweep(result: SweepResult) -> tuple[Section, ...]:
    """The points in the order of the grid behind the plan itself; of very many, the best."""
    shown = shown_rows(result)
    rows = ((PLAN, *_plan_cells(result)), *(("", *_row_cells(result, row)) for row in shown))
    title = f"{result.model}: {len(result.rows):,} of {result.num_points:,} points"
    table = Section(title=title, columns=("", *_columns(result)), rows=rows, notes=tuple(_notes(result, len(shown))))
    return (table,)


def shown_rows(result: SweepResult) -> tuple[SweepRow, ...]:
    """All rows, or of very many those that train most tokens a second and fit."""
    if len(result.rows) <= MAX_SHOWN:
        return result.rows
    fitting = [row for row in result.rows if row.outcome is not None and row.outcome.fits]
    return tuple(sorted(fitting, key=_slowness)[:SHOWN_OF_MANY])


def _slowness(row: SweepRow) -> float:
    return -row.outcome.tokens_per_s if row.outcome else 0.0


def short_key(key: str) -> str:
    """The key without its section, in words.

    >>> short_key("cluster.network_bytes_per_s"), short_key("workload.seq_len")
    ('network', 'seq len')
    """
    name = key.rpartition(".")[2]
    for unit in ("_bytes_per_s", "_flops_per_s", "_bytes", "_s"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def _columns(result: SweepResult) -> tuple[str, ...]:
    keys = tuple(map(short_key, result.keys))
    held = ("held step",) if result.replanned else ()
    speed = ("best step" if result.replanned else "step", "change", "tokens/s", "MFU")
    runs = ("effective", "days", "cost") if result.planned.run else ()
    plan = ("gap", "best plan") if result.replanned else ()
    return (*keys, *held, *speed, "peak GiB", "of limit", "fits", *runs, *plan, "reason")


def _plan_cells(result: SweepResult) -> tuple[str, ...]:
    values = _value_cells(result, result.plan_values)
    held = (seconds(result.planned.step_time_s),) if result.replanned else ()
    plan = ("", _plan_words(result.planned)) if result.replanned else ()
    return (*values, *held, *_outcome_cells(result, result.planned), *plan, "")


def _row_cells(result: SweepResult, row: SweepRow) -> tuple[str, ...]:
    held: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    if result.replanned:
        held = (_held_words(row.held),)
        words = "" if row.best is None else _plan_words(row.best)
        plan = ("" if row.gap is None else percent(row.gap), words + (" (held)" if row.is_held else ""))
    return (*_value_cells(result, row.values), *held, *_outcome_cells(result, row.outcome), *plan, row.reason)


def _held_words(held: Outcome | None) -> str:
    if held is None:
        return "-"
    return seconds(held.step_time_s) + ("" if held.fits else " (does not fit)")


def _value_cells(result: SweepResult, values: tuple[int | float | str | bool, ...]) -> tuple[str, ...]:
    return tuple(value_words(key, value) for key, value in zip(result.keys, values, strict=True))


def _outcome_cells(result: SweepResult, outcome: Outcome | None) -> tuple[str, ...]:
    if outcome is None:
        return ("-",) * (10 if result.planned.run else 7)
    change = outcome.step_time_s / result.planned.step_time_s - 1.0
    return (
        seconds(outcome.step_time_s),
        f"{change * 100:+z.1f} %",
        f"{outcome.tokens_per_s:,.0f}",
        percent(outcome.mfu),
        gib(outcome.peak_memory_bytes),
        percent(outcome.peak_memory_bytes / outcome.memory_limit_bytes),
        "yes" if outcome.fits else "no",
        *_run_cells(outcome),
    )


def _run_cells(outcome: Outcome) -> tuple[str, ...]:
    run = outcome.run
    if run is None:
        return ()
    days = "-" if run.days is None else f"{run.days:,.2f}"
    return (percent(run.effective_fraction), days, "-" if run.cost is None else f"{run.cost:,.0f}")


def _plan_words(outcome: Outcome) -> str:
    return f"{outcome.mesh}, {outcome.schedule}"


def _goal_words(result: SweepResult) -> str:
    if "run.tokens" in result.keys or result.planned.run is None:
        return "that many"
    return f"{result.planned.run.tokens:.4g}"


def _notes(result: SweepResult, num_shown: int) -> list[str]:
    notes = [f"note: {warning}" for warning in result.warnings]
    if result.changes:
        notes.append("set at every point: " + ", ".join(f"{key}={value}" for key, value in result.changes))
    if num_shown < len(result.rows):
        best = f"the {num_shown:,} that train most tokens a second and fit"
        notes.append(f"shown of {len(result.rows):,} points: {best}; --csv and --json have all")
    if result.planned.run:
        notes.append(f"days and cost are for {_goal_words(result)} tokens, in closed form")
    if not result.complete:
        missing = result.num_points - len(result.rows)
        notes.append(f"partial: {result.stopped}; {missing:,} of {result.num_points:,} points are missing")
    return notes
