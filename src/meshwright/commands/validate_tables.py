"""The tables of `meshwright validate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from meshwright.commands.output import print_table

if TYPE_CHECKING:
    from meshwright.planner.validation.own_fit import OwnFits
    from meshwright.planner.validation.peers import PeerCase
    from meshwright.planner.validation.ranking import Ranking
    from meshwright.planner.validation.rows import RowText
    from meshwright.planner.validation.statistics import ErrorSummary
    from meshwright.planner.validation.summary import Summary
    from meshwright.planner.validation.validation import RowResult

NUM_WORST = 15
SUMMARY_COLUMNS = (
    "runs",
    "rows",
    "predicted",
    "MAPE",
    "median",
    "90 % below",
    "bias",
    "held-out MAPE",
    "held-out median",
    "held-out 90 % below",
    "held-out bias",
    "in 90 % interval",
)
ROW_COLUMNS = ("row", "framework", "model", "measured [tokens/s/GPU]", "predicted [tokens/s/GPU]", "error", "held out")


def print_report(table: Sequence[RowText], results: Sequence[RowResult], *, packaged: bool) -> None:
    """Everything but a fit of one's own."""
    from meshwright.planner.validation.summary import summary_of

    summary = summary_of(results)
    _print_summary(summary)
    _print_memory(results, summary)
    _print_worst(results)
    _print_unpredicted(results)
    if packaged:
        _print_parameters()
        _print_peers()
    else:
        _print_trust(table, results)


def percent(value: float | None, *, signed: bool = False) -> str:
    """A share in percent, or a dash."""
    if value is None:
        return "-"
    return f"{value:+.1%}" if signed else f"{value:.1%}"


def _print_summary(summary: Summary) -> None:
    rows = []
    fit, held_out = summary.fit, summary.held_out
    for name, part in fit.by_table_row.items():
        apart = held_out.by_table_row[name]
        inside = percent(summary.coverage[name].share) if name in summary.coverage else "-"
        rows.append((name, str(part.rows), str(part.predicted), *_errors(part), *_errors(apart), inside))
    print_table("Errors of predicted throughput; held out: by fits without the run's model", SUMMARY_COLUMNS, rows)


def _errors(part: ErrorSummary) -> tuple[str, ...]:
    return (
        percent(part.mape),
        percent(part.median_ape),
        percent(part.p90_ape),
        percent(part.bias, signed=True),
    )


def _print_memory(results: Sequence[RowResult], summary: Summary) -> None:
    printed = [row for row in results if row.memory and row.memory.error is not None]
    rows = [
        (
            row.id,
            row.model,
            f"{row.memory.measured_gib:.1f}",
            f"{row.memory.predicted_gib:.1f}",
            percent(row.memory.error, signed=True),
        )
        for row in sorted(printed, key=lambda row: -abs(row.memory.error or 0.0) if row.memory else 0.0)[:NUM_WORST]
        if row.memory and row.memory.measured_gib
    ]
    if rows:
        memory = summary.memory
        title = (
            f"Peak memory where it was printed: {memory.rows} rows, median error {percent(memory.median_ape)},"
            f" bias {percent(memory.bias, signed=True)}; the {len(rows)} worst"
        )
        print_table(title, ("row", "model", "measured [GiB]", "predicted [GiB]", "error"), rows)
    over = [row for row in results if row.memory and not row.memory.fits]
    if over:
        cells = [(row.id, row.model, f"{row.memory.predicted_gib:.1f}") for row in over if row.memory]
        print_table("Ran, but predicted not to fit", ("row", "model", "predicted [GiB]"), cells)


def _print_worst(results: Sequence[RowResult]) -> None:
    known = [result for result in results if result.error is not None]
    worst = sorted(known, key=lambda result: -abs(result.held_out_error or result.error or 0.0))[:NUM_WORST]
    rows = [
        (
            result.id,
            result.description or result.framework,
            result.model,
            f"{result.measured_tokens_per_s_per_gpu:,.0f}",
            f"{result.predicted_tokens_per_s_per_gpu:,.0f}",
            percent(result.error, signed=True),
            percent(result.held_out_error, signed=True),
        )
        for result in worst
    ]
    if rows:
        print_table(f"The {len(rows)} worst rows", ROW_COLUMNS, rows)


def _print_unpredicted(results: Sequence[RowResult]) -> None:
    rows = [(result.id, result.status.value, result.reason) for result in results if result.error is None]
    if rows:
        print_table(f"Not predicted: {len(rows)}", ("row", "status", "reason"), rows)


def _print_parameters() -> None:
    from meshwright.planner.validation.fit_record import fit_record
    from meshwright.planner.validation.free_parameters import free_parameters

    rows = []
    for fit in fit_record().frameworks:
        for one in free_parameters()[fit.framework]:
            folds = [fold.values[one.name] for fold in fit.folds]
            bounds = f"{one.low:g} to {one.high:g}"
            spread = f"{min(folds):g} to {max(folds):g}"
            rows.append((fit.framework, one.name, f"{fit.values[one.name]:g}", spread, bounds, one.why))
    columns = ("framework", "fitted parameter", "value", "folds", "bounds", "why it cannot be known")
    print_table("What is fitted (meshwright validate --fit)", columns, rows)


def _print_trust(table: Sequence[RowText], results: Sequence[RowResult]) -> None:
    from meshwright.planner.validation.trust import trust

    found = trust(table, results)
    typer.echo(f"{found.verdict}\n")
    rows = [(row.id, percent(row.error, signed=True), "; ".join(row.reasons)) for row in found.off]
    if rows:
        print_table("Outside of their 90 % interval, and what is known", ("row", "error", "why it may be"), rows)


def print_own_fit(own: OwnFits) -> None:
    """What was fitted to one's own runs, and how well it holds for runs that were left out."""
    rows = []
    for one in own.fits:
        values = ", ".join(f"{name} {value:g}" for name, value in one.fit.values.items())
        medians = (percent(part.median_ape) for part in (one.shipped, one.fitted, one.held_out))
        biases = (percent(part.bias, signed=True) for part in (one.shipped, one.fitted, one.held_out))
        rows.append((one.fit.framework, str(one.fit.rows), *medians, *biases, values))
    columns = (
        "framework",
        "rows",
        "median as shipped",
        "median fitted",
        "median held out",
        "bias as shipped",
        "bias fitted",
        "bias held out",
        "values",
    )
    print_table("Fitted to these runs; nothing was written", columns, rows)
    for reason in own.left_out:
        typer.echo(f"not fitted: {reason}")


def _print_peers() -> None:
    from meshwright.planner.validation.peers import HELD_OUT, OURS, TOOLS, peer_cases, peer_summaries

    cases = peer_cases()
    names = (OURS, HELD_OUT, *TOOLS)
    rows = [_peer_row(case, names) for case in cases]
    for kind in dict.fromkeys(case.kind for case in cases):
        means = peer_summaries(cases, kind)
        cells = tuple(
            f"{percent(means[name].mape)} ({means[name].predicted})" if means[name].predicted else "-" for name in names
        )
        rows.append((f"mean absolute error, {kind} (cases)", "", *cells))
    columns = ("case", "measured [s]", OURS, HELD_OUT, *TOOLS.values())
    print_table("Errors of step time beside other tools, one fixed setting each", columns, rows)


def _peer_row(case: PeerCase, names: tuple[str, ...]) -> tuple[str, ...]:
    errors = (percent(case.errors[name], signed=True) for name in names)
    return (case.case, f"{case.measured_step_time_s:.2f}", *errors)


def print_rankings(cases: Sequence[PeerCase], plans: Sequence[Ranking]) -> None:
    """How plans are ordered, beside other tools."""
    from meshwright.planner.validation.peers import TOOLS
    from meshwright.planner.validation.ranking import PEER_REGRET, PEER_SPEARMAN, plan_rankings

    rows = [
        (TOOLS.get(tool, tool), str(one.plans), f"{one.spearman:+.2f}", percent(one.regret), one.picked)
        for tool, one in plan_rankings(cases).items()
    ]
    columns = ("tool", "plans", "Spearman", "regret", "picked")
    print_table("Qwen3-235B on 256 H100: measured 19.7, 17.6, 24.2 and 29.0 s", columns, rows)
    cells = [
        (
            one.name,
            str(one.plans),
            f"{one.spearman:.2f}",
            *(f"{PEER_SPEARMAN[tool][i]:.2f}" for tool in PEER_SPEARMAN),
            percent(one.regret),
            one.picked,
            one.best,
        )
        for i, one in enumerate(plans)
    ]
    names = tuple(f"{TOOLS[tool]}, regret up to {PEER_REGRET[tool]:.1%}" for tool in PEER_SPEARMAN)
    print_table(
        "109 measured plans on A100: Spearman's rank correlation by model, held out",
        ("model", "plans", "meshwright", *names, "our regret", "our pick", "best"),
        cells,
    )
