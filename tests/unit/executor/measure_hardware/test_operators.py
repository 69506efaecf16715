"""Every operator of the survey computes what it should, on the host."""

from __future__ import annotations

import pytest
import torch

from meshwright.costmodel.program.operators import GemmWork, Pass
from meshwright.executor.measure_hardware import Entry, Extent, build_survey
from meshwright.executor.measure_hardware.operators import build_operator, input_sets
from meshwright.executor.measure_hardware.operators.runnable import relative_error
from meshwright.hardware_profiles.measurements import Implementation

CPU = torch.device("cpu")
ON_GPUS_ALONE = ("fused norm_backward",)


def _entries() -> list[Entry]:
    return list(build_survey(Extent.TINY, num_gpus=1, gpus_per_node=1, custom_kernels=True).local)


def _name(entry: Entry) -> str:
    if entry.case:
        return f"{entry.implementation} {entry.case.operator}"
    return f"{entry.family} {entry.copy_direction or ''}"


@pytest.mark.parametrize("entry", _entries(), ids=_name)
def test_the_result_is_right(entry: Entry) -> None:
    torch.manual_seed(0)
    operator = None
    if _name(entry) in ON_GPUS_ALONE:
        with pytest.raises(NotImplementedError):
            build_operator(entry, CPU, 0.0).check()
        return
    operator = build_operator(entry, CPU, 0.0)
    error = operator.check()
    assert error <= operator.limit
    assert operator.num_sets >= 1


@pytest.mark.gpu
@pytest.mark.parametrize("entry", _entries(), ids=_name)
def test_the_result_is_right_on_a_gpu(entry: Entry) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    operator = build_operator(entry, torch.device("cuda", 0), 0.0)
    assert operator.check() <= operator.limit


def test_a_wrong_result_is_seen() -> None:
    right = torch.randn(8, 8)
    assert relative_error(right, right) == 0.0
    assert relative_error(right * 1.1, right) == pytest.approx(0.1, rel=1e-3)
    assert relative_error(torch.full_like(right, float("nan")), right) == float("inf")


def test_every_input_set_is_another() -> None:
    entry = Entry(work=GemmWork(m=16, n=16, k=16), implementation=Implementation.CUBLAS)
    assert input_sets(entry, 16 * 16 * 2 * 3) == 2
    operator = build_operator(entry, CPU, 16 * 16 * 2 * 3)
    first, second = operator.run(0), operator.run(1)
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert not torch.equal(first, second)


def test_accumulation_adds() -> None:
    work = GemmWork(m=16, n=16, k=16, direction=Pass.WGRAD, accumulates_fp32=True)
    operator = build_operator(Entry(work=work, implementation=Implementation.CUBLAS), CPU, 0.0)
    once = operator.run(0)
    assert isinstance(once, torch.Tensor)
    first = once.clone()
    operator.run(0)
    assert relative_error(once, 2 * first) < 1e-3
