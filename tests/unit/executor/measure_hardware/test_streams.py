"""PyTorch hands out a few streams in turn: two that should run beside each other must not be one."""

from __future__ import annotations

from itertools import cycle
from types import SimpleNamespace

import pytest
import torch

from meshwright.executor.measure_hardware.streams import stream_beside


def _pool(monkeypatch: pytest.MonkeyPatch, *handles: int) -> None:
    turn = cycle(handles)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device=device, cuda_stream=next(turn)))


def test_a_stream_that_is_the_same_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    _pool(monkeypatch, 7, 8)
    own = torch.cuda.Stream("a GPU")
    torch.cuda.Stream("a GPU")
    assert stream_beside(own).cuda_stream == 8


def test_a_single_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pool(monkeypatch, 7)
    with pytest.raises(RuntimeError, match="no second stream"):
        stream_beside(torch.cuda.Stream("a GPU"))
