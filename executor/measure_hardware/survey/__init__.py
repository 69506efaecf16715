"""What `meshwright profile` measures, as data: the ordered list of samples. No torch here."""

from __future__ import annotations

import random

import msgspec

from meshwright.costmodel.program.operators import GemmWork
from meshwright.executor.measure_hardware.entry import Entry, Extent, Survey, memory_entry
from meshwright.executor.measure_hardware.memory_case import MemoryCase, MemoryOperator
from meshwright.executor.measure_hardware.survey.attention import attention_entries
from meshwright.executor.measure_hardware.survey.checks import check_entries
from meshwright.executor.measure_hardware.survey.dense import dense_entries
from meshwright.executor.measure_hardware.survey.grouped import grouped_entries
from meshwright.executor.measure_hardware.survey.interference import copy_interference, link_interference
from meshwright.executor.measure_hardware.survey.links import link_entries, peer_copy_entries
from meshwright.executor.measure_hardware.survey.memory import memory_entries
from meshwright.hardware_profiles.measurements import Implementation

__all__ = ["build_survey"]


def build_survey(
    extent: Extent, *, num_gpus: int, gpus_per_node: int, seed: int = 0, custom_kernels: bool = False
) -> Survey:
    """The samples of a run on `num_gpus` GPUs, in an order drawn by `seed`: drift does not follow the shape.

    `custom_kernels`: those of Meshwright's CUDA kernels, too, which must run here.
    """
    grid = (*dense_entries(extent), *grouped_entries(extent), *attention_entries(extent))
    checks = check_entries(grid, seed) if extent is Extent.FULL else ()
    local = [*grid, *checks, *memory_entries(extent, custom_kernels=custom_kernels)]
    random.Random(seed).shuffle(local)
    if num_gpus == 1:
        return Survey(extent=extent, local=tuple(local))
    links = list(link_entries(extent, num_gpus, gpus_per_node, seed))
    random.Random(seed).shuffle(links)
    has_peers = gpus_per_node > 1
    return Survey(
        extent=extent,
        local=tuple(local),
        health=_health(extent, num_gpus),
        links=tuple(links),
        peer_copies=peer_copy_entries(extent) if has_peers else (),
        link_interference=link_interference(extent, num_gpus, gpus_per_node),
        copy_interference=copy_interference(extent) if has_peers else (),
    )


def _health(extent: Extent, num_gpus: int) -> tuple[Entry, ...]:
    """The same product and the same copy on every GPU."""
    size = 32 if extent is Extent.TINY else 8192
    copy = MemoryCase(operator=MemoryOperator.COPY, rows=1, width=2 * size * size)
    both = (
        Entry(work=GemmWork(m=size, n=size, k=size), implementation=Implementation.CUBLAS),
        memory_entry(copy, Implementation.FUSED),
    )
    return tuple(msgspec.structs.replace(entry, gpu=gpu) for gpu in range(num_gpus) for entry in both)
