"""What was fitted, to what, and what each held-apart fold gave: a file that `meshwright validate --fit` writes."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.value import Value
from meshwright.planner.validation.free_parameters import Values, start_values
from meshwright.planner.validation.printed_settings import runtime_name_of
from meshwright.planner.validation.rows import TrainingRow, packaged_path

PACKAGED = "fit.json"
ROW_FOLD = "row "


class Fold(Value, frozen=True, kw_only=True):
    """Values fitted to the rows of all models but one, or to all but every so-manyth row of a single model."""

    held_out: str
    values: Values


class FrameworkFit(Value, frozen=True, kw_only=True):
    """Values fitted to all rows of a framework, and those of its folds."""

    framework: str
    rows: int
    values: Values
    folds: tuple[Fold, ...]

    def held_out(self, model: str) -> Values:
        """The values of the fold that never saw the model; those of all rows for a model that none has."""
        return next((fold.values for fold in self.folds if fold.held_out == model), self.values)

    def held_out_row(self, index: int, model: str) -> Values:
        """The values of the fold that never saw the row of this number, which may be one of many of its model."""
        by_rows = [fold.values for fold in self.folds if fold.held_out.startswith(ROW_FOLD)]
        return by_rows[index % len(by_rows)] if by_rows else self.held_out(model)


class FitRecord(Value, frozen=True, kw_only=True):
    """All frameworks' fits, and how they were come by. `profiles`: hashes of the profiles that they rest on."""

    source: str
    profiles: dict[str, str]
    frameworks: tuple[FrameworkFit, ...]

    def held_out_values(self, row: TrainingRow) -> Values:
        """Values that were fitted without any row of this row's model."""
        name = runtime_name_of(row)
        fits = (fit for fit in self.frameworks if fit.framework == name)
        fit = next(fits, None)
        return fit.held_out(row.model) if fit is not None else start_values(name)


@lru_cache(maxsize=1)
def fit_record() -> FitRecord:
    """The packaged record."""
    return msgspec.json.decode(packaged_path(PACKAGED).read_bytes(), type=FitRecord)
