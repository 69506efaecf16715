"""Writes an order action by action; the micro-batch of each is the next one of its kind and chunk.

The V-shaped schedules are published as programs of this form: "forward of chunk 0, backward of chunk 1, ...".
"""

from __future__ import annotations

from collections import Counter, deque

from meshwright.costmodel.simulate.actions import ActionKind, Slot, overlapped, single


class CountingOrder:
    """Appends slots; weight gradients that are put off wait in a queue, first in, first out."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.delayed: deque[Slot] = deque()
        self._next: Counter[tuple[bool, int]] = Counter()

    def forward(self, chunk: int) -> None:
        """The next forward of the chunk."""
        self.slots.append(self._take(ActionKind.FORWARD, chunk))

    def backward(self, chunk: int) -> None:
        """The next full backward of the chunk."""
        self.slots.append(self._take(ActionKind.BACKWARD, chunk))

    def backward_input(self, chunk: int) -> None:
        """The next input gradient of the chunk; its weight gradient is put off."""
        (action,) = slot = self._take(ActionKind.BACKWARD_INPUT, chunk)
        self.slots.append(slot)
        self.delayed.append(single(ActionKind.BACKWARD_WEIGHT, chunk, action.micro_batch))

    def weight(self) -> None:
        """The oldest weight gradient put off, if there is one."""
        if self.delayed:
            self.slots.append(self.delayed.popleft())

    def weight_of(self, chunk: int) -> None:
        """The oldest weight gradient of the chunk put off."""
        slot = next(slot for slot in self.delayed if slot[0].chunk == chunk)
        self.delayed.remove(slot)
        self.slots.append(slot)

    def has_delayed(self, chunk: int) -> bool:
        """Whether a weight gradient of the chunk is put off."""
        return any(slot[0].chunk == chunk for slot in self.delayed)

    def overlapped(self, forward_chunk: int, backward_chunk: int) -> None:
        """The next forward of one chunk while the next full backward of the other runs."""
        forward = self._take(ActionKind.FORWARD, forward_chunk)
        self.slots.append(overlapped(forward, self._take(ActionKind.BACKWARD, backward_chunk)))

    def count(self, kind: ActionKind, chunk: int) -> int:
        """Forwards, or else backwards, of the chunk so far."""
        return self._next[kind is ActionKind.FORWARD, chunk]

    def _take(self, kind: ActionKind, chunk: int) -> Slot:
        key = (kind is ActionKind.FORWARD, chunk)
        self._next[key] += 1
        return single(kind, chunk, self._next[key] - 1)
