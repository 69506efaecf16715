"""One run of `meshwright profile`, from the checks to the files: what is measured when, and what is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from meshwright.costmodel.errors import MeshwrightError
from meshwright.executor.measure_hardware.cuda_device import CudaDevice
from meshwright.executor.measure_hardware.device import Device
from meshwright.executor.measure_hardware.devices import open_device
from meshwright.executor.measure_hardware.entry import Entry, Extent, InterferenceEntry, Survey
from meshwright.executor.measure_hardware.fingerprint import fingerprint
from meshwright.executor.measure_hardware.journal import (
    PARTIAL_SUFFIX,
    CollectiveLaunched,
    Described,
    Journal,
    Launched,
    Outcome,
    Skipped,
    Sustained,
    Uncaptured,
)
from meshwright.executor.measure_hardware.launch import launch_costs
from meshwright.executor.measure_hardware.links.peer_copies import measure_copy_interference, measure_peer_copies
from meshwright.executor.measure_hardware.links.ranks import Ranks, place_from_environment
from meshwright.executor.measure_hardware.links.worker import LinkTask
from meshwright.executor.measure_hardware.local_run import LocalRun, Record, reason_of
from meshwright.executor.measure_hardware.machine import describe_machine, gpu_uuid, reading_of
from meshwright.executor.measure_hardware.nvidia_smi import throttle_reasons
from meshwright.executor.measure_hardware.outcome import ProfileOutcome, collect, machine_of
from meshwright.executor.measure_hardware.pace import Pace
from meshwright.executor.measure_hardware.preflight import check_request
from meshwright.executor.measure_hardware.progress import Advance, progress_bar
from meshwright.executor.measure_hardware.request import ProfileRequest
from meshwright.executor.measure_hardware.stop import ends_as_interrupted
from meshwright.executor.measure_hardware.survey import build_survey
from meshwright.executor.measure_hardware.sustained import measure_sustained
from meshwright.executor.measure_hardware.team import JoinedTeam, LocalTeam, Team, follow
from meshwright.executor.measure_hardware.timer import median_clock_hz
from meshwright.executor.measure_hardware.usable_memory import usable_memory_bytes
from meshwright.kernels.build import sources_digest
from meshwright.kernels.dispatch import dispatcher

if TYPE_CHECKING:
    from rich.console import Console

    from meshwright.hardware_profiles.measurements import Machine, SustainedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Seconds: of one GPU's samples with all preparation, of those between GPUs, and of heating before either."""

    local_s: float
    links_s: float
    heat_s: float
    link_heat_s: float


BUDGETS = {
    Extent.TINY: Budget(local_s=2.0, links_s=1.0, heat_s=0.0, link_heat_s=0.0),
    Extent.QUICK: Budget(local_s=24.0, links_s=4.0, heat_s=3.0, link_heat_s=1.0),
    Extent.FULL: Budget(local_s=300.0, links_s=75.0, heat_s=20.0, link_heat_s=5.0),
}
INTERFERENCE_S = 0.5
LEAST_LINK_S, MOST_LINK_S = 0.02, 0.1
LAUNCH_KEY_LOCAL = "launch"
SUSTAINED_KEY = "sustained"
MACHINE_KEY = "machine"
LOCAL_KEYS = (LAUNCH_KEY_LOCAL, SUSTAINED_KEY)
PEER_S = 0.1
READING_WORK = 20


def run_profile(request: ProfileRequest, console: Console) -> ProfileOutcome | None:
    """Measure everything that is asked for; None on the ranks of torchrun that only take part."""
    started_s = time.monotonic()
    place = place_from_environment()
    if place is None:
        check_request(request)
        return _led(request, console, _local_team(request), open_device(0, on_gpus=request.on_gpus), started_s)
    if place.is_first:
        check_request(request)
    ranks = Ranks(place, on_gpus=request.on_gpus)
    try:
        device = open_device(place.local_rank, on_gpus=request.on_gpus)
        if not place.is_first:
            follow(ranks, device)
            return None
        return _led(request, console, JoinedTeam(ranks), device, started_s)
    finally:
        ranks.close()


def _led(request: ProfileRequest, console: Console, team: Team, device: Device, started_s: float) -> ProfileOutcome:
    try:
        return _lead(request, console, team, device, started_s)
    finally:
        team.dismiss()


def _local_team(request: ProfileRequest) -> Team:
    if not request.on_gpus:
        return LocalTeam(request.num_ranks, on_gpus=False)
    import torch

    return LocalTeam(torch.cuda.device_count(), on_gpus=True)


def _lead(request: ProfileRequest, console: Console, team: Team, device: Device, started_s: float) -> ProfileOutcome:
    why_not = dispatcher().why_not_on(device.torch_device)
    if why_not and request.on_gpus:
        console.print(f"custom kernels are not measured: {why_not}", highlight=False)
    survey = build_survey(
        request.extent,
        num_gpus=team.size,
        gpus_per_node=team.per_node,
        seed=request.seed,
        custom_kernels=why_not is None,
    )
    usable = usable_memory_bytes(device.torch_device) if request.on_gpus else 2**30
    idle = describe_machine(
        device=device.torch_device, num_gpus=team.size, usable_bytes=usable, reading=reading_of(device.torch_device)
    )
    total = survey.num_samples + len(LOCAL_KEYS)
    kernels = sources_digest() if why_not is None else ""
    journal = _open_journal(request, console, fingerprint(idle, _gpus_here(request), survey, kernels), total)
    run = _Run(request=request, device=device, team=team, journal=journal, started_s=started_s, idle=idle)
    done = total - run.num_left(survey)
    try:
        with ends_as_interrupted(), progress_bar(console, total, done) as advance:
            run.measure(survey, advance)
    except (KeyboardInterrupt, MeshwrightError):
        console.print(
            f"interrupted: {len(journal.outcomes)} results are kept in {journal.path}; "
            "the same command goes on from there",
            highlight=False,
        )
        raise
    return collect(machine_of(journal.outcomes) or idle, journal, throttle=run.throttle)


def _gpus_here(request: ProfileRequest) -> list[str]:
    """The numbers that this host's GPUs have for good."""
    if not request.on_gpus:
        return []
    import torch

    return [gpu_uuid(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]


def _open_journal(request: ProfileRequest, console: Console, wanted: str, num_samples: int) -> Journal:
    path = request.output.with_name(request.output.name + PARTIAL_SUFFIX)
    journal = Journal(path, wanted, restart=request.restart, num_samples=num_samples)
    if journal.stranger:
        console.print(f"{path} is of another machine or survey: starting from the beginning", highlight=False)
    elif journal.found:
        console.print(
            f"going on after {journal.found} results in {path} (--restart measures all again)", highlight=False
        )
    return journal


class _Run:
    """The order of things: prepare, check, heat, one GPU's samples, launches, copies, then everything between GPUs."""

    def __init__(
        self,
        *,
        request: ProfileRequest,
        device: Device,
        team: Team,
        journal: Journal,
        started_s: float,
        idle: Machine,
    ) -> None:
        self.request = request
        self.device = device
        self.team = team
        self.journal = journal
        self.started_s = started_s
        self.budget = BUDGETS[request.extent]
        self.idle = idle
        self.throttle = 0

    def num_left(self, survey: Survey) -> int:
        """Samples that no earlier run has taken, launches included."""
        kinds = (survey.local, survey.health, survey.links, survey.peer_copies)
        pairs = (*survey.link_interference, *survey.copy_interference)
        left = sum(len(self._left(kind)) for kind in kinds) + len(self._left_pairs(pairs))
        return left + sum(key not in self.journal for key in LOCAL_KEYS)

    def measure(self, survey: Survey, advance: Advance) -> None:
        """Everything that is left."""

        def record(key: str, outcome: Outcome) -> None:
            self.journal.add(key, outcome)
            if not isinstance(outcome, CollectiveLaunched | Uncaptured):
                advance(_words(key))

        self._measure_local(survey, record)
        if LAUNCH_KEY_LOCAL not in self.journal:
            record(LAUNCH_KEY_LOCAL, Launched(sample=launch_costs(self.device)))
        if SUSTAINED_KEY not in self.journal:
            if self._link_task(survey):
                self.team.prepare()  # while the GPU is busy for seconds and the host is not
            self._measure_sustained(record)
        if isinstance(self.device, CudaDevice):
            measure_peer_copies(self._left(survey.peer_copies), record, PEER_S)
            measure_copy_interference(self.device, self._left_pairs(survey.copy_interference), record)
        self._measure_links(survey, record)

    def _measure_local(self, survey: Survey, record: Record) -> None:
        entries = self._left(survey.local)
        if not entries:
            return
        local = LocalRun(self.device, record)
        local.prepare(entries)
        local.check(entries)
        self.device.heat(self.budget.heat_s)
        self._read_at_work()
        spent_s = time.monotonic() - self.started_s
        local.measure(entries, Pace(self.budget.local_s - spent_s, len(entries), time.monotonic))

    def _measure_sustained(self, record: Record) -> None:
        taken: list[SustainedSample] = []
        reason = reason_of(lambda: taken.append(measure_sustained(self.device, self.request.extent)))
        self.device.tidy()
        record(SUSTAINED_KEY, Skipped(what=SUSTAINED_KEY, reason=reason) if reason else Sustained(sample=taken[0]))

    def _read_at_work(self) -> None:
        """Clocks, power and temperature while products are running."""
        if not self.request.on_gpus:
            self.journal.add(MACHINE_KEY, Described(machine=self.idle))
            return
        at_work = self.device.clocked_intervals([self.device.keep_busy] * READING_WORK)
        for _ in range(READING_WORK):
            self.device.keep_busy()
        hot = describe_machine(
            device=self.device.torch_device,
            num_gpus=self.team.size,
            usable_bytes=self.idle.usable_memory_bytes,
            reading=reading_of(self.device.torch_device),
        )
        machine = msgspec.structs.replace(hot, mean_clock_hz=median_clock_hz(at_work.clocks_hz) or 0.0)
        self.journal.add(MACHINE_KEY, Described(machine=machine))
        self.throttle = _reasons_of(gpu_uuid(self.device.torch_device))

    def _link_task(self, survey: Survey) -> LinkTask | None:
        """What is left between GPUs; None: nothing."""
        links, pairs = self._left(survey.links), self._left_pairs(survey.link_interference)
        health = self._left(survey.health)
        if self.team.size == 1 or not (links or pairs or health):
            return None
        left_s = self.budget.links_s - INTERFERENCE_S * len(pairs)
        return LinkTask(
            health=health,
            links=links,
            interference=pairs,
            heat_s=self.budget.link_heat_s,
            sample_s=max(LEAST_LINK_S, min(MOST_LINK_S, left_s / max(1, len(links)))),
        )

    def _measure_links(self, survey: Survey, record: Record) -> None:
        task = self._link_task(survey)
        if task is None:
            return
        problem = self.team.run(task, self.device, record)
        if problem:
            keys = [*(entry.key for entry in (*task.health, *task.links)), *(pair.key for pair in task.interference)]
            for key in keys:
                if key not in self.journal:
                    record(key, Skipped(what=key, reason=problem))

    def _left(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(entry for entry in entries if entry.key not in self.journal)

    def _left_pairs(self, pairs: tuple[InterferenceEntry, ...]) -> tuple[InterferenceEntry, ...]:
        return tuple(pair for pair in pairs if pair.key not in self.journal)


def _reasons_of(uuid: str) -> int:
    reasons = {key.removeprefix("GPU-"): bits for key, bits in throttle_reasons().items()}
    return reasons.get(uuid, 0)


def _words(key: str) -> str:
    """What a key is about, for the progress bar."""
    for tag, words in WORDS.items():
        if f'"type":"{tag}"' in key:
            return words
    return "launches"


WORDS = {
    "collective": "collectives",
    "grouped_gemm": "grouped products",
    "gemm": "products",
    "attention": "attention",
    "memory": "memory-bound operators",
    "copy": "host copies",
}
