"""Megatron-LM (Megatron-Core) arguments."""

from __future__ import annotations

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Recompute
from meshwright.planner.foreign.framework import Framework
from meshwright.planner.foreign.megatron.configuration import configuration_of
from meshwright.planner.foreign.megatron.edits import edits, write
from meshwright.planner.foreign.megatron.reading import NAME, read
from meshwright.planner.foreign.megatron.rules import broken_rules
from meshwright.planner.foreign.megatron.runtime import RUNTIME, unmodelled_settings

__all__ = ["MEGATRON"]

MEGATRON = Framework(
    name=NAME,
    title="Megatron-LM",
    runtime=RUNTIME,
    schedules=(ScheduleKind.ONE_F_ONE_B, ScheduleKind.INTERLEAVED),
    recomputes=(
        Recompute.NONE,
        Recompute.ACTIVATION,
        Recompute.NORM_ACTIVATION,
        Recompute.CORE_ATTENTION,
        Recompute.FFN,
        Recompute.FULL,
    ),
    read=read,
    broken_rules=broken_rules,
    unmodelled=unmodelled_settings,
    configuration_of=configuration_of,
    edits=edits,
    write=write,
    required=("num_layers", "hidden_size", "num_attention_heads", "seq_length", "micro_batch_size"),
)
