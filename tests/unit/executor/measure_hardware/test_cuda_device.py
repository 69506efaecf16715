from __future__ import annotations

import pytest
import torch

from meshwright.costmodel.program.operators import GemmWork
from meshwright.executor.measure_hardware import Entry
from meshwright.executor.measure_hardware.cuda_device import CudaDevice
from meshwright.executor.measure_hardware.operators import build_operator
from meshwright.executor.measure_hardware.operators.values import normal
from meshwright.executor.measure_hardware.timer import time_operator
from meshwright.hardware_profiles.measurements import Implementation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def device() -> CudaDevice:
    return CudaDevice(0)


def _time_s(device: CudaDevice, size: int) -> float:
    entry = Entry(work=GemmWork(m=size, n=size, k=size), implementation=Implementation.CUBLAS)
    with device.scope():
        operator = build_operator(entry, device.torch_device, device.l2_bytes)
        return time_operator(operator, device, 0.05).time_s


def test_a_short_kernel_is_shorter_than_its_launch(device: CudaDevice) -> None:
    assert 1e-6 < _time_s(device, 256) < 1e-5


def test_a_large_product_takes_as_long_as_its_work(device: CudaDevice) -> None:
    assert 4.0 < _time_s(device, 8192) / _time_s(device, 4096) < 12.0


def test_clocks_are_read_beside_times(device: CudaDevice) -> None:
    plain_s = device.intervals([device.reference] * 10)
    seconds, clocks_hz = device.clocked_intervals([device.reference] * 10)
    assert len(seconds) == len(clocks_hz) == 10
    assert all(3e8 < clock < 2.5e9 for clock in clocks_hz)
    assert sum(seconds) == pytest.approx(sum(plain_s), rel=0.3)


def test_a_capture_that_fails_leaves_nothing_behind(device: CudaDevice) -> None:
    with device.scope():
        values = normal((64,), device.torch_device)

        def waits() -> None:
            values.add_(1.0)
            values.sum().item()  # the host waits for the GPU, which no graph can hold

        with pytest.raises(RuntimeError):
            device.capture(waits)
        again = device.capture(lambda: values.mul_(2.0))
        again()
        assert bool(torch.isfinite(normal((64,), device.torch_device)).all())
        device.release()
    assert _time_s(device, 256) > 0.0
