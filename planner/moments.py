"""Rows for the moments at which a device's memory may peak, added as solutions break them."""

from __future__ import annotations

import numpy as np

from meshwright.costmodel.simulate import Held, in_flight_held
from meshwright.costmodel.simulate.durations import Array
from meshwright.planner.milp import PointModel
from meshwright.planner.stage_totals import MEMORY_TOLERANCE, Counts, held_bytes, moments, peak_memory_bytes


class MomentRows:
    """The moments that a program has rows for; from the start, each device's fullest."""

    def __init__(self, model: PointModel) -> None:
        self._model, self._problem = model, model.problem
        self._known: set[tuple[int, Held]] = set()
        for device, found in enumerate(in_flight_held(self._problem.schedule)):
            self._add(device, max(found, key=lambda held: (sum(held.total), sum(held.late))))

    def add_broken(self, counts: Array | Counts, over_bytes: float = 0.0) -> bool:
        """Adds the worst moment of each device that exceeds the limit by more than `over_bytes`; whether any is new."""
        limit = self._problem.memory_limit_bytes * (1.0 + MEMORY_TOLERANCE) + over_bytes
        devices = np.flatnonzero(peak_memory_bytes(self._problem, counts) > limit).tolist()
        added = [self._add(device, self._worst(device, counts)) for device in devices]
        return any(added)

    def _add(self, device: int, held: Held) -> bool:
        if (device, held) in self._known:
            return False
        self._known.add((device, held))
        self._model.add_moment(device, held)
        return True

    def _worst(self, device: int, counts: Array | Counts) -> Held:
        used = moments(self._problem, device) @ held_bytes(self._problem, counts, device)
        return in_flight_held(self._problem.schedule)[device][int(used.argmax())]


def fits(memory_limit_bytes: float, peaks: Array) -> bool:
    """Whether no device exceeds the limit."""
    return bool(peaks.max() <= memory_limit_bytes * (1.0 + MEMORY_TOLERANCE))
