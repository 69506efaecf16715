"""Copies between a GPU and pinned memory of its host."""

from __future__ import annotations

import torch

from meshwright.costmodel.program.operators import CopyWork
from meshwright.executor.measure_hardware.entry import Direction
from meshwright.executor.measure_hardware.operators.runnable import Runnable, relative_error
from meshwright.executor.measure_hardware.operators.values import normal


def host_copy(work: CopyWork, direction: Direction, device: torch.device) -> Runnable:
    """One asynchronous copy; on a machine without GPU an ordinary one."""
    count = max(1, int(work.num_bytes) // 2)
    on_gpu = normal((count,), device)
    on_host = normal((count,), torch.device("cpu"))
    if device.type == "cuda":
        on_host = on_host.pin_memory()
    source, target = (on_gpu, on_host) if direction is Direction.TO_HOST else (on_host, on_gpu)

    def run(index: int) -> torch.Tensor:
        del index
        return target.copy_(source, non_blocking=True)

    def check() -> float:
        run(0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return relative_error(target.cpu(), source.cpu())

    return Runnable(run=run, num_sets=1, check=check)
