"""ZB-V. Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", arXiv 2405.15362 (V schedules), and
arXiv 2401.10241, section 6. The order is that of torch's `ScheduleZBVZeroBubble`.

Chunk 0 goes down the devices and chunk 1 comes back, so the device that starts a micro-batch also ends it. With equal
times of forward, input and weight gradient no device idles between its first and its last action.
"""

from __future__ import annotations

from meshwright.costmodel.simulate.actions import ActionKind, Slot
from meshwright.costmodel.simulate.schedules.counting import CountingOrder


def zb_v_order(num_stages: int, num_micro_batches: int, device: int) -> tuple[Slot, ...]:
    """Written for at least 2P-1 micro-batches; with fewer, the actions of those that are missing drop out."""
    order = CountingOrder()
    _warm_up(order, num_stages, device)
    _steady(order, max(2 * num_stages - 1, num_micro_batches))
    _cool_down(order, num_stages, device)
    return tuple(slot for slot in order.slots if slot[0].micro_batch < num_micro_batches)


def _warm_up(order: CountingOrder, num_stages: int, device: int) -> None:
    for _ in range(2 * (num_stages - device) - 1):
        order.forward(0)
    for _ in range(device):
        order.forward(1)
        order.forward(0)
    for _ in range(num_stages - device):
        order.forward(1)
        order.backward_input(1)
        order.weight()


def _steady(order: CountingOrder, num_micro_batches: int) -> None:
    while order.count(ActionKind.FORWARD, 1) < num_micro_batches:
        if order.count(ActionKind.FORWARD, 0) < num_micro_batches:
            order.forward(0)
        order.backward_input(0)
        order.weight()
        order.forward(1)
        order.backward_input(1)
        order.weight()


def _cool_down(order: CountingOrder, num_stages: int, device: int) -> None:
    """Input gradients first; then chunk 0's weight gradients in the gaps, chunk 1's, the rest of chunk 0's."""
    for _ in range(device):
        order.backward_input(0)
        order.backward_input(1)
    for _ in range(num_stages - device):
        order.backward_input(0)
        order.weight_of(0)
    for chunk in (1, 0):
        while order.has_delayed(chunk):
            order.weight_of(chunk)
