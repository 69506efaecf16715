"""Run as a script: saves step 1, begins step 2 and stops in its middle, to be killed.

python tests/unit/executor/checkpoint/saving_run.py FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from meshwright.executor.checkpoint.checkpointer import Checkpointer
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.checkpoint.manifest import DataPosition, Manifest
from meshwright.executor.checkpoint.pieces import ShardedState, whole


def _manifest(step: int) -> Manifest:
    data = DataPosition(source="uniform", seed=1, global_batch=1, seq_len=1, next_step=step)
    return Manifest(model="tiny", model_sha256="m", plan_sha256="p", step=step, data=data)


def main() -> None:
    """Tensors are written, their metadata never."""
    checkpointer = Checkpointer(CheckpointFolder(path=Path(sys.argv[1])))
    weights = torch.full((1000,), 1.0)
    checkpointer.save(ShardedState([whole("w", weights)]), _manifest(1))
    checkpointer.wait()

    def stop(*_: object) -> None:
        sys.stdout.write("half\n")
        sys.stdout.flush()
        time.sleep(120)

    setattr(FileSystemWriter, "finish", stop)  # noqa: B010  a method is replaced on purpose
    checkpointer.save(ShardedState([whole("w", weights + 1)]), _manifest(2))
    checkpointer.wait()


if __name__ == "__main__":
    main()
