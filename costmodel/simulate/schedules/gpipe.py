"""GPipe: all forwards, then all backwards. Huang et al. 2019, arXiv 1811.06965."""

from __future__ import annotations

from meshwright.costmodel.simulate.actions import ActionKind, Slot, single


def gpipe_order(num_micro_batches: int) -> tuple[Slot, ...]:
    """The order, the same on every device."""
    return tuple(
        single(kind, 0, micro_batch)
        for kind in (ActionKind.FORWARD, ActionKind.BACKWARD)
        for micro_batch in range(num_micro_batches)
    )
