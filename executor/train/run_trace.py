"""`trace.json` of a run: one recorded step of all ranks, and beside it the step that the plan predicts.

Made for Perfetto like the simulator's trace (`meshwright simulate --trace`): the same names, threads and units. A
process for each stage has the prediction, one for each rank what was measured.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch.distributed as dist

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.value import Value
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.observe.spans import StepSpans
from meshwright.executor.ranks.place import Place
from meshwright.executor.train.rank_events import RankEvents, stage_sort_index
from meshwright.executor.train.record import TRACE_FILE
from meshwright.planner.serialise import write_whole
from meshwright.planner.trace.step_trace import MAX_OPERATOR_SLICES, step_trace


class RankStart(Value, frozen=True, kw_only=True):
    """When a rank began a step by its host's clock."""

    host: str
    zero_s: float


def starts_s(ranks: Sequence[RankStart]) -> tuple[float, ...]:
    """When each rank began, after the first one of its host: ranks of several hosts begin behind the same barrier.

    >>> a, b, c = (RankStart(host=host, zero_s=zero) for host, zero in (("x", 7.5), ("x", 7.25), ("y", 1.0)))
    >>> starts_s((a, b, c))
    (0.25, 0.0, 0.0)
    """
    first: dict[str, float] = {}
    for one in ranks:
        first[one.host] = min(one.zero_s, first.get(one.host, one.zero_s))
    return tuple(one.zero_s - first[one.host] for one in ranks)


def write_run_trace(
    step: StepSpans, configuration: TrainingConfiguration, place: Place, host: Communicator, folder: Path
) -> None:
    """Write the trace on the first rank. A collective of a group that moves objects; raises `InputError` there."""
    own = RankStart(host=socket.gethostname(), zero_s=step.zero_s)
    ranks: list[RankStart] = [own] * host.size
    if host.size > 1:
        dist.all_gather_object(ranks, own, group=host.group)
    start_s = starts_s(ranks)[place.rank]
    maker = RankEvents(step, place, own.host, start_s, MAX_OPERATOR_SLICES // place.mesh.num_gpus)
    encoded = msgspec.json.encode(list(maker.events()))
    gathered: list[bytes] = [encoded] * host.size
    if host.size > 1:
        dist.gather_object(encoded, gathered if host.rank == 0 else None, group=host.group, group_dst=0)
    if host.rank == 0:
        write_whole(joined_trace(configuration, place, gathered), folder / TRACE_FILE)


def joined_trace(configuration: TrainingConfiguration, place: Place, measured: Sequence[bytes]) -> bytes:
    """The predicted step with the events of all ranks behind its own."""
    trace: dict[str, Any] = msgspec.json.decode(step_trace(configuration))
    for event in trace["traceEvents"]:
        if event["name"] == "process_name":
            event["args"]["name"] += ", predicted"
        if event["name"] == "process_sort_index":
            event["args"]["sort_index"] = stage_sort_index(place, event["pid"] - 1)
    for encoded in measured:
        trace["traceEvents"] += msgspec.json.decode(encoded)
    return msgspec.json.encode(trace)
