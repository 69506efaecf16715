"""The group of all ranks that moves what lies in host memory."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

from meshwright.executor.layer.groups import ALONE, Communicator


def host_group(timeout_s: float = 600.0) -> Communicator:
    """A gloo group of all ranks for a `Checkpointer`; this process alone where nothing is initialized.

    `timeout_s`: after it a save gives up on a rank that does not answer. Wait for the last save before the groups are
    destroyed.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    assert group is not None  # all ranks are in it
    return Communicator(size=dist.get_world_size(), rank=dist.get_rank(), group=group)
