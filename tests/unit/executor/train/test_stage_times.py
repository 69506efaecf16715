"""Stages are measured beside what was predicted, slow ranks are pointed at."""

from __future__ import annotations

import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate.actions import ActionKind
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import schedule_of
from meshwright.executor.stopwatch import StepPart
from meshwright.executor.train.record import StageTimes
from meshwright.executor.train.stage_times import RankTimes, predicted_parts, rank_times, slow_ranks, stage_times
from meshwright.planner.plan import Plan


def times(rank: int, stage: int, compute_s: float, collectives_s: float = 0.0) -> RankTimes:
    seconds = dict.fromkeys(StepPart, 0.0)
    seconds |= {StepPart.FORWARD: compute_s, StepPart.BACKWARD: collectives_s, StepPart.EXPOSED: collectives_s}
    return RankTimes(rank=rank, host=f"host{rank}", stage=stage, seconds=seconds)


def apart_s(stage: StageTimes) -> float:
    """The predicted step, without the parts that lie inside others."""
    return (
        sum(stage.predicted_s.values()) - stage.predicted_s[StepPart.COLLECTIVES] - stage.predicted_s[StepPart.EXPOSED]
    )


def test_the_median_step_behind_the_first_few_counts() -> None:
    steps = [dict.fromkeys(StepPart, seconds) for seconds in (9.0, 9.0, 9.0, 1.0, 5.0, 2.0)]
    found = rank_times(3, 1, steps)
    assert (found.rank, found.stage, set(found.seconds.values())) == (3, 1, {2.0})


def test_ranks_are_compared_within_their_stage_without_what_they_wait_for() -> None:
    ranks = [times(0, 0, 1.0), times(1, 0, 1.0, 9.0), times(2, 0, 1.2), times(3, 1, 5.0), times(4, 1, 5.4)]
    (slow,) = slow_ranks(ranks)
    assert (slow.rank, slow.host, slow.compute_s, slow.median_s) == (2, "host2", 1.2, 1.0)


def test_predicted_parts_make_up_the_predicted_step(tiny_plan: Plan, tiny_configuration: TrainingConfiguration) -> None:
    step_s = tiny_plan.prediction.step_time_s
    (stage,) = stage_times(tiny_configuration, [times(0, 0, 1.0), times(1, 0, 3.0)], step_s)
    assert stage.measured_s[StepPart.FORWARD] == 2.0
    assert step_s <= apart_s(stage) < 1.1 * step_s
    assert 0 < stage.predicted_s[StepPart.EXPOSED] <= stage.predicted_s[StepPart.COLLECTIVES]
    assert stage.predicted_s[StepPart.FORWARD] > 0
    assert stage.predicted_s[StepPart.BACKWARD] > stage.predicted_s[StepPart.FORWARD]


def test_what_is_left_of_a_step_is_waiting(tiny_configuration: TrainingConfiguration) -> None:
    (stage,) = stage_times(tiny_configuration, [times(0, 0, 1.0)], 10.0)
    assert stage.predicted_s[StepPart.WAIT] > 9.0
    assert apart_s(stage) == pytest.approx(10.0)


def test_forwards_beside_backwards_count_with_them(dualpipe_configuration: TrainingConfiguration) -> None:
    """Measured so (`StepObserver.joint_part`): the sum falls by what is saved."""
    schedule = schedule_of(dualpipe_configuration)
    costs = stage_costs(dualpipe_configuration)
    for chunks, slots, found in zip(
        schedule.placement, schedule.order, predicted_parts(dualpipe_configuration, 1.0), strict=True
    ):
        beside = [costs[chunks[slot[0].chunk]] for slot in slots if len(slot) == 2]
        alone = [costs[chunks[slot[0].chunk]] for slot in slots if [one.kind for one in slot] == [ActionKind.FORWARD]]
        assert beside
        count = dualpipe_configuration.num_micro_batches
        assert len(beside) + len(alone) == count * len(chunks)
        # The first device also gathers beside its forwards.
        assert found[StepPart.FORWARD] >= sum(one.forward.total_s for one in alone) * (1 - 1e-9)
        total_s = count * sum(
            (costs[chunk].forward + costs[chunk].dgrad + costs[chunk].wgrad).total_s for chunk in chunks
        )
        state_s = sum(
            costs[chunk].gather_slowdown_s * (0 in chunks) + costs[chunk].reduce_slowdown_s for chunk in chunks
        )
        saved_s = sum(one.overlap_saving_s for one in beside)
        assert saved_s > 0
        assert found[StepPart.FORWARD] + found[StepPart.BACKWARD] == pytest.approx(total_s + state_s - saved_s)
