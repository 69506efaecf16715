"""From an entry to code that runs: the operators that `meshwright profile` times, through PyTorch."""

from __future__ import annotations

import math

import torch

from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.formulas.attention import attention_bytes
from meshwright.costmodel.formulas.matmul import gemm_bytes, grouped_gemm_bytes
from meshwright.costmodel.program.operators import AttentionWork, CopyWork, GemmWork, GroupedGemmWork, MemoryWork
from meshwright.executor.measure_hardware.entry import Entry
from meshwright.executor.measure_hardware.operators.attention import attention
from meshwright.executor.measure_hardware.operators.dense import dense_product
from meshwright.executor.measure_hardware.operators.grouped import grouped_product
from meshwright.executor.measure_hardware.operators.host_copy import host_copy
from meshwright.executor.measure_hardware.operators.memory import memory_bound
from meshwright.executor.measure_hardware.operators.runnable import Runnable

__all__ = ["Runnable", "build_operator", "bytes_touched", "input_sets"]

MOST_SETS = 256
CACHES = 2.0


def build_operator(entry: Entry, device: torch.device, l2_bytes: float) -> Runnable:
    """The entry's operator, with as many input sets as keep the cache from holding them."""
    work, num_sets = entry.work, input_sets(entry, l2_bytes)
    match work:
        case GemmWork():
            return dense_product(work, device, num_sets)
        case GroupedGemmWork():
            return grouped_product(work, entry.rows_per_group, device, num_sets)
        case AttentionWork():
            return attention(work, entry.implementation, device, num_sets)
        case MemoryWork() if entry.case:
            return memory_bound(entry.case, entry.implementation, device, num_sets)
        case CopyWork() if entry.copy_direction:
            return host_copy(work, entry.copy_direction, device)
        case _:
            raise MeshwrightError(f"{entry.key} is not an operator of one GPU")


def input_sets(entry: Entry, l2_bytes: float) -> int:
    """Sets that together are twice the cache."""
    return min(MOST_SETS, max(1, math.ceil(CACHES * l2_bytes / bytes_touched(entry))))


def bytes_touched(entry: Entry) -> float:
    """Bytes that one run reads and writes at least."""
    work = entry.work
    match work:
        case GemmWork():
            return gemm_bytes(work)
        case GroupedGemmWork():
            return grouped_gemm_bytes(work)
        case AttentionWork():
            return attention_bytes(work)
        case MemoryWork():
            return work.read_bytes + work.write_bytes
        case _:
            return work.num_bytes
