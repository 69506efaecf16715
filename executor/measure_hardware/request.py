"""What a user asks of `meshwright profile`."""

from __future__ import annotations

from pathlib import Path

from meshwright.costmodel.value import Value
from meshwright.executor.measure_hardware.entry import Extent


class ProfileRequest(Value, frozen=True, kw_only=True):
    """Where results go and how much is measured.

    `restart` ignores what an interrupted run has left, `shared` measures although others use the GPUs, `base` names the
    profile whose data sheet is taken. `on_gpus` False runs everything on the host, with `num_ranks` processes: a trial
    of the profiler, not of the hardware.
    """

    output: Path
    measurements: Path
    extent: Extent = Extent.FULL
    restart: bool = False
    shared: bool = False
    base: str | None = None
    seed: int = 0
    on_gpus: bool = True
    num_ranks: int = 1
