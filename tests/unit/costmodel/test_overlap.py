from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.operators import Axis


def test_axes_have_levels_of_their_own() -> None:
    overlap = LayerOverlap(expert=OverlapLevel.FUSED, data=OverlapLevel.NONE)
    assert [overlap.level(axis) for axis in (Axis.EXPERT, Axis.TENSOR, Axis.DATA)] == [
        OverlapLevel.FUSED,
        OverlapLevel.NONE,
        OverlapLevel.NONE,
    ]


@pytest.mark.parametrize("axis", [axis for axis in Axis if axis is not Axis.DATA])
def test_any_axis_of_a_layer_may_reach_other_micro_batches(axis: Axis) -> None:
    apart = LayerOverlap()
    assert replace(apart, **{axis.value: OverlapLevel.INTER_BATCH}).reaches_other_micro_batches
    assert not replace(apart, **{axis.value: OverlapLevel.FUSED}).reaches_other_micro_batches


def test_gradients_that_overlap_reach_no_other_micro_batch() -> None:
    assert not LayerOverlap(data=OverlapLevel.INTER_BATCH).reaches_other_micro_batches


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(InputError, match="fused_share"):
        LayerOverlap(fused_share=share)
