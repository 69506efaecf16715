"""Whether a forward and a backward of one slot (DualPipe) share passes, or run one behind the other."""

from __future__ import annotations

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import ScheduleKind


def runs_beside(configuration: TrainingConfiguration) -> bool:
    """Whether slots of two actions are run as planned.

    Not under ZeRO-2 and 3, which have room for two parts of the model: the one at work and the next. Nor where layers'
    activations wait in host memory: copies go from layer to layer of one pass.
    """
    keeps = not any(strategy.offload for stage in configuration.stages for strategy in stage)
    is_planned = configuration.pipeline.schedule is ScheduleKind.DUALPIPE_V
    return is_planned and keeps and configuration.sharding.stage < 2
