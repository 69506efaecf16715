from __future__ import annotations

import logging

import pytest
import torch

from meshwright.costmodel.errors import InputError
from meshwright.kernels.dispatch import MODE_VARIABLE, Choice, Dispatcher, Implementation, Mode, dispatcher
from meshwright.kernels.errors import KernelBuildError

CPU = torch.empty(0)


def test_falling_back_is_said_once_and_recorded(caplog: pytest.LogCaptureFixture) -> None:
    choices = Dispatcher(Mode.AUTO)
    with caplog.at_level(logging.WARNING, "meshwright.kernels"):
        assert not choices.runs_cuda("route", CPU, None)
        assert not choices.runs_cuda("route", CPU, None)
        assert not choices.runs_cuda("index", CPU, None)
    assert [record.getMessage() for record in caplog.records] == [
        "kernels: PyTorch references run instead of CUDA kernels: tensors are on cpu"
    ]
    reference = Implementation.REFERENCE
    assert choices.record() == (
        Choice(operation="index", implementation=reference, reason="tensors are on cpu", calls=1),
        Choice(operation="route", implementation=reference, reason="tensors are on cpu", calls=2),
    )


def test_the_reference_can_be_asked_for() -> None:
    choices = Dispatcher(Mode.REFERENCE)
    assert not choices.runs_cuda("route", CPU, None)
    assert choices.record()[0].reason == "$MESHWRIGHT_KERNELS is reference"


def test_where_kernels_are_demanded_falling_back_is_an_error() -> None:
    with pytest.raises(KernelBuildError, match="route: tensors are on cpu"):
        Dispatcher(Mode.CUDA).runs_cuda("route", CPU, None)


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE_VARIABLE, "fast")
    dispatcher.cache_clear()
    with pytest.raises(InputError, match="is fast, expected auto, reference, cuda"):
        dispatcher()
    monkeypatch.undo()
    dispatcher.cache_clear()
