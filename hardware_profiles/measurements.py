"""What was measured on one machine, sample by sample: profiles are built from it, predictions are compared with it.

A sample times a value of `costmodel.program.operators`, the very description that a layer program has of its
operators: "predicted against measured" is `operator_timing(sample.work)` beside `sample.time_s`.
"""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.program.operators import CollectiveWork, Work
from meshwright.costmodel.value import Value

MEASUREMENTS_SCHEMA_VERSION = 1
MEASUREMENTS_FOLDER = Path(__file__).parent / "measurements"
DRAWN_ANEW_FOLDER = MEASUREMENTS_FOLDER / "drawn_anew"
"""Samples that only judge the shipped profiles: taken afterwards, of shapes that nobody had seen."""


class Purpose(StrEnum):
    """FIT: tables are built from it. CHECK: kept apart, tables are judged by it."""

    FIT = "fit"
    CHECK = "check"


class Implementation(StrEnum):
    """What ran. EAGER: plain PyTorch operators; COMPILED: torch.compile; FUSED: one kernel that PyTorch ships.

    CUSTOM: a CUDA kernel of Meshwright's own.
    """

    CUBLAS = "cublas"
    GROUPED_MM = "grouped_mm"
    CUDNN = "cudnn"
    FA2 = "fa2"
    EAGER = "eager"
    COMPILED = "compiled"
    FUSED = "fused"
    CUSTOM = "custom"
    NCCL = "nccl"
    COPY_ENGINE = "copy_engine"


class Machine(Value, frozen=True, kw_only=True):
    """Where, when and how was measured. Clocks, power and temperature are those of the GPU at work, not idle.

    `sm_clock_mhz` is what the driver said in one moment, `mean_clock_hz` the mean SM clock of large products by the
    GPU's own counters. 0: not known.
    """

    gpu: str
    num_gpus: int
    num_sms: int
    total_memory_bytes: int
    usable_memory_bytes: int
    driver: str
    cuda: str
    cudnn: str
    nccl: str
    torch: str
    python: str
    host_cpu: str
    sm_clock_mhz: float
    memory_clock_mhz: float
    power_w: float
    power_limit_w: float
    temperature_celsius: float
    date: str
    command: str
    mean_clock_hz: float = 0.0


class Sample(Value, frozen=True, kw_only=True):
    """Median time of `repeats` runs, and the 10th and 90th percentile.

    `rows_per_group`: rows of each group of a skewed grouped product. `peer_shares`: share of its rows that each rank of
    a skewed all-to-all receives, the same from every sender. Empty: even. `gpu`: which GPU, 0 where all take part.
    `reference_s`: time of the reference product (BF16, 8192^3) between whose runs this one's lay: it tells the clocks,
    which move by a fifth under the power limit. None where none ran. `clock_hz`: mean SM clock during this sample's
    runs, `reference_clock_hz`: during the reference products between them; None where clocks were not read.
    """

    work: Work
    implementation: Implementation
    purpose: Purpose
    time_s: float
    low_s: float
    high_s: float
    repeats: int
    rows_per_group: tuple[int, ...] = ()
    peer_shares: tuple[float, ...] = ()
    gpu: int = 0
    reference_s: float | None = None
    clock_hz: float | None = None
    reference_clock_hz: float | None = None

    def __post_init__(self) -> None:
        for field in ("time_s", "low_s", "high_s"):
            _check_positive("samples", field, getattr(self, field))
        for field in ("reference_s", "clock_hz", "reference_clock_hz"):
            _check_optional("samples", field, getattr(self, field))
        if not self.low_s <= self.time_s <= self.high_s:
            raise ProfileError("measurements", "samples", f"median {self.time_s} s is not between low and high")


class InterferenceSample(Value, frozen=True, kw_only=True):
    """Computation and communication alone and beside each other; each runs long enough to cover the other.

    `num_ctas`: thread blocks (hence SMs) that the collective may take; 0 where its library chose or copy engines ran.
    """

    compute: Work
    communication: CollectiveWork
    implementation: Implementation
    num_ctas: int
    compute_alone_s: float
    compute_beside_s: float
    communication_alone_s: float
    communication_beside_s: float

    def __post_init__(self) -> None:
        for field in self.__struct_fields__[4:]:
            _check_positive("interference", field, getattr(self, field))


class LaunchSample(Value, frozen=True, kw_only=True):
    """Host time for one small kernel and for one small collective in eager code, and what the GPU itself needs.

    `cuda_graph_s`: from one to the next of dependent kernels in a CUDA graph, whose replay the host starts once.
    `kernel_floor_s`: the shortest time that a kernel occupies the GPU.
    """

    eager_s: float
    collective_eager_s: float | None
    cuda_graph_s: float
    kernel_floor_s: float

    def __post_init__(self) -> None:
        for field in ("eager_s", "cuda_graph_s", "kernel_floor_s"):
            _check_positive("launch", field, getattr(self, field))


class SustainedSample(Value, frozen=True, kw_only=True):
    """Operators of a layer, each alone beside the reference product, and all in turn for seconds: a step's clocks.

    `alone_s`, `references_s` and `clocks_hz` (see `Sample`) are in the order of `works`; `together_s` is the time of
    one round, `together_clock_hz` the mean SM clock meanwhile. Without clocks where they were not read.
    """

    works: tuple[Work, ...]
    alone_s: tuple[float, ...]
    references_s: tuple[float, ...]
    together_s: float
    clocks_hz: tuple[float, ...] = ()
    together_clock_hz: float | None = None

    def __post_init__(self) -> None:
        for field in ("alone_s", "references_s", "clocks_hz"):
            figures = getattr(self, field)
            if field == "clocks_hz" and not figures:
                continue
            if not self.works or len(figures) != len(self.works):
                raise ProfileError("measurements", f"sustained.{field}", "is not one figure for each of `works`")
            for figure in figures:
                _check_positive("sustained", field, figure)
        _check_positive("sustained", "together_s", self.together_s)
        _check_optional("sustained", "together_clock_hz", self.together_clock_hz)


class Measurements(Value, frozen=True, kw_only=True):
    """One run of the profiler. `launch` and `sustained` are None where it has not come to them.

    `complete` False: the run was interrupted and never went on.
    """

    schema_version: int
    machine: Machine
    samples: tuple[Sample, ...]
    interference: tuple[InterferenceSample, ...] = ()
    launch: LaunchSample | None = None
    sustained: SustainedSample | None = None
    complete: bool = True


def _check_positive(where: str, field: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ProfileError("measurements", f"{where}.{field}", f"{value} is not a positive finite number")


def _check_optional(where: str, field: str, value: float | None) -> None:
    if value is not None:
        _check_positive(where, field, value)


def load_measurements(path: Path) -> Measurements:
    """Measurements from a JSON file; a `ProfileError` names file and field."""
    try:
        data = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as problem:
        raise ProfileError(str(path), "", f"cannot be read: {problem}") from problem
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != MEASUREMENTS_SCHEMA_VERSION:
        raise ProfileError(str(path), "schema_version", f"{version}; expected {MEASUREMENTS_SCHEMA_VERSION}")
    try:
        return msgspec.convert(data, Measurements)
    except msgspec.ValidationError as problem:
        raise ProfileError(str(path), "", str(problem)) from problem
    except ProfileError as problem:
        raise ProfileError(str(path), problem.field, problem.problem) from problem
