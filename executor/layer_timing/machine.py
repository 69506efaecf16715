"""On what was measured."""

from __future__ import annotations

import platform
import subprocess

import torch


def describe_machine(device: torch.device, num_gpus: int) -> dict[str, str]:
    """Device, driver and versions, as text."""
    found = {"torch": str(torch.__version__), "python": platform.python_version(), "num_gpus": str(num_gpus)}
    if device.type != "cuda":
        return found | {"device": platform.processor() or platform.machine()}
    properties = torch.cuda.get_device_properties(device)
    found |= {
        "device": properties.name,
        "memory_bytes": str(properties.total_memory),
        "num_sms": str(properties.multi_processor_count),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "nccl": ".".join(str(part) for part in torch.cuda.nccl.version()),
    }
    return found | _from_driver()


def _from_driver() -> dict[str, str]:
    """Driver and clocks of the first GPU from nvidia-smi, where there is one."""
    fields = ("driver_version", "clocks.max.sm", "clocks.mem", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, (part.strip() for part in done.stdout.split(",")), strict=False))
