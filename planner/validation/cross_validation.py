"""Fits every framework's free parameters to a table, and again for each model without it.

No model is both in a fit and in its test. Where a framework has rows of a single model, nothing is left to fit to
without it, and the fold has the start values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshwright.costmodel.errors import InputError
from meshwright.planner.validation.fit import FitProblem, fit_all
from meshwright.planner.validation.fit_record import ROW_FOLD, Fold, FrameworkFit
from meshwright.planner.validation.free_parameters import FreeParameter, free_parameters, start_values
from meshwright.planner.validation.predictor import log_errors
from meshwright.planner.validation.printed_settings import runtime_name_of
from meshwright.planner.validation.rows import TrainingRow

ROWS_PER_PARAMETER = 3
NUM_ROW_FOLDS = 5
Progress = Callable[[str], None]


def by_framework(rows: Sequence[TrainingRow]) -> dict[str, list[TrainingRow]]:
    """The rows of each framework that has free parameters."""
    groups: dict[str, list[TrainingRow]] = {}
    for row in rows:
        name = runtime_name_of(row)
        if name in free_parameters():
            groups.setdefault(name, []).append(row)
    return groups


def fit_framework(
    framework: str,
    rows: Sequence[TrainingRow],
    progress: Progress = lambda _: None,
    *,
    folds_of_rows: bool = False,
) -> FrameworkFit:
    """Fit to all rows, and for each fold to the others' rows; an `InputError` where rows are too few.

    `folds_of_rows`: the rows of a single model are folded among themselves, which tests less than an unseen model.
    """
    parameters = free_parameters()[framework]
    check_enough(framework, rows, parameters)
    labels = fold_labels(rows, folds_of_rows=folds_of_rows)
    tests = tuple(dict.fromkeys(labels)) if len(set(labels)) > 1 else ()
    problems = [_problem(rows, labels, parameters, ""), *(_problem(rows, labels, parameters, one) for one in tests)]
    names = tuple(parameter.name for parameter in parameters)
    predict = log_errors(rows, names, lambda index: progress(f"{framework}: {rows[index].id}"))
    values, *folds = fit_all(problems, predict)
    held_out = tuple(Fold(held_out=label, values=found) for label, found in zip(tests, folds, strict=True))
    if not tests:
        held_out = (Fold(held_out=labels[0], values=start_values(framework)),)
    return FrameworkFit(framework=framework, rows=len(rows), values=values, folds=held_out)


def fold_labels(rows: Sequence[TrainingRow], *, folds_of_rows: bool) -> tuple[str, ...]:
    """The fold that each row belongs to: its model, or its number where there is one model and that is allowed."""
    if folds_of_rows and len({row.model for row in rows}) == 1:
        return tuple(f"{ROW_FOLD}{index % NUM_ROW_FOLDS}" for index in range(len(rows)))
    return tuple(row.model for row in rows)


def check_enough(framework: str, rows: Sequence[TrainingRow], parameters: Sequence[FreeParameter]) -> None:
    """Fewer rows than three a parameter say nothing about them."""
    needed = ROWS_PER_PARAMETER * len(parameters)
    if len(rows) < needed:
        raise InputError(
            framework,
            "rows",
            f"{len(rows)} usable rows are too few to fit {len(parameters)} parameters; expected at least {needed}",
        )


def _problem(
    rows: Sequence[TrainingRow], labels: tuple[str, ...], parameters: tuple[FreeParameter, ...], without: str
) -> FitProblem:
    chosen = tuple(index for index, label in enumerate(labels) if label != without)
    return FitProblem(parameters=parameters, rows=chosen, models=tuple(rows[index].model for index in chosen))
