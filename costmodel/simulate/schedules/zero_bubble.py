"""ZB-H1. Qi et al. 2024, "Zero Bubble Pipeline Parallelism", arXiv 2401.10241, section 3.1.

1F1B with the backward split: device p puts off its weight gradients by p micro-batches and fills the cool-down with
them, which keeps the activations of 1F1B. The order is that of torch's `ScheduleInterleavedZeroBubble` with one chunk.
"""

from __future__ import annotations

from meshwright.costmodel.simulate.actions import ActionKind, Slot, single


def zb_h1_order(num_stages: int, num_micro_batches: int, device: int) -> tuple[Slot, ...]:
    """1F1B of forwards and input gradients; weight gradient i follows input gradient i + device, the rest the end."""
    warmup = min(num_stages - 1 - device, num_micro_batches)
    slots = [single(ActionKind.FORWARD, 0, i) for i in range(warmup)]
    for micro_batch in range(num_micro_batches):
        if warmup + micro_batch < num_micro_batches:
            slots.append(single(ActionKind.FORWARD, 0, warmup + micro_batch))
        slots.append(single(ActionKind.BACKWARD_INPUT, 0, micro_batch))
        if micro_batch >= device:
            slots.append(single(ActionKind.BACKWARD_WEIGHT, 0, micro_batch - device))
    delayed = range(max(0, num_micro_batches - device), num_micro_batches)
    slots += [single(ActionKind.BACKWARD_WEIGHT, 0, i) for i in delayed]
    return tuple(slots)
