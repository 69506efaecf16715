"""What the driver says of the GPUs, by queries of nvidia-smi. Nothing here changes a setting."""

from __future__ import annotations

import subprocess

from meshwright.costmodel.value import Value

TIMEOUT_S = 20.0
READING_FIELDS = ("uuid", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
THROTTLE_REASONS = {
    0x04: "the power limit (as sustained products at full load do)",
    0x08: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "power brake",
}
SICK_REASONS = 0x08 | 0x20 | 0x40 | 0x80


class GpuReading(Value, frozen=True, kw_only=True):
    """One GPU right now; 0 or "" where the driver does not tell."""

    uuid: str = ""
    driver: str = ""
    sm_clock_mhz: float = 0.0
    memory_clock_mhz: float = 0.0
    power_w: float = 0.0
    power_limit_w: float = 0.0
    temperature_celsius: float = 0.0
    throttle_reasons: int = 0


class GpuProcess(Value, frozen=True, kw_only=True):
    """A process that holds memory of a GPU."""

    uuid: str
    pid: int
    name: str
    memory: str


def gpu_readings() -> tuple[GpuReading, ...]:
    """Every GPU of the machine."""
    return tuple(parse_reading(line) for line in _query("--query-gpu=" + ",".join(READING_FIELDS)))


def throttle_reasons() -> dict[str, int]:
    """The bits that say why clocks are lower than they could be, by the GPU's uuid."""
    for field in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
        lines = _query(f"--query-gpu=uuid,{field}")
        if lines:
            return dict(parse_reasons(line) for line in lines)
    return {}


def gpu_processes() -> tuple[GpuProcess, ...]:
    """Every process that computes on some GPU."""
    lines = _query("--query-compute-apps=gpu_uuid,pid,process_name,used_memory")
    return tuple(process for process in (parse_process(line) for line in lines) if process)


def parse_reading(line: str) -> GpuReading:
    """One line of comma-separated values without units."""
    words = [word.strip() for word in line.split(",")]
    numbers = [_number(word) for word in words[2:]]
    return GpuReading(
        uuid=words[0],
        driver=words[1],
        sm_clock_mhz=numbers[0],
        memory_clock_mhz=numbers[1],
        power_w=numbers[2],
        power_limit_w=numbers[3],
        temperature_celsius=numbers[4],
    )


def parse_reasons(line: str) -> tuple[str, int]:
    """The uuid and the bits, which are printed in hexadecimal."""
    uuid, _, bits = (word.strip() for word in line.partition(","))
    try:
        return uuid, int(bits, 16)
    except ValueError:
        return uuid, 0


def parse_process(line: str) -> GpuProcess | None:
    """The process, or None where the line tells of none."""
    words = [word.strip() for word in line.split(",")]
    if len(words) < 4 or not words[1].isdigit():
        return None
    return GpuProcess(uuid=words[0], pid=int(words[1]), name=",".join(words[2:-1]), memory=f"{words[-1]} MiB")


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:  # "[N/A]"
        return 0.0


def _query(question: str) -> list[str]:
    """The lines of the answer; none where nvidia-smi is missing or does not know."""
    command = ["nvidia-smi", question, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
