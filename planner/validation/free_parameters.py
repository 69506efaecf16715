"""The few numbers of a framework description that no source gives: declared as data, fitted to published runs."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value
from meshwright.planner.validation.rows import packaged_path

PACKAGED = "free_parameters.json"
MOST_A_FRAMEWORK = 5

Values = dict[str, float]
"""Fitted values by the name of the field of `RuntimeSpec`."""


class FreeParameter(Value, frozen=True, kw_only=True):
    """A field of `RuntimeSpec` that is fitted between two bounds, from a start that no run of the set decides.

    `why` says why it cannot be known.
    """

    name: str
    low: float
    high: float
    start: float
    why: str

    def __post_init__(self) -> None:
        if not self.low <= self.start <= self.high or self.low >= self.high:
            raise InputError(PACKAGED, self.name, f"start {self.start} is not between {self.low} and {self.high}")


@lru_cache(maxsize=1)
def free_parameters() -> dict[str, tuple[FreeParameter, ...]]:
    """The free parameters of each framework."""
    declared = msgspec.json.decode(packaged_path(PACKAGED).read_bytes(), type=dict[str, tuple[FreeParameter, ...]])
    for framework, parameters in declared.items():
        if len(parameters) > MOST_A_FRAMEWORK:
            raise InputError(PACKAGED, framework, f"has {len(parameters)} parameters, at most {MOST_A_FRAMEWORK}")
    return declared


def start_values(framework: str) -> Values:
    """What is assumed where nothing was fitted."""
    return {parameter.name: parameter.start for parameter in free_parameters().get(framework, ())}
