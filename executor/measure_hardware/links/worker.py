"""What each rank does: check the collectives, then time them, then computation beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from meshwright.costmodel.program.operators import CollectiveWork, Group
from meshwright.costmodel.value import Value
from meshwright.executor.measure_hardware.cuda_device import CudaDevice
from meshwright.executor.measure_hardware.device import Device
from meshwright.executor.measure_hardware.entry import Entry, InterferenceEntry
from meshwright.executor.measure_hardware.journal import (
    CollectiveLaunched,
    Interfered,
    Measured,
    Outcome,
    Skipped,
)
from meshwright.executor.measure_hardware.launch import host_seconds
from meshwright.executor.measure_hardware.links.collective_calls import Call, buffer_sets, collective_call
from meshwright.executor.measure_hardware.links.collective_check import collectives_are_right
from meshwright.executor.measure_hardware.links.collective_timer import time_collective
from meshwright.executor.measure_hardware.links.overlap import CudaLane, HostLane, Lane, Slowdowns, slowdowns
from meshwright.executor.measure_hardware.links.ranks import Ranks
from meshwright.executor.measure_hardware.local_run import reason_of, sample_of
from meshwright.executor.measure_hardware.operators import build_operator
from meshwright.executor.measure_hardware.timer import time_operator
from meshwright.executor.measure_hardware.times import Times
from meshwright.hardware_profiles.measurements import InterferenceSample

Record = Callable[[str, Outcome], None]

LAUNCH_KEY = "collective launch"
LAUNCHES = 100
SMALL_BYTES = 4096.0
HEALTH_S = 0.3
NOT_MEASURED = "not measured"


class LinkTask(Value, frozen=True, kw_only=True):
    """What is left to measure between GPUs, and how long each sample may take."""

    health: tuple[Entry, ...]
    links: tuple[Entry, ...]
    interference: tuple[InterferenceEntry, ...]
    heat_s: float
    sample_s: float


class LinkWorker:
    """One rank's part; rank 0 records."""

    def __init__(self, ranks: Ranks, device: Device, record: Record) -> None:
        self.ranks = ranks
        self.device = device
        self.record = record

    def run(self, task: LinkTask) -> None:
        """Everything, in the same order on every rank."""
        with self.device.scope():
            self.device.heat(task.heat_s)
            self._health(task)
            whole = Group(size=self.ranks.place.size, ranks_per_node=self._per_node())
            wrong = self._together(lambda: self._check(whole), "check of the collectives")
            for entry in task.links:
                if wrong:
                    self._record(entry.key, Skipped(what=entry.key, reason=wrong))
                else:
                    self._link(entry, task.sample_s)
            if not wrong:
                self._launch(whole)
            for pair in task.interference:
                if wrong:
                    self._record(pair.key, Skipped(what=pair.key, reason=wrong))
                else:
                    self._interference(pair)
            self.device.release()

    def _per_node(self) -> int:
        return min(self.ranks.place.size, self.ranks.place.local_size)

    def _record(self, key: str, outcome: Outcome) -> None:
        if self.ranks.place.is_first:
            self.record(key, outcome)

    def _together(self, action: Callable[[], object], what: str) -> str:
        """Run the action on every rank; the reason of the first rank that failed, the same everywhere."""
        reasons = self.ranks.gathered(reason_of(action))
        return next((f"{what}: rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason), "")

    def _check(self, group: Group) -> None:
        wrong = collectives_are_right(self.ranks.group(group), self.device.torch_device)
        if wrong:
            raise RuntimeError(f"wrong result of {wrong}")

    def _health(self, task: LinkTask) -> None:
        """The same work on all GPUs at once, each timed by itself."""
        mine = [entry for entry in task.health if entry.gpu == self.ranks.place.rank]
        taken: list[tuple[Entry, Times]] = []
        for entry in mine:
            operator = build_operator(entry, self.device.torch_device, self.device.l2_bytes)
            taken.append((entry, time_operator(operator, self.device, HEALTH_S)))
        for part in self.ranks.gathered(taken):
            for entry, times in part:
                self._record(entry.key, Measured(sample=sample_of(entry, times)))

    def _link(self, entry: Entry, seconds: float) -> None:
        work = entry.work
        assert isinstance(work, CollectiveWork)  # as the survey makes links
        num_sets, calls, taken = buffer_sets(work, self.device.l2_bytes), list[Call](), list[Times]()
        reason = self._together(lambda: calls.append(self._call(work, entry.peer_shares, num_sets)), NOT_MEASURED)
        if not reason:

            def measure() -> None:
                taken.append(time_collective(calls[0], num_sets, self.ranks, self.device, seconds))

            reason = self._together(measure, NOT_MEASURED)
        outcome = Skipped(what=entry.key, reason=reason) if reason else Measured(sample=sample_of(entry, taken[0]))
        self._record(entry.key, outcome)
        self.device.tidy()

    def _call(self, work: CollectiveWork, peer_shares: tuple[float, ...], num_sets: int, num_ctas: int = 0) -> Call:
        group = self.ranks.group(work.group, num_ctas)
        return collective_call(work, peer_shares, group, self.device.torch_device, num_sets)

    def _launch(self, group: Group) -> None:
        """Host time of a small all-reduce, as eager code calls it."""
        if not self.device.captures:
            return
        values = torch.ones(int(SMALL_BYTES) // 4, device=self.device.torch_device)
        process_group = self.ranks.group(group)

        def many() -> None:
            for _ in range(LAUNCHES):
                torch.distributed.all_reduce(values, group=process_group)

        many()
        self.ranks.wait()
        host_s = host_seconds(many, self.device, time.perf_counter) / LAUNCHES
        self._record(LAUNCH_KEY, CollectiveLaunched(time_s=self.ranks.largest(host_s)))

    def _interference(self, pair: InterferenceEntry) -> None:
        """All ranks first agree that both sides can run: one that cannot would leave the others waiting for it."""
        prepared, taken = list[Lanes](), list[InterferenceSample]()
        reason = self._together(lambda: prepared.append(self._lanes(pair)), NOT_MEASURED)
        if not reason:

            def measure() -> None:
                lanes = prepared[0]
                lanes.connect()
                times = slowdowns(lanes.compute, lanes.communication, self.ranks.largest, self.ranks.wait)
                taken.append(interference_sample(pair, times))

            reason = self._together(measure, NOT_MEASURED)
        self._record(pair.key, Skipped(what=pair.key, reason=reason) if reason else Interfered(sample=taken[0]))
        self.device.tidy()

    def _lanes(self, pair: InterferenceEntry) -> Lanes:
        work = pair.communication
        call = self._call(work, (), buffer_sets(work, self.device.l2_bytes), pair.num_ctas)
        operator = build_operator(pair.compute, self.device.torch_device, self.device.l2_bytes)
        return Lanes(
            connect=lambda: call(0),
            compute=compute_lane(self.device, lambda: operator.run(0)),
            communication=communication_lane(self.device, lambda: call(0)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """Both sides of an interference sample, ready to run once `connect` has been called on all ranks."""

    connect: Callable[[], object]
    compute: Lane
    communication: Lane


def compute_lane(device: Device, work: Callable[[], object]) -> Lane:
    """Computation as a graph on the device's stream."""
    work()
    captured = device.capture(work)
    return CudaLane(captured, device.stream) if isinstance(device, CudaDevice) else HostLane(captured)


def communication_lane(device: Device, work: Callable[[], object]) -> Lane:
    """Communication as eager code calls it, on the stream beside the device's."""
    return CudaLane(work, device.beside) if isinstance(device, CudaDevice) else HostLane(work)


def interference_sample(pair: InterferenceEntry, times: Slowdowns) -> InterferenceSample:
    """The sample of a pair."""
    return InterferenceSample(
        compute=pair.compute.work,
        communication=pair.communication,
        implementation=pair.implementation,
        num_ctas=pair.num_ctas,
        compute_alone_s=times.compute_alone_s,
        compute_beside_s=times.compute_beside_s,
        communication_alone_s=times.communication_alone_s,
        communication_beside_s=times.communication_beside_s,
    )
