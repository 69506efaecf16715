"""The communicators of a layer and this rank's place in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Communicator:
    """`size` ranks of which this is number `rank`; a single rank needs no process group."""

    size: int = 1
    rank: int = 0
    group: ProcessGroup | None = None


ALONE = Communicator()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroups:
    """Tensor parallelism of attention, Ulysses, tensor parallelism of the FFN, experts."""

    tensor: Communicator = ALONE
    sequence: Communicator = ALONE
    ffn: Communicator = ALONE
    expert: Communicator = ALONE
