from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshwright.costmodel.program.operators import (
    Collective,
    CollectiveWork,
    CopyWork,
    GemmWork,
    Group,
    MemoryKernel,
    MemoryWork,
    Precision,
    Work,
)
from meshwright.executor.measure_hardware.comparison import HOST_COPY, Comparison, comparisons
from meshwright.executor.measure_hardware.journal import Journal
from meshwright.executor.measure_hardware.outcome import ProfileOutcome
from meshwright.executor.measure_hardware.warnings import warnings_of
from meshwright.hardware_profiles import load_profile
from meshwright.hardware_profiles.measurements import (
    Implementation,
    Machine,
    Measurements,
    Purpose,
    Sample,
)

GPU = load_profile("h100").gpu
PRODUCT = GemmWork(m=8192, n=8192, k=8192)
COPY = MemoryWork(kernel=MemoryKernel.COPY, read_bytes=1e9, write_bytes=1e9)


def _sample(work: Work, time_s: float, *, gpu: int = 0, spread: float = 0.0) -> Sample:
    return Sample(
        work=work,
        implementation=Implementation.NCCL if isinstance(work, CollectiveWork) else Implementation.CUBLAS,
        purpose=Purpose.FIT,
        time_s=time_s,
        low_s=time_s,
        high_s=time_s * (1.0 + spread),
        repeats=5,
        gpu=gpu,
    )


def _machine() -> Machine:
    return Machine(
        gpu="NVIDIA H100 80GB HBM3",
        num_gpus=2,
        num_sms=132,
        total_memory_bytes=80 * 2**30,
        usable_memory_bytes=78 * 2**30,
        driver="580",
        cuda="13.0",
        cudnn="91900",
        nccl="2.28.9",
        torch="2.11.0",
        python="3.12",
        host_cpu="made up",
        sm_clock_mhz=1755.0,
        memory_clock_mhz=2619.0,
        power_w=690.0,
        power_limit_w=700.0,
        temperature_celsius=60.0,
        date="2026-01-01",
        command="meshwright profile",
    )


def _measured(*samples: Sample) -> Measurements:
    return Measurements(schema_version=1, machine=_machine(), samples=samples)


def _warnings(
    folder: Path,
    *samples: Sample,
    rows: tuple[Comparison, ...] = (),
    throttle: int = 0,
) -> tuple[str, ...]:
    outcome = ProfileOutcome(
        measurements=_measured(*samples),
        skipped=(),
        uncaptured=(),
        throttle=throttle,
        journal=Journal(folder / "journal", "machine", restart=True),
    )
    return warnings_of(outcome, rows)


def _figures(*samples: Sample) -> dict[str, Comparison]:
    return {row.figure: row for row in comparisons(_measured(*samples), GPU)}


def test_a_healthy_machine(tmp_path: Path) -> None:
    samples = (_sample(PRODUCT, 1.4e-3), _sample(PRODUCT, 1.45e-3, gpu=1), _sample(COPY, 0.7e-3))
    rows = comparisons(_measured(*samples), GPU)
    assert _warnings(tmp_path, *samples, rows=rows, throttle=0x04) == ()


def test_a_gpu_slower_than_its_neighbour(tmp_path: Path) -> None:
    found = _warnings(tmp_path, _sample(PRODUCT, 1.4e-3), _sample(PRODUCT, 1.6e-3, gpu=1))
    assert found == ("GPU 1 is 14% slower at products than the fastest GPU beside it",)


def test_a_link_at_half_speed(tmp_path: Path) -> None:
    work = CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=2.0**30, group=Group(size=2, ranks_per_node=2))
    sample = _sample(work, 2.0**29 / 160e9)
    (found,) = _warnings(tmp_path, sample, rows=comparisons(_measured(sample), GPU))
    assert "all-gather, 2 GPUs, NCCL reaches 36% of what is expected (160 of 450 GB/s)" in found


def test_low_clocks(tmp_path: Path) -> None:
    assert _warnings(tmp_path, throttle=0x40 | 0x04) == ("clocks were held down by hardware thermal limit",)


def test_times_that_scatter(tmp_path: Path) -> None:
    (found,) = _warnings(tmp_path, _sample(PRODUCT, 1.4e-3, spread=0.5))
    assert "1 of 1 samples scatter" in found


def test_clocks_that_nobody_read(tmp_path: Path) -> None:
    beside = msgspec.structs.replace(_sample(PRODUCT, 1e-3), reference_s=1.5e-3)
    assert "triton" in "".join(_warnings(tmp_path, beside))
    assert _warnings(tmp_path, beside, msgspec.structs.replace(beside, clock_hz=1.5e9)) == ()


def test_figures_beside_the_data_sheet() -> None:
    fp8 = GemmWork(m=8192, n=8192, k=8192, precision=Precision.FP8)
    host_copy = _sample(CopyWork(num_bytes=1e9), 0.02)
    rows = _figures(_sample(PRODUCT, 1.4e-3), _sample(fp8, 0.75e-3), _sample(COPY, 0.7e-3), host_copy)
    assert rows["dense product, BF16"].measured == pytest.approx(2 * 8192**3 / 1.4e-3 / 1e12)
    assert rows["dense product, BF16"].share == pytest.approx(0.794, abs=1e-3)
    assert rows["dense product, FP8"].data_sheet == pytest.approx(GPU.fp8_flops_per_s / 1e12)
    assert rows["device copy"].measured == pytest.approx(2857.1, abs=0.1)
    assert rows[HOST_COPY].measured == pytest.approx(50.0)
    assert rows["usable memory"].share == pytest.approx(78 / 80)
    assert "attention forward" not in rows
