"""The options of a configuration in the words of published runs, so that both are understood in one place.

What a phrase changes is data of the validation set (`planner/validation/data/printed_settings.json`).
"""

from __future__ import annotations

from typing import Any

from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Dispatch
from meshwright.costmodel.value import Value
from meshwright.planner.validation.printed_settings import changed_runtime, dispatch_of, runtime_of
from meshwright.planner.validation.run_description import balanced


class PrintedOptions(Value, frozen=True, kw_only=True):
    """A framework, a number format, phrases about its software and about routing."""

    framework: str
    precision: str
    words: str
    routing: str = ""


def described_runtime(printed: PrintedOptions, changes: dict[str, Any]) -> RuntimeSpec:
    """The framework's description with its phrases, then with what no phrase says."""
    return changed_runtime(balanced(printed, runtime_of(printed)), changes)


def described_dispatch(printed: PrintedOptions) -> Dispatch:
    """How the phrases say that tokens reach their experts; all-to-all if they do not."""
    return dispatch_of(printed)
