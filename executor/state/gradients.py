"""Where gradients add up: whole until the last micro-batch, or as shards, reduced after each (ZeRO-2)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.executor.layer.accumulator import Accumulator
from meshwright.executor.state.exchange import reduce_to_shard
from meshwright.executor.state.flat import FlatParameters
from meshwright.executor.state.lane import Lane, Mark
from meshwright.executor.state.shared_parts import sum_shared
from meshwright.executor.state.slots import PartFlats, Slots, flats_of
from meshwright.executor.state.weights import Timed
from meshwright.executor.stopwatch import StepPart


class GradientKeeper(ABC):
    """Keeps the gradients of some buffers."""

    @abstractmethod
    def of_part(self, part: str) -> dict[str, Accumulator]:
        """What a part adds its gradients to, by the parameter's name."""

    @abstractmethod
    def restart(self) -> None:
        """Forget the sums of the step before."""

    @abstractmethod
    def before_pass(self, part: str) -> None:
        """A backward pass of a part begins."""

    @abstractmethod
    def after_pass(self, part: str, kind: PassKind) -> None:
        """It has ended. After dgrad alone not all gradients of its micro-batch are there."""

    @abstractmethod
    def finish(self) -> dict[FlatParameters, Tensor]:
        """The sums of this rank's shards over micro-batches and copies, when layers may read them. A collective."""


class WholeGradients(GradientKeeper):
    """ZeRO-0 and 1: a buffer is reduced once a step, as soon as all its parts have had their last backward.

    `sums`: the format of the sums over micro-batches. `wire`: the format that travels.
    """

    def __init__(
        self,
        parts: PartFlats,
        lane: Lane,
        timed: Timed,
        *,
        num_micro_batches: int,
        sums: torch.dtype,
        wire: torch.dtype,
    ) -> None:
        self._parts, self._lane, self._timed, self._wire = parts, lane, timed, wire
        self._num_micro_batches = num_micro_batches
        self._buffers = {flat: flat.weights.new_zeros(flat.size, dtype=sums) for flat in flats_of(parts)}
        self._accumulators = {flat: _accumulators(flat, buffer) for flat, buffer in self._buffers.items()}
        self._missing: dict[FlatParameters, int] = {}
        self._reduced: dict[FlatParameters, Tensor] = {}
        self._end: Mark = None

    def of_part(self, part: str) -> dict[str, Accumulator]:
        """Views of whole buffers."""
        return {name: one for flat in self._parts[part] for name, one in self._accumulators[flat].items()}

    def restart(self) -> None:
        """Nothing is zeroed: the first gradient overwrites."""
        self._reduced.clear()
        for flat, accumulators in self._accumulators.items():
            uses = sum(flat in flats for flats in self._parts.values())
            self._missing[flat] = uses * self._num_micro_batches
            for accumulator in accumulators.values():
                accumulator.restart()

    def before_pass(self, part: str) -> None:
        """The buffers are there."""

    def after_pass(self, part: str, kind: PassKind) -> None:
        """The last one of a step reduces."""
        if kind is PassKind.DGRAD:
            return
        for flat in self._parts[part]:
            self._missing[flat] -= 1
            if self._missing[flat] == 0 and self._lane.overlaps:
                self._reduce(flat)

    def _reduce(self, flat: FlatParameters) -> None:
        for accumulator in self._accumulators[flat].values():
            accumulator.finish()
        sum_shared(flat, self._buffers[flat])
        with self._lane.behind_all(), self._timed(StepPart.GRADIENTS):
            own = reduce_to_shard(self._buffers[flat], flat.holders, self._wire)
            self._reduced[flat] = own.to(flat.master.dtype)
        self._end = self._lane.mark()

    def finish(self) -> dict[FlatParameters, Tensor]:
        """Reduces what is not reduced yet."""
        for flat in self._buffers:
            if flat not in self._reduced:
                self._reduce(flat)
        self._lane.wait(self._end)
        return dict(self._reduced)


class ScatteredGradients(GradientKeeper):
    """ZeRO-2 and 3: only sums of this rank's shards stay. What a pass of a part has computed is reduced and added.

    A part's gradients are whole from its backward to the end of their reduction, beside which the next part runs. After
    dgrad alone (zero-bubble schedules) only buffers that got something are reduced: those of norms.
    """

    def __init__(self, parts: PartFlats, lane: Lane, timed: Timed, *, sums: torch.dtype, wire: torch.dtype) -> None:
        self._lane, self._timed, self._wire = lane, timed, wire
        flats = flats_of(parts)
        device = flats[0].weights.device
        self._slots = Slots(parts, 2 if lane.overlaps else 1, wire, device)
        self._sums = {flat: Accumulator(torch.zeros(flat.shard_size, dtype=sums, device=device)) for flat in flats}
        self._accumulators = {
            part: {flat: _accumulators(flat, room) for flat, room in self._slots.buffers(part).items()}
            for part in parts
            if part in self._slots
        }
        self._free: dict[int, Mark] = {}

    def of_part(self, part: str) -> dict[str, Accumulator]:
        """Views of whole buffers."""
        return {name: one for found in self._accumulators.get(part, {}).values() for name, one in found.items()}

    def restart(self) -> None:
        """Nothing is zeroed: the first sum overwrites."""
        for total in self._sums.values():
            total.restart()

    def before_pass(self, part: str) -> None:
        """The slot is this part's once the reductions of the part before are over."""
        if part not in self._slots:
            return
        self._lane.wait(self._free.pop(self._slots.number(part), None))
        for accumulator in self.of_part(part).values():
            accumulator.restart()

    def after_pass(self, part: str, _kind: PassKind) -> None:
        """What it has computed is reduced and added."""
        if part not in self._slots:
            return
        for flat, room in self._slots.buffers(part).items():
            accumulators = self._accumulators[part][flat].values()
            if any(accumulator.started for accumulator in accumulators):
                for accumulator in accumulators:
                    accumulator.finish()
                self._reduce(flat, room)
        self._free[self._slots.number(part)] = self._lane.mark()

    def _reduce(self, flat: FlatParameters, room: Tensor) -> None:
        for gap in flat.gaps():
            room[gap].zero_()  # another part has been there
        sum_shared(flat, room)
        with self._lane.behind_all(), self._timed(StepPart.COLLECTIVES):
            self._sums[flat].add(reduce_to_shard(room, flat.holders, self._wire))

    def finish(self) -> dict[FlatParameters, Tensor]:
        """Waits for the last reductions."""
        self._lane.wait(self._lane.mark())
        self._free.clear()
        for total in self._sums.values():
            total.finish()
        return {flat: total.total.to(flat.master.dtype) for flat, total in self._sums.items()}


def _accumulators(flat: FlatParameters, buffer: Tensor) -> dict[str, Accumulator]:
    return {name: Accumulator(view) for name, view in flat.views(buffer).items()}
