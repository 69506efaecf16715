"""TensorBoard's event files, where its package is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.executor.train import event_log
from meshwright.executor.train.event_log import EventLog
from meshwright.executor.train.record import StepRecord

RECORD = StepRecord(
    step=7,
    loss=1.5,
    gradient_norm=0.5,
    learning_rate=1e-3,
    step_time_s=0.25,
    tokens_per_s=100.0,
    mfu=None,
    expert_load=1.25,
    peak_memory_bytes=1,
    skipped=False,
)


def test_without_the_package_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"--tensorboard: needs the package tensorboard: pip install tensorboard"):
        EventLog(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs the package tensorboard")
def test_figures_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventLog(tmp_path)
    log.add(RECORD)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "mfu" not in events.Tags()["scalars"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 1.5)]
