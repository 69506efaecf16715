"""`meshwright validate`: how well predictions agree with measured training runs, published ones or one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from meshwright.commands.output import print_json

if TYPE_CHECKING:
    from meshwright.planner.validation.own_fit import OwnFits
    from meshwright.planner.validation.rows import RowText
    from meshwright.planner.validation.summary import Groups, Summary
    from meshwright.planner.validation.validation import RowResult

Found = TypeVar("Found")


def command(
    against: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Measured runs to predict; default: the packaged ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw predicted against measured throughput there.")
    ] = None,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Fit the free parameters of framework descriptions, cross-validated by model: to the packaged runs,"
            " writing the packaged descriptions (minutes); with --against to those, writing nothing.",
        ),
    ] = False,
    ranking: Annotated[
        bool, typer.Option("--ranking", help="Print how predictions order measured plans, beside other tools; no rows.")
    ] = False,
    operators: Annotated[
        bool,
        typer.Option(
            "--operators",
            help="Print errors of single operators and collectives, measured and published; no rows.",
        ),
    ] = False,
    measurements: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="With --operators: what `profile` measured; default: the shipped ones."),
    ] = None,
    base: Annotated[
        str, typer.Option(metavar="PROFILE", help="With --measurements: the shipped profile of that GPU.")
    ] = "h100",
) -> None:
    """Predict measured training runs and compare with their measurements.

    An error is predicted over measured throughput, less 1: positive where the prediction is too fast. Held out: by a
    fit of the framework's free parameters without any run of that model. Rows that cannot be predicted are listed
    with the reason.
    """
    from meshwright.planner.serialise import check_writable
    from meshwright.planner.validation.rows import packaged_path, read_table
    from meshwright.planner.validation.summary import summary_of

    _check_together(
        {"--operators": operators, "--ranking": ranking},
        {"--against": against is not None, "--plot": plot is not None, "--fit": fit},
        measures=measurements is not None,
    )
    if operators:
        from meshwright.commands.validate_operators import show_operators

        show_operators(measurements, base, as_json=as_json)
        return
    if ranking:
        _rank(as_json=as_json)
        return
    table = read_table(against or packaged_path())
    if plot is not None:
        check_writable(plot)
    if fit and against is None:
        _refit()
    results = _validate(table)
    if plot is not None:
        from meshwright.planner.validation.scatter import write_scatter

        write_scatter(results, plot)
    own = _fit_own(table) if fit and against is not None else None
    if as_json:
        from meshwright.planner.validation.trust import trust

        fields = {"rows": results, "summary": _flat(summary_of(results)), "trust": trust(table, results)}
        print_json(fields if own is None else {**fields, "fit": own})
        return
    from meshwright.commands.validate_tables import print_own_fit, print_report

    print_report(table, results, packaged=against is None)
    if own is not None:
        print_own_fit(own)
    if plot is not None:
        typer.echo(f"plot written to {plot}")


def _check_together(tables: Mapping[str, bool], of_rows: Mapping[str, bool], *, measures: bool) -> None:
    """Refuse options that would do nothing: at most one of the tables without rows, and none that is about rows."""
    from meshwright.costmodel.errors import InputError

    without_rows = [option for option, given in tables.items() if given]
    others = [*without_rows[1:], *(option for option, given in of_rows.items() if given)]
    if without_rows and others:
        raise InputError(others[0], "", f"does nothing with {without_rows[0]}")
    if measures and not tables["--operators"]:
        raise InputError("--measurements", "", "goes with --operators")


def _with_progress(work: Callable[[Callable[[str], None]], Found]) -> Found:
    """Do it; on a terminal, with a line on stderr that tells how far it has come."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return work(lambda _: None)
    with console.status("predicting") as status:
        return work(status.update)


def _validate(table: tuple[RowText, ...]) -> tuple[RowResult, ...]:
    from meshwright.planner.validation.validation import validate

    return _with_progress(lambda show: validate(table, _counter(len(table), show)))


def _refit() -> None:
    from meshwright.planner.validation.refit import refit

    _with_progress(refit)


def _fit_own(table: tuple[RowText, ...]) -> OwnFits:
    from meshwright.planner.validation.own_fit import fit_own

    return _with_progress(lambda show: fit_own(table, show))


def _counter(total: int, show: Callable[[str], None]) -> Callable[[RowResult], None]:
    done: list[str] = []

    def count(result: RowResult) -> None:
        done.append(result.id)
        show(f"{len(done):,} of {total:,} runs predicted, {result.id}")

    return count


def _flat(summary: Summary) -> dict[str, object]:
    """The errors of the fit, beside them those of the folds, the intervals' coverage and memory."""
    return {
        **_flat_groups(summary.fit),
        "held_out": _flat_groups(summary.held_out),
        "coverage": summary.coverage,
        "memory": summary.memory,
    }


def _flat_groups(groups: Groups) -> dict[str, object]:
    import msgspec

    fields = msgspec.structs.asdict(groups)
    return {**msgspec.structs.asdict(fields.pop("overall")), **fields}


def _rank(*, as_json: bool) -> None:
    from meshwright.planner.validation.peers import peer_cases
    from meshwright.planner.validation.ranking import a100_rankings, plan_rankings

    cases = _with_progress(lambda show: peer_cases(lambda case: show(case.case)))
    plans = _with_progress(lambda show: a100_rankings(lambda row: show(row.id)))
    if as_json:
        print_json({"qwen3_235b": plan_rankings(cases), "a100": plans})
        return
    from meshwright.commands.validate_tables import print_rankings

    print_rankings(cases, plans)
