"""Run as a script: four processes over gloo add up whole numbers, which every format has exactly; prints what is wrong.

python tests/unit/executor/state/exchange_ranks.py
"""

from __future__ import annotations

import os
import socket
import sys

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from meshwright.executor.layer.groups import Communicator
from meshwright.executor.state import exchange
from meshwright.executor.state.exchange import reduce_to_shard
from meshwright.executor.state.flat import ALIGNMENT, Holders

RANKS = 4
SIZE = RANKS * ALIGNMENT * 5
FORMATS = (
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
)


def main() -> None:
    """Start the ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start_processes(run_rank, args=(port,), nprocs=RANKS, start_method="fork")  # with all modules loaded


def run_rank(rank: int, port: int) -> None:
    """Every sharding, every format, in one piece and in several."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    everyone = Communicator(size=RANKS, rank=rank, group=dist.group.WORLD)
    pairs = {ranks: dist.new_group(list(ranks)) for ranks in ((0, 1), (2, 3), (0, 2), (1, 3))}
    neighbours, across = (rank // 2 * 2, rank // 2 * 2 + 1), (rank % 2, rank % 2 + 2)
    halves = Holders(
        shards=Communicator(size=2, rank=rank % 2, group=pairs[neighbours]),
        replicas=Communicator(size=2, rank=rank // 2, group=pairs[across]),
    )
    shardings = {
        "all": Holders(shards=everyone),
        "none": Holders(replicas=everyone),
        "half": halves,
        "alone": Holders(),
    }
    for at_once in (SIZE, SIZE // 3):
        exchange.ELEMENTS_AT_ONCE = at_once
        for name, holders in shardings.items():
            for sums, wire in FORMATS:
                if not is_right(rank, holders, sums, wire):
                    sys.stdout.write(f"{name}, {sums} sums, {wire} travels, {at_once} at once\n")
    dist.destroy_process_group()


def is_right(rank: int, holders: Holders, sums: torch.dtype, wire: torch.dtype) -> bool:
    """Whether this rank's shard is the sum of all: to the bit, unless it is rounded to travel to other copies.

    What each rank gives fits in 8 bits, what they sum up to does not; no two shards are alike.
    """
    base = torch.arange(SIZE) % 61
    gradients = (base * (rank + 1)).to(sums)
    found = reduce_to_shard(gradients, holders, wire)
    shard = SIZE // holders.shards.size
    expected = base * (10 if holders.num_copies == RANKS else rank + 1)
    own = expected[holders.shards.rank * shard :][:shard].to(found.dtype)
    rounded = holders.replicas.size > 1 and wire is torch.bfloat16
    return torch.allclose(found, own, rtol=2.0**-7, atol=0.0) if rounded else torch.equal(found, own)


if __name__ == "__main__":
    main()
