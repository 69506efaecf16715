"""Starts the ranks of one host with torch's own launcher, the one behind torchrun."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from meshwright.costmodel.errors import MeshwrightError
from meshwright.executor.train.stopping import STOPPED_STATUS, StoppedError

SHUTDOWN_S = 600
"""How long ranks may save after SIGTERM before they are killed."""


class RankError(MeshwrightError):
    """A rank has ended early; the others were stopped."""

    def __init__(self, rank: int, status: int) -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        super().__init__(f"run: rank {rank} {how}; the other ranks were stopped")
        self.exit_status = status if status > 0 else 1


def launch_ranks(num_ranks: int, arguments: Sequence[str], *, on_cpu: bool) -> None:
    """Run `python -m meshwright ARGUMENTS` in so many processes until all have ended; `RankError` if one failed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_S))
    if on_cpu:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the failed rank has said why
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=f"meshwright-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "meshwright", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == STOPPED_STATUS:
            raise StoppedError("run: stopped by SIGTERM") from error
        raise RankError(rank, failure.exitcode) from error
    except SignalException as error:
        if error.sigval == signal.SIGTERM:
            raise StoppedError("run: stopped by SIGTERM") from error
        raise KeyboardInterrupt from error
