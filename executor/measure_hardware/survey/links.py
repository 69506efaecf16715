"""Collectives to measure: every kind, every power-of-two group, small messages to large ones, even and skewed."""

from __future__ import annotations

from meshwright.costmodel.program.operators import Collective, CollectiveWork, Group
from meshwright.executor.measure_hardware.entry import Entry, Extent
from meshwright.executor.measure_hardware.survey.random_sizes import log_uniform
from meshwright.executor.measure_hardware.survey.skew import zipf_shares
from meshwright.hardware_profiles.measurements import Implementation, Purpose

SIZES = tuple(2.0**power for power in range(12, 31))
QUICK_SIZES = (2.0**14, 2.0**20, 2.0**24, 2.0**28)
TINY_SIZES = (2.0**12,)
SKEWED_SIZES = tuple(2.0**power for power in range(20, 31, 2))
PEER_SIZES = tuple(2.0**power for power in range(23, 31))
QUICK_PEER_SIZES = (2.0**24, 2.0**28)
CHECK_BYTES = (2.0**20, 2.0**29)
CHECKS_PER_COLLECTIVE = 6


def groups_of(num_gpus: int, gpus_per_node: int) -> tuple[Group, ...]:
    """Groups of consecutive ranks of every power-of-two size; across nodes also those of one rank a node."""
    sizes = [size for size in (2**power for power in range(1, 32)) if size <= num_gpus]
    groups = [Group(size=size, ranks_per_node=min(size, gpus_per_node)) for size in sizes if num_gpus % size == 0]
    num_nodes = num_gpus // gpus_per_node
    if num_nodes > 1 and gpus_per_node > 1:
        groups.append(Group(size=num_nodes, ranks_per_node=1))
    return tuple(groups)


def link_entries(extent: Extent, num_gpus: int, gpus_per_node: int, seed: int) -> tuple[Entry, ...]:
    """Entries of `CollectiveWork` that NCCL runs."""
    sizes = {Extent.TINY: TINY_SIZES, Extent.QUICK: QUICK_SIZES, Extent.FULL: SIZES}[extent]
    entries: list[Entry] = []
    for group in groups_of(num_gpus, gpus_per_node):
        entries += [_entry(collective, size, group) for collective in Collective for size in sizes]
        shares = zipf_shares(group.size)
        skewed = {Extent.TINY: TINY_SIZES, Extent.QUICK: QUICK_SIZES[-1:], Extent.FULL: SKEWED_SIZES}[extent]
        entries += [_entry(Collective.ALL_TO_ALL, size, group, shares=shares) for size in skewed]
        if extent is not Extent.QUICK:
            entries += _checks(extent, group, seed)
    return tuple(entries)


def peer_copy_entries(extent: Extent) -> tuple[Entry, ...]:
    """Messages that the copy engines of two GPUs of a node exchange, both ways at once."""
    group = Group(size=2, ranks_per_node=2)
    sizes = {Extent.TINY: (), Extent.QUICK: QUICK_PEER_SIZES, Extent.FULL: PEER_SIZES}[extent]
    return tuple(
        Entry(
            work=CollectiveWork(collective=Collective.SEND_RECV, num_bytes=size, group=group),
            implementation=Implementation.COPY_ENGINE,
        )
        for size in sizes
    )


def _checks(extent: Extent, group: Group, seed: int) -> list[Entry]:
    count = 1 if extent is Extent.TINY else CHECKS_PER_COLLECTIVE
    step = 16 * group.size
    return [
        _entry(collective, float(size), group, purpose=Purpose.CHECK)
        for collective in Collective
        for size in log_uniform(f"{collective} {group.size} {group.ranks_per_node} {seed}", count, *CHECK_BYTES, step)
    ]


def _entry(
    collective: Collective,
    num_bytes: float,
    group: Group,
    *,
    purpose: Purpose = Purpose.FIT,
    shares: tuple[float, ...] = (),
) -> Entry:
    work = CollectiveWork(collective=collective, num_bytes=num_bytes, group=group)
    return Entry(work=work, implementation=Implementation.NCCL, purpose=purpose, peer_shares=shares)
