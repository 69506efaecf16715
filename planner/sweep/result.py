"""What a sweep gave: its rows in order, beside the plan itself, and as the flat table that files and pandas take."""

from __future__ import annotations

import csv
from io import StringIO
from typing import TYPE_CHECKING, Any

from meshwright.costmodel.value import Value
from meshwright.planner.sweep.row import Outcome, Run, SweepRow

if TYPE_CHECKING:
    from pandas import DataFrame

Cell = int | float | str | bool | None

OUTCOME_COLUMNS = tuple(name for name in Outcome.__struct_fields__ if name != "run")
RUN_COLUMNS = Run.__struct_fields__


class SweepResult(Value, frozen=True, kw_only=True):
    """`rows` are those of the points that were evaluated, in the order of the grid; all of them if `complete`.

    `keys` are swept, `changes` were made at every point ((key, text)). `planned`: the plan itself, whose values of the
    keys are `plan_values`. `stopped`: why the rest is missing.
    """

    model: str
    keys: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]
    planned: Outcome
    plan_values: tuple[int | float | str | bool, ...]
    num_points: int
    replanned: bool
    rows: tuple[SweepRow, ...]
    stopped: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every point was evaluated."""
        return len(self.rows) == self.num_points

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `table`; seconds, bytes and tokens, as the names say."""
        own = (*OUTCOME_COLUMNS, "change_of_step_time_fraction")
        runs = RUN_COLUMNS if self.planned.run is not None else ()
        again = ("held_step_time_s", "held_fits", "gap", "is_held") if self.replanned else ()
        return ("index", *self.keys, *own, *runs, *again, "reason")

    def table(self) -> list[tuple[Cell, ...]]:
        """A row for each point; None where there is no figure."""
        return [self._cells(row) for row in self.rows]

    def to_csv(self) -> bytes:
        """The table as CSV, numbers in full precision, empty where there is no figure."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.table())
        return text.getvalue().encode()

    def to_dataframe(self) -> DataFrame:
        """The table as a pandas DataFrame, one column each of `columns`, the point's number as the index."""
        import pandas as pd

        return pd.DataFrame(self.table(), columns=list(self.columns)).set_index("index")

    def _cells(self, row: SweepRow) -> tuple[Cell, ...]:
        found = row.outcome
        own = _fields(found, OUTCOME_COLUMNS)
        change = None if found is None else found.step_time_s / self.planned.step_time_s - 1.0
        run = _fields(None if found is None else found.run, RUN_COLUMNS) if self.planned.run is not None else ()
        again: tuple[Cell, ...] = ()
        if self.replanned:
            again = (*_fields(row.held, ("step_time_s", "fits")), row.gap, row.is_held)
        return (row.index, *row.values, *own, change, *run, *again, row.reason)


def _fields(value: Any, names: tuple[str, ...]) -> tuple[Cell, ...]:  # noqa: ANN401  an outcome, or its run
    return tuple(None if value is None else getattr(value, name) for name in names)
