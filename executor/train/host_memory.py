"""Whether a host's memory holds what the ranks of a CPU run keep from step to step.

A run is refused only where not even that fits: activations, buffers of messages and the interpreters come on top.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.data_parallel import StateCost
from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.formulas.memory import ADAM_STATE_BYTES, BF16_BYTES, FP32_BYTES
from meshwright.costmodel.simulate.schedules import placement
from meshwright.costmodel.stage_cost import cost_context, ends_of
from meshwright.costmodel.strategy import ZeroStage
from meshwright.costmodel.units import format_bytes
from meshwright.executor.train.request import Format, RunRequest

FORMAT_BYTES = {Format.AUTO: 4, Format.BFLOAT16: 2, Format.FLOAT32: 4, Format.FLOAT64: 8}
"""Of a weight on the CPU."""

MASTERS_AND_MOMENTS = 3


def check_host_memory(
    configuration: TrainingConfiguration, request: RunRequest, where: str, num_ranks: int, available_bytes: float
) -> None:
    """Refuse ranks on the CPU of one host, `num_ranks` of the plan's, whose weights and state do not fit there."""
    each = sorted(least_bytes(configuration, request))
    copies = configuration.mesh.stage_gpus
    needed_bytes = sum(num_bytes for stage_bytes in each for num_bytes in [stage_bytes] * copies)
    if num_ranks < configuration.mesh.num_gpus:  # which ones is the launcher's choice
        needed_bytes = num_ranks * each[0]
    if needed_bytes <= available_bytes:
        return
    ranks = "1 rank keeps" if num_ranks == 1 else f"{num_ranks} ranks keep"
    raise PlanError(
        where,
        "mesh",
        f"on this host's CPU {ranks} at least {format_bytes(needed_bytes)} of weights, gradients and optimizer state,"
        f" of its memory {format_bytes(available_bytes)} are available; {_instead(configuration, request)}",
    )


def _instead(configuration: TrainingConfiguration, request: RunRequest) -> str:
    ways = ["plan a smaller model"]
    if configuration.sharding.zero is not ZeroStage.PARAMETERS and configuration.mesh.stage_gpus > 1:
        ways.append("plan again with --fix zero=3")
    ways.append("start the ranks on several hosts by torchrun")
    if not request.emulate:
        ways.append("time a part with --emulate layers")
    return f"{', '.join(ways[:-1])} or {ways[-1]}"


def least_bytes(configuration: TrainingConfiguration, request: RunRequest) -> tuple[float, ...]:
    """What a rank of each pipeline stage keeps at least: weights, masters, moments and, once it trains, gradients.

    Memory that is never written is never taken: without a step that is gradients and moments.
    """
    stages = [_stage_bytes(configuration, stage, request) for stage in range(len(configuration.stages))]
    pipeline = configuration.pipeline
    placed = placement(pipeline.schedule, configuration.mesh.pp, pipeline.virtual_stages)
    return tuple(sum(stages[stage] for stage in held) for held in placed)


def _stage_bytes(configuration: TrainingConfiguration, stage: int, request: RunRequest) -> float:
    weight, wide = FORMAT_BYTES[request.format], max(FP32_BYTES, FORMAT_BYTES[request.format])
    runtime = configuration.runtime
    summed, planned = (wide, FP32_BYTES) if runtime.fp32_gradients else (weight, BF16_BYTES)
    trains = request.num_steps > 0 and not request.resume
    total = 0.0
    for state, count in _states(configuration, stage):
        shard = state.optimizer_bytes / ADAM_STATE_BYTES
        held = state.parameter_bytes / BF16_BYTES * weight + shard * wide
        if trains:
            held += shard * wide * (MASTERS_AND_MOMENTS - 1) + state.gradient_bytes / planned * summed
        total += count * held
    return total


def _states(configuration: TrainingConfiguration, stage: int) -> Iterator[tuple[StateCost, int]]:
    """The state of a virtual stage's parts, wherever it is planned to be, and how many there are of each.

    A tied head is left out: a rank may have its table already.
    """
    sharding = msgspec.structs.replace(configuration.sharding, offload_optimizer=False)
    runtime = msgspec.structs.replace(configuration.runtime, optimizer_state_bytes=ADAM_STATE_BYTES)
    context = cost_context(msgspec.structs.replace(configuration, sharding=sharding, runtime=runtime))
    for (layer, strategy), count in configuration.layers_of(stage).items():
        yield context.layer(layer, strategy).state, count
    ends = ends_of(configuration)
    if stage == 0:
        yield context.embedding(ends).state, 1
    if stage == len(configuration.stages) - 1 and not configuration.model.tied_embeddings:
        yield context.head(ends).state, 1


def available_host_bytes(root: Path = Path("/")) -> float:
    """Memory that this process and its children may still take: of the host, swap included, and of its groups.

    Infinite where nothing says. `root` is that of the file system.
    """
    host = _values(root / "proc/meminfo")
    if "MemAvailable" not in host:
        return math.inf
    swap_bytes = 1024.0 * host.get("SwapFree", 0)
    in_groups = (left for folder in _groups(root) for left in _left_in(folder))
    return min(1024.0 * host["MemAvailable"], *in_groups, math.inf) + swap_bytes


def _groups(root: Path) -> Iterator[Path]:
    """The control groups of this process that may bound memory, of version 2 or 1, and all above them."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "memory"):
            top = root / "sys/fs/cgroup" / controllers
            own = top / path.strip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _left_in(folder: Path) -> Iterator[float]:
    """What a group leaves beside the memory in it that cannot be dropped."""
    for limit, kept in (("memory.max", "anon"), ("memory.limit_in_bytes", "total_rss")):
        text = _text(folder / limit).strip()
        if text.isdecimal():
            yield float(text) - _values(folder / "memory.stat").get(kept, 0)


def _values(path: Path) -> dict[str, int]:
    """Names and whole numbers of a file with one of each a line."""
    words = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {name: int(value) for name, value, *_ in (line for line in words if len(line) > 1) if value.isdecimal()}


def _text(path: Path) -> str:
    """What is in a file; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
