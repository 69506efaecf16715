"""Times of a run's stages beside the predicted ones, and ranks that compute more slowly than their neighbours."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from statistics import fmean, median

import torch.distributed as dist

from meshwright.costmodel.beside import runs_beside
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.layer_cost import Terms
from meshwright.costmodel.stage_cost import StageCost
from meshwright.costmodel.step import SPLIT_BACKWARD, schedule_of, step_inputs
from meshwright.costmodel.value import Value
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.stopwatch import PartTimes, StepPart
from meshwright.executor.train.record import SETTLING_STEPS, SlowRank, StageTimes

SLOW = 1.1
"""A rank whose compute takes longer than this times the median of its stage is pointed at."""

BUSY = (StepPart.FORWARD, StepPart.BACKWARD, StepPart.GRADIENTS, StepPart.OPTIMIZER)
"""What a step is made of beside waits for other stages."""


class RankTimes(Value, frozen=True, kw_only=True):
    """Median seconds a step of one rank, by part."""

    rank: int
    host: str
    stage: int
    seconds: dict[StepPart, float]

    @property
    def compute_s(self) -> float:
        """Seconds a step in operators of layers that talk to nobody, slowed as they are by what runs beside them."""
        inside = self.seconds[StepPart.FORWARD] + self.seconds[StepPart.BACKWARD]
        return inside - self.seconds[StepPart.EXPOSED]


def rank_times(rank: int, stage: int, steps: Sequence[PartTimes]) -> RankTimes:
    """The medians of the steps behind the first few; nothing where all steps had their operators timed instead."""
    settled = steps[SETTLING_STEPS:] or steps or [dict.fromkeys(StepPart, 0.0)]
    seconds = {part: median(step[part] for step in settled) for part in StepPart}
    return RankTimes(rank=rank, host=socket.gethostname(), stage=stage, seconds=seconds)


def gather_times(own: RankTimes, world: Communicator) -> tuple[RankTimes, ...]:
    """Those of all ranks. A collective."""
    found: list[RankTimes] = [own] * world.size
    if world.size > 1:
        dist.all_gather_object(found, own)
    return tuple(found)


def stage_times(
    configuration: TrainingConfiguration, ranks: Sequence[RankTimes], predicted_step_s: float
) -> tuple[StageTimes, ...]:
    """Measured beside predicted, stage by stage."""
    return tuple(
        StageTimes(
            stage=stage,
            measured_s={part: fmean(one.seconds[part] for one in ranks if one.stage == stage) for part in StepPart},
            predicted_s=predicted,
        )
        for stage, predicted in enumerate(predicted_parts(configuration, predicted_step_s))
    )


def slow_ranks(ranks: Sequence[RankTimes]) -> tuple[SlowRank, ...]:
    """Ranks that compute for more than 10 % longer than the median of their stage."""
    found = []
    for one in ranks:
        median_s = median(other.compute_s for other in ranks if other.stage == one.stage)
        if one.compute_s > SLOW * median_s:
            found.append(
                SlowRank(rank=one.rank, host=one.host, stage=one.stage, compute_s=one.compute_s, median_s=median_s)
            )
    return tuple(found)


def predicted_parts(configuration: TrainingConfiguration, step_s: float) -> list[PartTimes]:
    """Seconds a step of each device of the pipeline, by part, of a step that takes `step_s`."""
    schedule = schedule_of(configuration)
    costs, _ = step_inputs(configuration, schedule)
    split, count = schedule.kind in SPLIT_BACKWARD, configuration.num_micro_batches
    shares_passes = runs_beside(configuration)
    return [
        _with_waits(
            _beside(
                _of_device([costs[stage] for stage in chunks], split, count, first=0 in chunks),
                [costs[chunks[slot[0].chunk]] for slot in slots if shares_passes and len(slot) > 1],
            ),
            step_s,
        )
        for chunks, slots in zip(schedule.placement, schedule.order, strict=True)
    ]


def _with_waits(parts: PartTimes, step_s: float) -> PartTimes:
    """What is left of the step is waiting for other stages."""
    return parts | {StepPart.WAIT: max(0.0, step_s - sum(parts[part] for part in BUSY))}


def _beside(apart: PartTimes, forwards: Sequence[StageCost]) -> PartTimes:
    """The same with some forwards beside backwards: what they add to these is measured with them.

    What they save is, first of all, communication that then is not exposed.
    """
    forward_s = sum(cost.forward.total_s for cost in forwards)
    saved_s = sum(cost.overlap_saving_s for cost in forwards)
    return apart | {
        StepPart.FORWARD: apart[StepPart.FORWARD] - forward_s,
        StepPart.BACKWARD: apart[StepPart.BACKWARD] + forward_s - saved_s,
        StepPart.EXPOSED: max(0.0, apart[StepPart.EXPOSED] - saved_s),
    }


def _of_device(costs: Sequence[StageCost], split: bool, num_micro_batches: int, *, first: bool) -> PartTimes:
    def backward_of(cost: StageCost) -> Terms:
        return cost.dgrad + cost.wgrad if split else cost.backward

    forward = sum((cost.forward for cost in costs), Terms()).scaled(num_micro_batches)
    backward = sum(map(backward_of, costs), Terms()).scaled(num_micro_batches)
    both = forward + backward
    exposed_s = both.exposed_nvlink_s + both.exposed_network_s
    seconds = {
        StepPart.FORWARD: forward.total_s + (sum(cost.gather_slowdown_s for cost in costs) if first else 0.0),
        StepPart.BACKWARD: backward.total_s + sum(cost.reduce_slowdown_s for cost in costs),
        StepPart.GRADIENTS: sum(cost.grad_reduce_s for cost in costs),
        StepPart.OPTIMIZER: sum(cost.optimizer_s + cost.param_gather_s for cost in costs),
    }
    return seconds | {
        StepPart.COLLECTIVES: exposed_s + both.hidden_nvlink_s + both.hidden_network_s,
        StepPart.EXPOSED: exposed_s,
    }
