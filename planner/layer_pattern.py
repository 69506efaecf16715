"""The order of layer types as runs of a repeated unit: what a stage boundary can cut is data of a few numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

from meshwright.costmodel.value import Value

MAX_PLAIN_RUNS = 3
MAX_PERIOD = 12
MAX_PREFIX = 8


class Run(Value, frozen=True, kw_only=True):
    """`repeats` copies of `unit` (layer types) in a row."""

    unit: tuple[int, ...]
    repeats: int

    @property
    def num_layers(self) -> int:
        """Layers of the run."""
        return len(self.unit) * self.repeats


@lru_cache(maxsize=64)
def layer_runs(layer_types: tuple[int, ...]) -> tuple[Run, ...]:
    """The stack as few runs: of single types, or with one periodic run in the middle where that takes fewer.

    >>> [(run.unit, run.repeats) for run in layer_runs((0, 0, 0) + (1,) * 58)]
    [((0,), 3), ((1,), 58)]
    >>> [(run.unit, run.repeats) for run in layer_runs((2,) + (0, 1) * 12)]
    [((2,), 1), ((0, 1), 12)]
    """
    plain = _plain_runs(layer_types)
    if len(plain) <= MAX_PLAIN_RUNS:
        return plain
    return min((plain, *_periodic_runs(layer_types)), key=lambda runs: (len(runs), sum(len(run.unit) for run in runs)))


def _plain_runs(layer_types: tuple[int, ...]) -> tuple[Run, ...]:
    return tuple(Run(unit=(kind,), repeats=len(tuple(run))) for kind, run in groupby(layer_types))


def _periodic_runs(layer_types: tuple[int, ...]) -> Iterator[tuple[Run, ...]]:
    for start in range(min(MAX_PREFIX, len(layer_types))):
        for period in range(2, min(MAX_PERIOD, len(layer_types) - start) + 1):
            unit = layer_types[start : start + period]
            repeats = 1
            while layer_types[start + repeats * period : start + (repeats + 1) * period] == unit:
                repeats += 1
            if repeats > 1:
                rest = layer_types[start + repeats * period :]
                middle = Run(unit=unit, repeats=repeats)
                yield (*_plain_runs(layer_types[:start]), middle, *_plain_runs(rest))
