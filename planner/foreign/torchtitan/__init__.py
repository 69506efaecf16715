"""torchtitan configurations."""

from __future__ import annotations

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Recompute
from meshwright.planner.foreign.framework import Framework
from meshwright.planner.foreign.torchtitan.configuration import RUNTIME, configuration_of
from meshwright.planner.foreign.torchtitan.edits import edits, write
from meshwright.planner.foreign.torchtitan.model_args import runs_pipeline
from meshwright.planner.foreign.torchtitan.reading import NAME, read
from meshwright.planner.foreign.torchtitan.rules import broken_rules
from meshwright.planner.foreign.torchtitan.unmodelled import unmodelled_settings

__all__ = ["TORCHTITAN"]

TORCHTITAN = Framework(
    name=NAME,
    title="torchtitan",
    runtime=RUNTIME,
    schedules=(ScheduleKind.ONE_F_ONE_B, ScheduleKind.INTERLEAVED, ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V),
    recomputes=(Recompute.NONE, Recompute.EVERY_SECOND_GEMM, Recompute.FULL),
    read=read,
    broken_rules=broken_rules,
    unmodelled=unmodelled_settings,
    configuration_of=configuration_of,
    edits=edits,
    write=write,
    required=("training.seq_len",),
    pipelines=runs_pipeline,
)
