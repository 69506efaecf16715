"""How many layers a device can have at all."""

from __future__ import annotations

import msgspec
import numpy as np

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.choice import Choice
from meshwright.planner.layer_ranges import layer_places, layer_ranges
from meshwright.planner.point import PointProblem

LAYER = Choice(key="keep", forward_s=1.0, backward_s=2.0, dgrad_s=1.0, wgrad_s=1.0, static_bytes=1.0, kept_bytes=1.0)
PROBLEM = PointProblem(
    kind=ScheduleKind.ONE_F_ONE_B,
    num_stages=2,
    num_micro_batches=4,
    layer_types=(0,) * 4,
    choices=((LAYER,),),
    memory_limit_bytes=1e3,
)
UPPER = np.array([4.0, 4.0, 9.0])


def test_places_are_devices_by_layer_types() -> None:
    two = msgspec.structs.replace(PROBLEM, layer_types=(0, 1, 0, 1), choices=((LAYER,), (LAYER,)))
    assert layer_places(two) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_work_of_all_micro_batches_fits_into_the_target() -> None:
    """Three layers take 3 x 3 s x 4 = 36 s; then the other device has one at least."""
    low, high = layer_ranges(PROBLEM, 36.0, UPPER)
    assert (low.tolist(), high.tolist()) == ([1.0, 1.0, 0.0], [3.0, 3.0, 9.0])
    low, high = layer_ranges(PROBLEM, 35.9, UPPER)
    assert (low.tolist(), high.tolist()) == ([2.0, 2.0, 0.0], [2.0, 2.0, 9.0])


def test_without_a_target_and_under_dualpipe_nothing_follows() -> None:
    dualpipe = msgspec.structs.replace(PROBLEM, kind=ScheduleKind.DUALPIPE_V, virtual_stages=2)
    for problem, target_s in ((PROBLEM, float("inf")), (dualpipe, 1.0)):
        low, high = layer_ranges(problem, target_s, UPPER)
        assert (low.tolist(), high.tolist()) == ([0.0, 0.0, 0.0], [4.0, 4.0, 9.0])


def test_given_boundaries_leave_no_choice() -> None:
    given = msgspec.structs.replace(PROBLEM, boundaries=(0, 1, 4))
    low, high = layer_ranges(given, float("inf"), UPPER)
    assert low[:2].tolist() == high[:2].tolist() == [1.0, 3.0]
