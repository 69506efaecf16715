"""Utilization is that of the GPUs at hand."""

from __future__ import annotations

import pytest

from meshwright.executor.train.utilization import is_planned_gpu, known_gpu, mfu_of
from meshwright.planner.plan import Plan


def test_on_the_planned_gpu_it_goes_with_the_speed(tiny_plan: Plan) -> None:
    gpu, prediction = known_gpu("NVIDIA H100 80GB HBM3"), tiny_plan.prediction
    assert is_planned_gpu(tiny_plan, gpu)
    assert mfu_of(tiny_plan, 2 * prediction.tokens_per_s, gpu) == pytest.approx(2 * prediction.mfu)


def test_on_another_gpu_it_is_of_that_ones_peak(tiny_plan: Plan) -> None:
    gpu = known_gpu("NVIDIA A100-SXM4-80GB")
    assert gpu is not None
    assert not is_planned_gpu(tiny_plan, gpu)
    h100 = mfu_of(tiny_plan, 1.0, known_gpu("NVIDIA H100 80GB HBM3"))
    assert h100 is not None
    assert mfu_of(tiny_plan, 1.0, gpu) == pytest.approx(h100 * 989.4 / 312, rel=0.01)


def test_elsewhere_it_is_not_known(tiny_plan: Plan) -> None:
    assert not is_planned_gpu(tiny_plan, known_gpu("cpu"))
    assert mfu_of(tiny_plan, 1.0, known_gpu("NVIDIA GeForce RTX 4090")) is None
