"""The processes that measure between GPUs, however they came about: started here, or by torchrun on several nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from meshwright.executor.measure_hardware.device import Device
from meshwright.executor.measure_hardware.journal import Outcome
from meshwright.executor.measure_hardware.links.processes import LinkProcesses
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
    def prepare(self) -> None:
        """A task will come soon."""

    @abstractmethod
    def dismiss(self) -> None:
        """There is nothing more to do: ranks that wait may go."""


class LocalTeam(Team):
    """One process for each GPU of this machine, started when needed, or a little before."""

    def __init__(self, size: int, *, on_gpus: bool) -> None:
        self.size = size
        self.per_node = size
        self.on_gpus = on_gpus
        self._waiting: LinkProcesses | None = None

    def prepare(self) -> None:
        """The processes load their libraries."""
        if self._waiting is None:
            self._waiting = LinkProcesses(self.size, on_gpus=self.on_gpus)

    def run(self, task: LinkTask, device: Device, record: Record) -> str:
        """This process gives its GPU memory back first."""
        self.prepare()
        processes, self._waiting = self._waiting, None
        assert processes is not None  # just prepared
        device.release()
        return processes.run(task, record)

    def dismiss(self) -> None:
        """Processes that wait for a task are ended."""
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None


class JoinedTeam(Team):
    """Ranks that torchrun started, this one the first."""

    def __init__(self, ranks: Ranks) -> None:
        self.size = ranks.place.size
        self.per_node = ranks.place.local_size
        self.ranks = ranks
        self.dismissed = False

    def prepare(self) -> None:
        """They have been waiting all the time."""

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
