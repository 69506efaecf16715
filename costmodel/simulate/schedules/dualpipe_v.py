"""DualPipeV: DualPipe (DeepSeek-V3 technical report, arXiv 2412.19437, section 3.2.1) cut in half.

Devices p and P-1-p of DualPipe hold the same two stages; keeping one of each pair gives the V placement with half the
devices (Sea AI Lab, "cut-in-half"; deepseek-ai/DualPipe `dualpipev.py`, whose eight steps are followed here, as torch's
`ScheduleDualPipeV` does). In the main steps a forward of one chunk runs together with a full backward of the other.
"""

from __future__ import annotations

from meshwright.costmodel.simulate.actions import Slot
from meshwright.costmodel.simulate.schedules.counting import CountingOrder


def dualpipe_v_order(num_stages: int, num_micro_batches: int, device: int) -> tuple[Slot, ...]:
    """The order of one device, for at least 2P micro-batches."""
    order = CountingOrder()
    hops_left = num_stages - 1 - device
    _warm_up(order, hops_left, device)
    _main(order, num_micro_batches - 2 * num_stages + device + 1, is_last=hops_left == 0)
    for _ in range(hops_left):
        order.backward(1)
        order.overlapped(1, 0)
    _cool_down(order, hops_left, device)
    return tuple(order.slots)


def _warm_up(order: CountingOrder, hops_left: int, device: int) -> None:
    """Steps 1 to 3: forwards of chunk 0, of both chunks, then chunk 1 with its first backwards split."""
    for _ in range(2 * hops_left):
        order.forward(0)
    for _ in range(device + 1):
        order.forward(0)
        order.forward(1)
    for _ in range(hops_left):
        order.backward_input(1)
        order.weight()
        order.forward(1)


def _main(order: CountingOrder, rounds: int, *, is_last: bool) -> None:
    """Step 4. The last device's very first pair is not overlapped, which shortens the bubble."""
    for index in range(rounds):
        if index == 0 and is_last:
            order.forward(0)
            order.backward(1)
        else:
            order.overlapped(0, 1)
        order.overlapped(1, 0)


def _cool_down(order: CountingOrder, hops_left: int, device: int) -> None:
    """Steps 6 to 8: backwards of both chunks, the second half split; then weight gradients in the gaps."""
    for index in range(2 * (device + 1)):
        chunk = 1 - index % 2
        if index > device:
            order.backward_input(chunk)
        else:
            order.backward(chunk)
    for _ in range(hops_left):
        order.weight()
        order.backward_input(0)
    while order.delayed:
        order.weight()
