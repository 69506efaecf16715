"""The processes that measure between GPUs, however they came about: started here, or by torchrun on several nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from meshwright.executor.measure_hardware.device import Device
from meshwright.executor.measure_hardware.journal import Outcome
from meshwright.executor.measure_hardware.links.processes import run_in_processes
from meshwright.executor.measure_hardware.links.ranks import Ranks
from meshwright.executor.measure_hardware.links.worker import LinkTask, LinkWorker, Record


class Team(ABC):
    """How many ranks there are, and how they run a task."""

    size: int
    per_node: int

    @abstractmethod
    def run(self, task: LinkTask, device: Device, record: Record) -> str:
        """Measure; returns why it ended early, or nothing."""

    @abstractmethod
    def dismiss(self) -> None:
        """There is nothing to do: ranks that wait may go."""


class LocalTeam(Team):
    """One process for each GPU of this machine, started when needed."""

    def __init__(self, size: int, *, on_gpus: bool) -> None:
        self.size = size
        self.per_node = size
        self.on_gpus = on_gpus

    def run(self, task: LinkTask, device: Device, record: Record) -> str:
        """This process gives its GPU memory back first."""
        device.release()
        return run_in_processes(task, self.size, on_gpus=self.on_gpus, record=record)

    def dismiss(self) -> None:
        """Nobody waits."""


class JoinedTeam(Team):
    """Ranks that torchrun started, this one the first."""

    def __init__(self, ranks: Ranks) -> None:
        self.size = ranks.place.size
        self.per_node = ranks.place.local_size
        self.ranks = ranks
        self.dismissed = False

    def run(self, task: LinkTask, device: Device, record: Record) -> str:
        """The others have been waiting for the task."""
        self.dismissed = True
        self.ranks.from_first(task)
        LinkWorker(self.ranks, device, record).run(task)
        return ""

    def dismiss(self) -> None:
        """Send no task, once."""
        if not self.dismissed:
            self.dismissed = True
            self.ranks.from_first(None)


def follow(ranks: Ranks, device: Device) -> None:
    """What every other rank does: wait for the task, and take part."""
    nothing: LinkTask | None = None
    task = ranks.from_first(nothing)
    if task is not None:
        LinkWorker(ranks, device, _forget).run(task)


def _forget(key: str, outcome: Outcome) -> None:
    """Rank 0 records."""
    del key, outcome
