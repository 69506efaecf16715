"""A whole training run in words: its steps, what interrupts it, days and cost."""

from __future__ import annotations

from meshwright.costmodel.units import format_time
from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import Section, percent
from meshwright.planner.goodput import Budget, Interruptions, RoutingOutlook, StepSpread, TrainingOutlook


def outlook_sections(outlook: TrainingOutlook) -> tuple[Section, ...]:
    """The outlook of a run: what routing drops, then how the run gets on, then days and cost."""
    routing = (_routing_section(outlook.routing),) if outlook.routing else ()
    return (*routing, _run_section(outlook), _budget_section(outlook))


def _routing_section(routing: RoutingOutlook) -> Section:
    lines = [f"the busiest expert-parallel rank works on {routing.busiest_rank:.3g} x the mean rows"]
    notes: tuple[str, ...] = ()
    if routing.capacity_factor is None:
        lines.append("dropless: nothing is dropped, nothing is filled up")
    else:
        lines.append(
            f"capacity factor {routing.capacity_factor:g}: {percent(routing.dropped_fraction)} of the routed rows are"
            f" dropped, {percent(routing.filled_fraction)} of the rows computed are filled up with zeros"
        )
        notes = ("tokens/s and MFU count dropped rows as trained",) if routing.dropped_fraction else ()
    where = f", {routing.placement} on ranks" if routing.placement else ""
    return Section(title=f"Expert load: {routing.load}{where}", lines=tuple(lines), notes=notes)


def _run_section(outlook: TrainingOutlook) -> Section:
    stops = outlook.interruptions
    rows = (*_step_rows(outlook.step), *(_stop_rows(stops, outlook) if stops else ()))
    width = max(len(label) for label, _ in rows)
    title = f"Training {_tokens(outlook.tokens)} tokens: {outlook.num_steps:,} steps"
    return Section(title=title, lines=tuple(f"{label:<{width}}  {text}" for label, text in rows), notes=_notes(outlook))


def _step_rows(step: StepSpread) -> tuple[tuple[str, str], ...]:
    if not step.num_steps:
        return (("step time", seconds(step.steady_s)),)
    drawn = f"{step.num_steps} steps drawn of {step.num_replicas} independent replicas"
    return (
        ("step time", f"{seconds(step.mean_s)} on average, {seconds(step.steady_s)} without jitter"),
        ("", f"median {seconds(step.p50_s)}, 95 % below {seconds(step.p95_s)}"),
        ("", f"{drawn}; standard error of the mean {format_time(step.standard_error_s)}"),
    )


def _stop_rows(stops: Interruptions, outlook: TrainingOutlook) -> tuple[tuple[str, str], ...]:
    runs = outlook.runs
    failures = f", {runs.mean_failures:,.1f} in this run" if runs else ""
    blocks = f"blocks {duration(stops.checkpoint_write_s)}"
    stored = f", safe after another {duration(stops.checkpoint_store_s)}" if stops.checkpoint_store_s else ""
    spares = f"nodes to spare: {stops.num_spare_nodes}; a failed one is away for {duration(stops.repair_s)}"
    waiting = (
        (("repairs", f"{spares}; the run waits {percent(stops.waiting_fraction)} of the time"),)
        if stops.repair_s
        else ()
    )
    return (
        ("failures", f"one in {duration(stops.mean_time_between_failures_s)} on average{failures}"),
        ("after each", f"{duration(stops.detection_s)} to detect it, {duration(stops.restart_s)} to restart"),
        ("checkpoints", f"one in {duration(stops.checkpoint_interval_s)}; {blocks}{stored}"),
        *waiting,
        ("effective", f"{percent(stops.effective_fraction)} of the time trains (closed form)"),
        *((("", _simulated_words(outlook)),) if runs else ()),
    )


def _simulated_words(outlook: TrainingOutlook) -> str:
    runs = outlook.runs
    assert runs is not None
    low, high = runs.effective_fraction_interval
    drawn = f"{runs.num_runs:,} runs drawn, seed {outlook.seed}"
    return f"{percent(runs.mean_effective_fraction)}, 90 % of runs within {percent(low)} to {percent(high)} ({drawn})"


def _notes(outlook: TrainingOutlook) -> tuple[str, ...]:
    assumed = tuple(f"assumed: {assumption}" for assumption in outlook.assumptions)
    if not outlook.interruptions:
        return assumed
    return (*assumed, "not in the interval: how well the step time and the mean time between failures are known")


def _budget_section(outlook: TrainingOutlook) -> Section:
    if outlook.expected is None or (outlook.interruptions and not outlook.runs):
        return Section(
            title="Days and cost",
            lines=("the run hardly gets on: failures come faster than it recovers from them",),
        )
    names = ("expected (closed form)", "mean of runs drawn", "90 % interval: from", "to")
    budgets = (outlook.expected, outlook.simulated, outlook.low, outlook.high)
    rows = [(name, *_cells(budget)) for name, budget in zip(names, budgets, strict=True) if budget is not None]
    if not outlook.interruptions:
        rows = rows[:1]
    has_price = outlook.expected.cost is not None
    return Section(
        title="Days and cost",
        columns=("", "days", "GPU-hours", *(("cost",) if has_price else ())),
        rows=tuple(rows),
        notes=() if has_price else ("no cost: the cluster has no price_per_gpu_hour",),
    )


def _cells(budget: Budget) -> tuple[str, ...]:
    cost = () if budget.cost is None else (f"{budget.cost:,.0f}",)
    return (f"{budget.days:,.2f}", f"{budget.gpu_hours:,.0f}", *cost)


def duration(time_s: float) -> str:
    """A duration, in minutes where that reads best.

    >>> duration(0.0665), duration(90.0), duration(600.0), duration(126780.0)
    ('66.5 ms', '90 s', '10 min', '35.2 h')
    """
    return f"{time_s / 60:.3g} min" if 120.0 <= time_s < 7200.0 else format_time(time_s)


def _tokens(number: float) -> str:
    """A number of tokens.

    >>> _tokens(15e12), _tokens(2e9), _tokens(5e6)
    ('15 T', '2 B', '5 M')
    """
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:,.4g} {unit}"
    return f"{number:,.0f}"
