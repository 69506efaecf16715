"""Whether somebody else uses the GPUs: measurements would not be theirs nor ours."""

from __future__ import annotations

import os
from collections.abc import Iterable

from meshwright.executor.measure_hardware.nvidia_smi import GpuProcess

GIB = 2.0**30
IDLE_BYTES = 1.5 * GIB
"""What driver and context may hold of a GPU that nobody uses."""


def occupants(processes: Iterable[GpuProcess], uuids: Iterable[str], used_bytes: Iterable[float]) -> str:
    """Who uses the GPUs, in words; empty: nobody.

    `processes` are those of all GPUs of the machine, `uuids` the GPUs in question, `used_bytes` the memory used there.
    """
    ours = {uuid.removeprefix("GPU-") for uuid in uuids}
    others = [
        process
        for process in processes
        if process.pid != os.getpid() and (not any(ours) or process.uuid.removeprefix("GPU-") in ours)
    ]
    if others:
        return ", ".join(_words(process) for process in others)
    held = [(gpu, used) for gpu, used in enumerate(used_bytes) if used > IDLE_BYTES]
    return ", ".join(f"{used / GIB:.1f} GiB of GPU {gpu} held by a process that cannot be seen" for gpu, used in held)


def _words(process: GpuProcess) -> str:
    return f"process {process.pid} ({process.name}, {process.memory})"
