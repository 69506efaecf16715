"""Which communication of a step runs beside the compute."""

from __future__ import annotations

from meshwright.costmodel.value import Value


class OverlapPolicy(Value, frozen=True, kw_only=True):
    """What is not overlapped blocks its device.

    point_to_point: a blocking transfer is one batched exchange between two slots, as in Megatron's
    `send_forward_recv_backward`: the device sends what the slot before made, receives what the next needs, at once.
    grad_reduce, param_gather: bucketed by layer under the backward and the forward, or all at the end and the start.
    """

    point_to_point: bool = True
    grad_reduce: bool = True
    param_gather: bool = True


OVERLAP_ALL = OverlapPolicy()
