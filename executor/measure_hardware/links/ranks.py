"""The processes that measure together: who they are, what they agree on, their communicators.

Agreement goes over gloo (the host's network), so that it neither waits for a GPU nor disturbs what is measured.
NVLink multicast is left as the environment has it; no variable of NCCL that decides about it is touched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from meshwright.costmodel.program.operators import Group

PATIENCE = timedelta(hours=1)
"""Ranks wait for rank 0 to measure its GPU alone."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This process among all: its rank, its GPU on its node, how many there are."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def is_first(self) -> bool:
        """Whether this rank records."""
        return self.rank == 0


def place_from_environment() -> Place | None:
    """The place that torchrun gives this process; None where it was started alone."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    size = int(os.environ["WORLD_SIZE"])
    return Place(
        rank=int(os.environ["RANK"]),
        size=size,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", str(size))),
    )


class Ranks:
    """The joined processes. `init_method` is where they meet; torchrun's ranks know from the environment."""

    def __init__(self, place: Place, *, on_gpus: bool, init_method: str = "env://") -> None:
        self.place = place
        self.on_gpus = on_gpus
        self._groups: dict[tuple[Group, int], dist.ProcessGroup] = {}
        # Captured collectives would otherwise run on buffers that NCCL registers, which eager training does not do.
        os.environ.setdefault("NCCL_GRAPH_REGISTER", "0")
        dist.init_process_group(
            "gloo", init_method=init_method, rank=place.rank, world_size=place.size, timeout=PATIENCE
        )

    def close(self) -> None:
        """Leave."""
        dist.destroy_process_group()

    def largest(self, value: float) -> float:
        """The largest of all ranks' values."""
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def wait(self) -> None:
        """For all ranks."""
        dist.barrier()

    def gathered(self, value: T) -> list[T]:
        """Everybody's value, by rank."""
        values: list[T | None] = [None] * self.place.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # filled by now

    def from_first(self, value: T) -> T:
        """Rank 0's value."""
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def group(self, shape: Group, num_ctas: int = 0) -> dist.ProcessGroup:
        """This rank's communicator of that shape; all ranks ask for the same shapes in the same order.

        `num_ctas`: thread blocks that NCCL takes, 0 for its own choice.
        """
        key = (shape, num_ctas)
        if key not in self._groups:
            self._groups[key] = self._made(shape, num_ctas)
        return self._groups[key]

    def _made(self, shape: Group, num_ctas: int) -> dist.ProcessGroup:
        mine: dist.ProcessGroup | None = None
        for ranks in partitions(shape, self.place.size, self.place.local_size):
            made = self._new_group(ranks, num_ctas)
            if self.place.rank in ranks:
                mine = made
        assert mine is not None  # a partition has every rank
        return mine

    def _new_group(self, ranks: list[int], num_ctas: int) -> dist.ProcessGroup:
        if not self.on_gpus:
            group: dist.ProcessGroup = dist.new_group(ranks, backend="gloo", timeout=PATIENCE)
            return group
        options = dist.ProcessGroupNCCL.Options()
        if num_ctas:
            options.config.min_ctas = num_ctas
            options.config.max_ctas = num_ctas
        made: dist.ProcessGroup = dist.new_group(ranks, backend="nccl", pg_options=options)
        return made


def partitions(shape: Group, num_ranks: int, ranks_per_node: int) -> list[list[int]]:
    """The ranks of each group of that shape: consecutive ones, or the same place of every node.

    >>> partitions(Group(size=2, ranks_per_node=2), 4, 4)
    [[0, 1], [2, 3]]
    >>> partitions(Group(size=2, ranks_per_node=1), 4, 2)
    [[0, 2], [1, 3]]
    """
    if shape.ranks_per_node == 1 and ranks_per_node > 1:
        return [list(range(first, num_ranks, ranks_per_node)) for first in range(ranks_per_node)]
    return [list(range(first, first + shape.size)) for first in range(0, num_ranks, shape.size)]
