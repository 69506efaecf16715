"""Where layers find their weights in the training format: kept whole, or gathered for each part that runs (ZeRO-3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor

from meshwright.executor.layer.collectives import all_gather_into
from meshwright.executor.state.flat import FlatParameters
from meshwright.executor.state.lane import Lane, Mark
from meshwright.executor.state.slots import PartFlats, Slots, flats_of
from meshwright.executor.stopwatch import StepPart

Timed = Callable[[StepPart], AbstractContextManager[None]]
"""Times what runs inside."""


class WeightKeeper(ABC):
    """Keeps the weights of some buffers."""

    @abstractmethod
    def of_part(self, part: str) -> dict[str, Tensor]:
        """The weights of a part by name: views that stay, of memory that is filled when the part runs."""

    @abstractmethod
    def before_pass(self, part: str, following: str | None) -> None:
        """A pass of a part is about to need its weights; `following` is the part behind it in this direction."""

    @abstractmethod
    def spread(self) -> None:
        """All ranks' shards have changed: passes from here on have the new weights. A collective."""


class WholeWeights(WeightKeeper):
    """ZeRO-0 to 2: all weights stay; shards are gathered once after each update, beside the first forward behind it."""

    def __init__(self, parts: PartFlats, lane: Lane, timed: Timed) -> None:
        self._parts, self._lane, self._timed = parts, lane, timed
        self._flats = flats_of(parts)
        self._pending: dict[FlatParameters, Mark] = {}

    def of_part(self, part: str) -> dict[str, Tensor]:
        """Views of the buffers."""
        return {name: view for flat in self._parts[part] for name, view in flat.views(flat.weights).items()}

    def before_pass(self, part: str, _following: str | None) -> None:
        """Waits for the part's gathers of this step."""
        for flat in self._parts[part]:
            self._lane.wait(self._pending.pop(flat, None))

    def spread(self) -> None:
        """Gathers, or begins to: passes wait for what they need."""
        gathered = [flat for flat in self._flats if flat.holders.shards.size > 1]
        with self._lane.behind_all():
            for flat in gathered:
                with self._timed(StepPart.OPTIMIZER):
                    all_gather_into(flat.weights, flat.weight_shard, flat.holders.shards)
                self._pending[flat] = self._lane.mark()


class GatheredWeights(WeightKeeper):
    """ZeRO-3: weights stay as shards; a part is whole while it runs, beside it the next one is gathered.

    A part that is still whole from the pass before is not gathered again.
    """

    def __init__(self, parts: PartFlats, lane: Lane, timed: Timed) -> None:
        self._lane, self._timed = lane, timed
        like = flats_of(parts)[0].weights
        self._slots = Slots(parts, 2 if lane.overlaps else 1, like.dtype, like.device)
        self._holders: dict[int, str] = {}
        self._ready: dict[str, Mark] = {}

    def of_part(self, part: str) -> dict[str, Tensor]:
        """Views of the part's slot."""
        rooms = self._slots.buffers(part) if part in self._slots else {}
        return {name: view for flat, room in rooms.items() for name, view in flat.views(room).items()}

    def before_pass(self, part: str, following: str | None) -> None:
        """Gathers the part, if it is not whole, and begins with the next."""
        if part in self._slots:
            self._gather(part)
            self._lane.wait(self._ready[part])
        if following is not None and following in self._slots and self._lane.overlaps:
            self._gather(following)

    def _gather(self, part: str) -> None:
        """Fill the slot of a part. Whoever had it has run: its operators were launched before this."""
        slot = self._slots.number(part)
        if self._holders.get(slot) == part:
            return
        self._holders[slot] = part
        with self._lane.behind_all(), self._timed(StepPart.COLLECTIVES):
            for flat, room in self._slots.buffers(part).items():
                all_gather_into(room, flat.weight_shard, flat.holders.shards)
        self._ready[part] = self._lane.mark()

    def spread(self) -> None:
        """What is whole is out of date."""
        self._holders.clear()
