"""Run as a script: `meshwright` with these arguments, whose second checkpoint stops in its middle, to be killed.

python tests/integration/training/killed_run.py run PLAN ...
"""

from __future__ import annotations

import sys
import time

from torch.distributed.checkpoint.filesystem import FileSystemWriter

from meshwright.__main__ import run

FINISH = FileSystemWriter.finish
_saves: list[tuple[object, ...]] = []


def stop(*arguments: object) -> None:
    """Tensors are written, their metadata never."""
    _saves.append(arguments)
    if len(_saves) == 1:
        FINISH(*arguments)  # type: ignore[arg-type]
        return
    sys.stdout.write("half\n")
    sys.stdout.flush()
    time.sleep(120)


if __name__ == "__main__":
    setattr(FileSystemWriter, "finish", stop)  # noqa: B010  a method is replaced on purpose
    run()
