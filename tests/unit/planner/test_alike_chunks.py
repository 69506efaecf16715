from __future__ import annotations

import msgspec
import numpy as np
import pytest

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.alike_chunks import alike_kinds, alike_stages, chunks_agree
from meshwright.planner.choice import Choice
from meshwright.planner.point import PointProblem

CHOICE = Choice(key="", forward_s=1.0, backward_s=2.0, dgrad_s=1.0, wgrad_s=1.0)


def interleaved(layer_types: tuple[int, ...], boundaries: tuple[int, ...] = ()) -> PointProblem:
    return PointProblem(
        kind=ScheduleKind.INTERLEAVED,
        num_stages=2,
        num_micro_batches=4,
        virtual_stages=2,
        layer_types=layer_types,
        choices=((CHOICE, msgspec.structs.replace(CHOICE, key="other")),) * 2,
        memory_limit_bytes=1.0,
        boundaries=boundaries,
    )


def test_chunks_of_one_device_use_the_same_choices() -> None:
    problem = interleaved((0,) * 8)
    assert alike_stages(problem) == ((0, 2), (1, 3))
    assert chunks_agree(problem, np.array([[1, 1], [2, 0], [1, 1], [2, 0]]))
    assert not chunks_agree(problem, np.array([[2, 0], [2, 0], [1, 1], [2, 0]]))


def test_one_chunk_may_have_a_layer_more() -> None:
    problem = interleaved((0,) * 7)
    assert chunks_agree(problem, np.array([[1, 1], [2, 0], [1, 0], [2, 0]]))
    assert not chunks_agree(problem, np.array([[2, 1], [1, 0], [1, 0], [2, 0]]))


def test_stages_that_leading_rare_layers_reach_are_free() -> None:
    problem = interleaved((0,) + (1,) * 8)
    assert alike_kinds(problem) == {1}
    assert alike_stages(problem) == ((), (1, 3))


def test_rare_layers_in_the_middle_free_everything() -> None:
    assert alike_stages(interleaved((1,) * 4 + (0,) + (1,) * 4)) == ((), ())


@pytest.mark.parametrize(("boundaries", "alike"), [((0, 1, 3, 5, 7), (0, 2)), ((0, 0, 2, 4, 6), ())])
def test_given_boundaries_free_chunks_that_are_much_shorter(
    boundaries: tuple[int, ...], alike: tuple[int, ...]
) -> None:
    problem = interleaved((0,) * boundaries[-1], boundaries)
    assert alike_stages(problem)[0] == alike


def test_one_chunk_a_device_or_the_rule_switched_off() -> None:
    problem = interleaved((0,) * 8)
    single = msgspec.structs.replace(problem, kind=ScheduleKind.ONE_F_ONE_B, virtual_stages=1)
    for free in (single, msgspec.structs.replace(problem, alike_chunks=False)):
        assert alike_kinds(free) == frozenset()
        assert alike_stages(free) == ((), ())
