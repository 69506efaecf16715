"""What a row's printed words say about the software: each phrase switches a documented property of its framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from meshwright.costmodel.runtime import RuntimeSpec, load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Dispatch, ZeroStage
from meshwright.costmodel.value import Value
from meshwright.planner.validation.free_parameters import Values
from meshwright.planner.validation.rows import TrainingRow, packaged_path

PACKAGED = "printed_settings.json"


class PrintedRun(Protocol):
    """What a run prints about its software: a row of a table, or the options of a configuration in the same words."""

    @property
    def framework(self) -> str:
        """The runtime description that it starts from."""

    @property
    def precision(self) -> str:
        """Number format."""

    @property
    def words(self) -> str:
        """All that is printed about settings."""


class PrintedSetting(Value, frozen=True, kw_only=True):
    """If `phrase` (a regular expression, case ignored) stands in a row of `framework`, the named properties change.

    `precision` restricts it to rows of one number format. `base` names another runtime to start from; `runtime` has
    fields of `RuntimeSpec`, nested ones merged. `unfolded`: experts are split over tensor-parallel ranks as well
    (ETP = TP), as in Megatron-Core before parallel folding. `interleaved`: the source prints no virtual stages, and the
    table's 1 means one layer a chunk. `two_chunk_schedule`: with two chunks a device. `step_share`: the share of the
    logged time that is training steps. `why` says where the meaning of the phrase is documented.
    """

    framework: str
    phrase: str
    why: str
    precision: str = ""
    base: str = ""
    runtime: dict[str, Any] = msgspec.field(default_factory=dict)
    dispatch: Dispatch | None = None
    unfolded: bool = False
    zero: ZeroStage | None = None
    interleaved: bool = False
    two_chunk_schedule: ScheduleKind | None = None
    step_share: float = 1.0

    def applies(self, row: PrintedRun) -> bool:
        """Whether the row prints it."""
        return (
            self.framework == row.framework
            and self.precision in ("", row.precision)
            and re.search(self.phrase, row.words, re.IGNORECASE) is not None
        )


@lru_cache(maxsize=1)
def printed_settings() -> tuple[PrintedSetting, ...]:
    """All known phrases, in the order in which they apply."""
    return msgspec.json.decode(packaged_path(PACKAGED).read_bytes(), type=tuple[PrintedSetting, ...])


def settings_of(row: PrintedRun) -> tuple[PrintedSetting, ...]:
    """The phrases that a row prints."""
    return tuple(setting for setting in printed_settings() if setting.applies(row))


def interleaved(row: PrintedRun) -> bool:
    """Whether virtual stages are not printed, and known to be as many as layers allow."""
    return any(setting.interleaved for setting in settings_of(row))


def two_chunk_schedule(row: PrintedRun) -> ScheduleKind | None:
    """The schedule that the row prints, if it is one with two chunks a device."""
    printed = [setting.two_chunk_schedule for setting in settings_of(row) if setting.two_chunk_schedule is not None]
    return printed[-1] if printed else None


def step_share(row: PrintedRun) -> float:
    """Share of the time behind the row's measurement that is training steps."""
    return min((setting.step_share for setting in settings_of(row)), default=1.0)


def runtime_name_of(row: PrintedRun) -> str:
    """The description that the row's framework starts from."""
    bases = [setting.base for setting in settings_of(row) if setting.base]
    return bases[-1] if bases else row.framework


def runtime_of(row: PrintedRun, values: Values | None = None) -> RuntimeSpec:
    """The framework's description with what the row prints; an `InputError` where the framework is unknown.

    `values` replace those of its free parameters; what is printed goes before them.
    """
    runtime = changed_runtime(load_runtime(runtime_name_of(row)), values or {})
    for setting in settings_of(row):
        if setting.runtime:
            runtime = changed_runtime(runtime, setting.runtime)
    return runtime


def changed_runtime(runtime: RuntimeSpec, changes: Mapping[str, Any]) -> RuntimeSpec:
    """The description with some properties replaced; nested ones are merged."""
    fields = msgspec.to_builtins(runtime)
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
    return msgspec.convert(fields, type=RuntimeSpec)


def expert_tensor_degree(row: TrainingRow) -> int:
    """Ranks that share an expert: as printed, or the tensor-parallel ones where the software knows no other way."""
    return row.tp if row.etp == 1 and any(setting.unfolded for setting in settings_of(row)) else row.etp


def dispatch_of(row: PrintedRun) -> Dispatch:
    """How tokens reach experts: as printed, else each framework's own way."""
    printed = [setting.dispatch for setting in settings_of(row) if setting.dispatch is not None]
    return printed[-1] if printed else Dispatch.ALL_TO_ALL
