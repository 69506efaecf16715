"""The trace of a step: the events of all stages, and how many micro-batches show their operators."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import msgspec

from meshwright import __version__
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.serialise import write_whole
from meshwright.planner.simulated_step import SimulatedStep, simulated_step
from meshwright.planner.trace.pieces import Piece, stage_pieces
from meshwright.planner.trace.stage_events import StageEvents

MAX_OPERATOR_SLICES = 100_000
"""What keeps a file at some 20 MB, which viewers open at once."""


def write_trace(plan: Plan | TrainingConfiguration, path: Path, max_operator_slices: int = MAX_OPERATOR_SLICES) -> None:
    """Write the trace of a step of a plan (or of a configuration). Raises `InputError` where it cannot be written."""
    configuration = configuration_of(plan) if isinstance(plan, Plan) else plan
    write_whole(step_trace(configuration, max_operator_slices), path)


def step_trace(configuration: TrainingConfiguration, max_operator_slices: int = MAX_OPERATOR_SLICES) -> bytes:
    """The trace as JSON: all actions, and the operators of as many micro-batches as the number of slices allows.

    Operators are shown for at least one micro-batch, and for the middle ones first.
    """
    step = simulated_step(configuration)
    pieces = stage_pieces(configuration)
    detailed = _detailed(step, pieces, max_operator_slices)
    stages = (StageEvents(step, device, pieces, detailed) for device in range(step.schedule.num_stages))
    trace = {
        "displayTimeUnit": "ms",
        "otherData": _about(step, detailed),
        "traceEvents": list(chain.from_iterable(stage.events() for stage in stages)),
    }
    return msgspec.json.encode(trace)


def _detailed(step: SimulatedStep, pieces: tuple[tuple[Piece, ...], ...], max_slices: int) -> frozenset[int]:
    each = sum(_num_operators(piece) for piece in chain.from_iterable(pieces))
    total = step.schedule.num_micro_batches
    number = min(total, max(1, max_slices // max(1, each)))
    first = (total - number) // 2
    return frozenset(range(first, first + number))


def _num_operators(piece: Piece) -> int:
    """Operators of a micro-batch's forward and backward."""
    timelines = piece.timelines
    passes = (timelines.forward, timelines.backward, timelines.dgrad, timelines.wgrad)
    return sum(len(timeline.spans) for timeline in passes if timeline is not None)


def _about(step: SimulatedStep, detailed: frozenset[int]) -> dict[str, str | int | float]:
    configuration = step.configuration
    return {
        "model": configuration.model.name,
        "GPUs": configuration.cluster.num_gpus,
        "step_time_s": step.timeline.step_time_s,
        "schedule": configuration.pipeline.schedule.value,
        "micro-batches": step.schedule.num_micro_batches,
        "micro-batches with operators": f"{min(detailed)} to {max(detailed)}",
        "made by": f"meshwright {__version__}",
    }
