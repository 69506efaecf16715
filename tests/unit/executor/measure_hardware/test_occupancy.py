from __future__ import annotations

import os

from meshwright.executor.measure_hardware.nvidia_smi import GpuProcess
from meshwright.executor.measure_hardware.occupancy import occupants

GIB = 2.0**30


def _process(pid: int, uuid: str = "GPU-1") -> GpuProcess:
    return GpuProcess(uuid=uuid, pid=pid, name="python3", memory="30210 MiB")


def test_nobody() -> None:
    assert occupants([], ["1"], [0.5 * GIB]) == ""


def test_another_process() -> None:
    assert occupants([_process(42)], ["1"], [30 * GIB]) == "process 42 (python3, 30210 MiB)"


def test_a_process_on_a_gpu_that_is_not_ours() -> None:
    assert occupants([_process(42, "GPU-7")], ["1"], [0.5 * GIB]) == ""


def test_this_process_is_no_other() -> None:
    assert occupants([_process(os.getpid())], ["1"], [0.5 * GIB]) == ""


def test_memory_of_a_process_that_cannot_be_seen() -> None:
    assert occupants([], ["1", "2"], [0.5 * GIB, 30 * GIB]).startswith("30.0 GiB of GPU 1")
