from __future__ import annotations

import subprocess

import pytest

from meshwright.executor.measure_hardware import nvidia_smi
from meshwright.executor.measure_hardware.machine import reading_by_uuid
from meshwright.executor.measure_hardware.nvidia_smi import GpuReading


def _answer(monkeypatch: pytest.MonkeyPatch, text: str, status: int = 0) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, status, stdout=text, stderr="")

    monkeypatch.setattr(subprocess, "run", run)


def test_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, "GPU-1a2b, 580.159.04, 1755, 2619, 689.12, 700.00, 61\n")
    (reading,) = nvidia_smi.gpu_readings()
    assert reading.uuid == "GPU-1a2b"
    assert reading.driver == "580.159.04"
    assert (reading.sm_clock_mhz, reading.memory_clock_mhz) == (1755.0, 2619.0)
    assert (reading.power_w, reading.power_limit_w, reading.temperature_celsius) == (689.12, 700.0, 61.0)


def test_figures_that_the_driver_does_not_tell_are_zero() -> None:
    assert nvidia_smi.parse_reading("GPU-1, 1.0, [N/A], [N/A], [N/A], [N/A], 40").power_w == 0.0


def test_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, "GPU-1, 4242, /usr/bin/python3, train, 30210\nGPU-1, [Not Found], x, 3\n")
    (process,) = nvidia_smi.gpu_processes()
    assert (process.uuid, process.pid, process.memory) == ("GPU-1", 4242, "30210 MiB")
    assert "python3" in process.name


def test_reasons_of_low_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, "GPU-1, 0x0000000000000004\nGPU-2, [N/A]\n")
    assert nvidia_smi.throttle_reasons() == {"GPU-1": 4, "GPU-2": 0}


def test_no_driver_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, "", status=9)
    assert nvidia_smi.gpu_readings() == ()
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert nvidia_smi.gpu_processes() == ()


def test_the_figures_are_of_the_very_gpu_or_of_none() -> None:
    """Another GPU's clock and power must not stand for those of the measured one."""
    first = GpuReading(uuid="GPU-a", driver="570", power_w=90.0)
    second = GpuReading(uuid="GPU-b", driver="570", power_w=600.0)
    assert reading_by_uuid("b", (first, second)) == second
    assert reading_by_uuid("", (first,)) == first
    assert reading_by_uuid("", (first, second)) == GpuReading(driver="570")
    assert reading_by_uuid("a", ()) == GpuReading()
