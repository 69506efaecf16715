"""What a lane does begins behind what was launched before, and layers wait for it where they are told to."""

from __future__ import annotations

import pytest
import torch

from meshwright.executor.state.lane import make_lanes

LONG = 100_000_000
"""Clock cycles."""


def test_on_a_cpu_everything_is_in_line() -> None:
    gathers, reduces = make_lanes(torch.device("cpu"), gathers_beside=True, reduces_beside=False)
    assert (gathers.overlaps, reduces.overlaps) == (True, False)
    x = torch.zeros(2)
    with gathers.behind_all():
        x += 1.0
    assert gathers.mark() is None
    gathers.wait(None)
    assert x.tolist() == [1.0, 1.0]


@pytest.mark.gpu
@pytest.mark.parametrize("beside", [True, False])
def test_on_a_gpu_it_runs_beside_what_is_launched_later(beside: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    lane, _ = make_lanes(torch.device("cuda"), gathers_beside=beside, reduces_beside=False)
    x = torch.zeros(2, device="cuda")
    torch.cuda._sleep(LONG)
    x += 1.0
    end, later = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with lane.behind_all():
        found = x.clone()  # of what was launched before
        torch.cuda._sleep(LONG)
        end.record()
    mark = lane.mark()
    assert (mark is None) is not beside
    torch.cuda._sleep(LONG // 10)
    later.record()
    lane.wait(mark)
    found += 1.0
    torch.cuda.synchronize()
    assert found.tolist() == [2.0, 2.0]
    assert (later.elapsed_time(end) > 0.0) is beside
