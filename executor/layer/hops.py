"""Messages around a ring: each rank to the next one, while it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.executor.layer.groups import Communicator


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A message under way: what arrives, and what leaves, which must stay alive until then."""

    arriving: Tensor
    leaving: Tensor
    works: Sequence[dist.Work]

    def wait(self) -> Tensor:
        """What has arrived from the rank before; the device's stream waits on CUDA, the host elsewhere."""
        for work in self.works:
            work.wait()
        return self.arriving


def start_hop(x: Tensor, ranks: Communicator) -> Hop:
    """Begin to send `x` to the next rank of the ring, and to receive as much from the one before."""
    leaving = x.contiguous()
    arriving = torch.empty_like(leaving)
    messages = [
        dist.P2POp(dist.isend, leaving, group=ranks.group, group_peer=(ranks.rank + 1) % ranks.size),
        dist.P2POp(dist.irecv, arriving, group=ranks.group, group_peer=(ranks.rank - 1) % ranks.size),
    ]
    return Hop(arriving=arriving, leaving=leaving, works=dist.batch_isend_irecv(messages))
