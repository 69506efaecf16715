"""`meshwright validate`: how well predictions agree with published training runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_json, print_table

if TYPE_CHECKING:
    from meshwright.planner.validation.peers import PeerCase
    from meshwright.planner.validation.rows import RowText
    from meshwright.planner.validation.statistics import ErrorSummary
    from meshwright.planner.validation.validation import RowResult, Summary

NUM_WORST = 15
SUMMARY_COLUMNS = ("runs", "rows", "predicted", "MAPE", "median", "90 % below", "bias")
ROW_COLUMNS = ("row", "framework", "model", "measured [tokens/s/GPU]", "predicted [tokens/s/GPU]", "error")


def command(
    against: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Published runs to predict; default: the packaged ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw predicted against measured throughput there.")
    ] = None,
) -> None:
    """Predict published training runs and compare with their measurements.

    An error is predicted over measured throughput, less 1: positive where the prediction is too fast. Rows that
    cannot be predicted are listed with the reason.
    """
    from meshwright.planner.serialise import check_writable
    from meshwright.planner.validation.rows import packaged_path, read_table
    from meshwright.planner.validation.scatter import write_scatter
    from meshwright.planner.validation.validation import summary_of

    table = read_table(against or packaged_path())
    if plot is not None:
        check_writable(plot)
    results = _validate(table)
    if plot is not None:
        write_scatter(results, plot)
    if as_json:
        print_json({"rows": results, "summary": _flat(summary_of(results))})
        return
    _print_summary(summary_of(results))
    _print_worst(results)
    _print_unpredicted(results)
    _print_peers()
    if plot is not None:
        typer.echo(f"plot written to {plot}")


def _validate(table: tuple[RowText, ...]) -> tuple[RowResult, ...]:
    """Predict; on a terminal, with a line on stderr that tells how far it has come."""
    from rich.console import Console

    from meshwright.planner.validation.validation import validate

    console = Console(stderr=True)
    if not console.is_terminal:
        return validate(table)
    with console.status("predicting") as status:
        return validate(table, _counter(len(table), status.update))


def _counter(total: int, show: Callable[[str], None]) -> Callable[[RowResult], None]:
    done: list[str] = []

    def count(result: RowResult) -> None:
        done.append(result.id)
        show(f"{len(done):,} of {total:,} runs predicted, {result.id}")

    return count


def _flat(summary: Summary) -> dict[str, object]:
    """The overall figures, and beside them those of each kind and framework."""
    import msgspec

    return {
        **msgspec.structs.asdict(summary.overall),
        "by_kind": summary.by_kind,
        "by_framework": summary.by_framework,
        "by_framework_and_kind": summary.by_framework_and_kind,
    }


def _percent(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.1%}" if signed else f"{value:.1%}"


def _print_summary(summary: Summary) -> None:
    groups = {**summary.by_framework_and_kind, **summary.by_kind, "all": summary.overall}
    print_table(
        "Errors of predicted throughput", SUMMARY_COLUMNS, [_summary_row(name, part) for name, part in groups.items()]
    )


def _summary_row(name: str, part: ErrorSummary) -> tuple[str, ...]:
    return (
        name,
        str(part.rows),
        str(part.predicted),
        _percent(part.mape),
        _percent(part.median_ape),
        _percent(part.p90_ape),
        _percent(part.bias, signed=True),
    )


def _print_worst(results: tuple[RowResult, ...]) -> None:
    known = [result for result in results if result.error is not None]
    worst = sorted(known, key=lambda result: -abs(result.error or 0.0))[:NUM_WORST]
    rows = [
        (
            result.id,
            result.framework,
            result.model,
            f"{result.measured_tokens_per_s_per_gpu:,.0f}",
            f"{result.predicted_tokens_per_s_per_gpu:,.0f}",
            _percent(result.error, signed=True),
        )
        for result in worst
    ]
    if rows:
        print_table(f"The {len(rows)} worst rows", ROW_COLUMNS, rows)


def _print_unpredicted(results: tuple[RowResult, ...]) -> None:
    rows = [(result.id, result.status.value, result.reason) for result in results if result.error is None]
    if rows:
        print_table(f"Not predicted: {len(rows)}", ("row", "status", "reason"), rows)


def _print_peers() -> None:
    from meshwright.planner.validation.peers import OURS, TOOLS, peer_cases, peer_summaries

    cases = peer_cases()
    names = (OURS, *TOOLS)
    rows = [_peer_row(case, names) for case in cases]
    for kind in dict.fromkeys(case.kind for case in cases):
        means = peer_summaries(cases, kind)
        cells = tuple(
            f"{_percent(means[name].mape)} ({means[name].predicted})" if means[name].predicted else "-"
            for name in names
        )
        rows.append((f"mean absolute error, {kind} (cases)", "", *cells))
    columns = ("case", "measured [s]", OURS, *TOOLS.values())
    print_table("Errors of step time beside other tools, one fixed setting each", columns, rows)


def _peer_row(case: PeerCase, names: tuple[str, ...]) -> tuple[str, ...]:
    errors = (_percent(case.errors[name], signed=True) for name in names)
    return (case.case, f"{case.measured_step_time_s:.2f}", *errors)
