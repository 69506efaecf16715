"""Opens the device that a process measures on."""

from __future__ import annotations

import torch

from meshwright.executor.measure_hardware.cpu_device import CpuDevice
from meshwright.executor.measure_hardware.cuda_device import CudaDevice
from meshwright.executor.measure_hardware.device import Device


def open_device(index: int, *, on_gpus: bool) -> Device:
    """GPU `index`, made the process's current one; or the host.

    A launcher may show each process its own GPU alone: then that one is number 0.
    """
    if not on_gpus:
        return CpuDevice()
    visible = index % torch.cuda.device_count()
    torch.cuda.set_device(visible)
    return CudaDevice(visible)
