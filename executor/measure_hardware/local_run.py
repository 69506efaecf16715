"""Takes the samples of one GPU, one after the other, each family's output checked before the first is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshwright.executor.measure_hardware.device import Device
from meshwright.executor.measure_hardware.entry import Entry
from meshwright.executor.measure_hardware.journal import Measured, Outcome, Skipped, Uncaptured
from meshwright.executor.measure_hardware.operators import build_operator, bytes_touched
from meshwright.executor.measure_hardware.pace import Pace
from meshwright.executor.measure_hardware.timer import time_operator
from meshwright.executor.measure_hardware.times import Times
from meshwright.hardware_profiles.measurements import Implementation, Sample

Record = Callable[[str, Outcome], None]

REASON_LENGTH = 240
WRONG = "wrong result"


class LocalRun:
    """Measures on one device; what comes out goes to `record` under the entry's key."""

    def __init__(self, device: Device, record: Record) -> None:
        self.device = device
        self.record = record
        self.wrong: dict[str, str] = {}

    def prepare(self, entries: Iterable[Entry]) -> None:
        """Compile what is to be compiled, before the GPU is warm: it would cool down meanwhile."""
        for entry in entries:
            if entry.implementation is Implementation.COMPILED:
                reason_of(lambda entry=entry: self._run_once(entry))  # type: ignore[misc]

    def check(self, entries: Iterable[Entry]) -> None:
        """One shape of every family against float32. A wrong one is not timed."""
        families: dict[str, list[Entry]] = {}
        for entry in entries:
            families.setdefault(entry.family, []).append(entry)
        for family, members in families.items():
            ordered = sorted(members, key=bytes_touched)
            reasons = []
            for entry in (ordered[len(ordered) // 3], ordered[0]):  # the smallest, where memory is short for another
                reasons = [reason_of(lambda entry=entry: self._check_one(entry))]  # type: ignore[misc]
                self._tidy(reasons[0])
                if not reasons[0] or WRONG in reasons[0]:
                    break
            if reasons[0]:
                self.wrong[family] = reasons[0]

    def measure(self, entries: Iterable[Entry], pace: Pace) -> None:
        """Time every entry."""
        for entry in entries:
            self.measure_one(entry, pace.next_s())

    def measure_one(self, entry: Entry, seconds: float) -> None:
        """Time one entry, or say why that cannot be."""
        if entry.family in self.wrong:
            self.record(entry.key, Skipped(what=entry.key, reason=self.wrong[entry.family]))
            return
        taken: list[Times] = []
        reason = reason_of(lambda: taken.append(self._time(entry, seconds)))
        self._tidy(reason)
        if reason:
            self.record(entry.key, Skipped(what=entry.key, reason=reason))
        else:
            self.record(entry.key, Measured(sample=sample_of(entry, taken[0])))

    def _tidy(self, reason: str) -> None:
        """Make room; after a failure also see whether anything still works."""
        if reason:
            self.device.check_alive()
        self.device.tidy()

    def _time(self, entry: Entry, seconds: float) -> Times:
        def refused(reason: str) -> None:
            self.record(f"uncaptured {entry.family}", Uncaptured(what=entry.family, reason=reason))

        with self.device.scope():
            operator = build_operator(entry, self.device.torch_device, self.device.l2_bytes)
            return time_operator(operator, self.device, seconds, refused)

    def _check_one(self, entry: Entry) -> None:
        with self.device.scope():
            operator = build_operator(entry, self.device.torch_device, 0.0)
            error = operator.check()
        if not error <= operator.limit:
            raise RuntimeError(f"{WRONG}: error {error:.2g} of the norm, expected at most {operator.limit:.2g}")

    def _run_once(self, entry: Entry) -> None:
        with self.device.scope():
            build_operator(entry, self.device.torch_device, 0.0).run(0)


def sample_of(entry: Entry, times: Times) -> Sample:
    """The sample of an entry."""
    return Sample(
        work=entry.work,
        implementation=entry.implementation,
        purpose=entry.purpose,
        time_s=times.time_s,
        low_s=times.low_s,
        high_s=times.high_s,
        repeats=times.repeats,
        rows_per_group=entry.rows_per_group,
        peer_shares=entry.peer_shares,
        gpu=entry.gpu or 0,
        reference_s=times.reference_s,
        clock_hz=times.clock_hz,
        reference_clock_hz=times.reference_clock_hz,
    )


def reason_of(action: Callable[[], object]) -> str:
    """Why the action failed, in one line; empty where it did not."""
    try:
        action()
    except Exception as problem:  # noqa: BLE001  whatever a kernel refuses: the run goes on without it
        return short_reason(problem)
    return ""


def short_reason(problem: BaseException) -> str:
    """Type and first words of an exception."""
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:REASON_LENGTH]
