"""What was measured on: the GPU at work, and the versions of everything between it and the program."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from meshwright.executor.measure_hardware.nvidia_smi import GpuReading, gpu_readings
from meshwright.hardware_profiles.measurements import Machine

CPU_FACTS = Path("/proc/cpuinfo")


def describe_machine(*, device: torch.device, num_gpus: int, usable_bytes: int, reading: GpuReading) -> Machine:
    """The facts; `reading` was taken while the GPU worked."""
    is_cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if is_cuda else None
    return Machine(
        gpu=properties.name if properties else "none",
        num_gpus=num_gpus,
        num_sms=properties.multi_processor_count if properties else 1,
        total_memory_bytes=properties.total_memory if properties else usable_bytes,
        usable_memory_bytes=usable_bytes,
        driver=reading.driver or "unknown",
        cuda=torch.version.cuda or "none",
        cudnn=_cudnn_version(is_cuda),
        nccl=_nccl_version(is_cuda),
        torch=str(torch.__version__),
        python=platform.python_version(),
        host_cpu=host_cpu(),
        sm_clock_mhz=reading.sm_clock_mhz,
        memory_clock_mhz=reading.memory_clock_mhz,
        power_w=reading.power_w,
        power_limit_w=reading.power_limit_w,
        temperature_celsius=reading.temperature_celsius,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" ".join(["meshwright", *sys.argv[1:]]),
    )


def reading_of(device: torch.device) -> GpuReading:
    """The driver's figures of this very GPU, whatever number the process gives it."""
    return reading_by_uuid(gpu_uuid(device), gpu_readings()) if device.type == "cuda" else GpuReading()


def reading_by_uuid(uuid: str, readings: tuple[GpuReading, ...]) -> GpuReading:
    """The reading of that GPU, or of the only one; where neither is known, of the figures only the driver's version."""
    same = [reading for reading in readings if reading.uuid.removeprefix("GPU-") == uuid]
    if same or len(readings) == 1:
        return (*same, *readings)[0]
    return GpuReading(driver=readings[0].driver if readings else "")


def gpu_uuid(device: torch.device) -> str:
    """The GPU's own number, without prefix; empty where PyTorch does not tell."""
    return str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))


def host_cpu() -> str:
    """The processor's name and how many this process sees."""
    names = [line for line in _lines(CPU_FACTS) if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor() or "unknown"
    return f"{name}, {len(names) or 1} logical"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _cudnn_version(is_cuda: bool) -> str:
    version = torch.backends.cudnn.version() if is_cuda else None
    return str(version) if version else "none"


def _nccl_version(is_cuda: bool) -> str:
    if not is_cuda:
        return "none"
    try:
        return ".".join(str(part) for part in torch.cuda.nccl.version())
    except (AttributeError, RuntimeError):
        return "none"
