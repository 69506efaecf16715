"""What it costs to launch a kernel: the host in eager code, the GPU in a CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from meshwright.executor.measure_hardware.device import Device
from meshwright.executor.measure_hardware.operators.values import normal
from meshwright.executor.measure_hardware.times import times_of
from meshwright.hardware_profiles.measurements import LaunchSample

KERNELS = 500
"""Fewer than the driver queues before it makes the host wait."""

REPEATS = 15
ELEMENTS = 256


def launch_costs(device: Device, clock: Callable[[], float] = time.perf_counter) -> LaunchSample:
    """Of an addition of 256 values: the host's time a kernel, and the GPU's in a chain of dependent kernels of a graph.

    The kernel itself takes next to nothing, so the second is both what a node of a graph costs and the least time that
    a kernel occupies the GPU.
    """
    with device.scope():
        values = normal((ELEMENTS,), device.torch_device, torch.float32)
        other = normal((ELEMENTS,), device.torch_device, torch.float32)

        def eager() -> None:
            for _ in range(KERNELS):
                torch.add(values, other)

        def chain() -> None:
            for _ in range(KERNELS):
                values.add_(other)

        replay = device.capture(chain)
        node_s = times_of(device.durations(replay, REPEATS)).time_s / KERNELS
        return LaunchSample(
            eager_s=host_seconds(eager, device, clock) / KERNELS,
            collective_eager_s=None,
            cuda_graph_s=node_s,
            kernel_floor_s=node_s,
        )


def host_seconds(work: Callable[[], object], device: Device, clock: Callable[[], float]) -> float:
    """Median time until `work` returns to the host, begun each time when the GPU has nothing to do."""
    seconds = []
    for _ in range(REPEATS):
        device.durations(lambda: None, 1)
        start = clock()
        work()
        seconds.append(max(1e-9, clock() - start))
    return times_of(seconds).time_s
