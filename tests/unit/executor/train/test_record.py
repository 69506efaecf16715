"""The records of a run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import InputError
from meshwright.executor.train.record import StepLog, StepRecord, make_folder

RECORD = StepRecord(
    step=0,
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


def test_a_step_is_on_disk_when_it_has_ended(tmp_path: Path) -> None:
    with StepLog(tmp_path) as log:
        log.add(RECORD)
        assert msgspec.json.decode(log.path.read_bytes(), type=StepRecord) == RECORD
        log.add(RECORD)
    assert log.path.read_bytes().count(b"\n") == 2


def test_a_resumed_run_keeps_the_lines_before_it(tmp_path: Path) -> None:
    with StepLog(tmp_path) as log:
        for step in range(4):
            log.add(replace(RECORD, step=step))
    log.path.write_bytes(log.path.read_bytes()[:-5])  # killed while it wrote
    for first, kept in ((9, [0, 1, 2]), (2, [0, 1]), (0, [])):
        with StepLog(tmp_path, first_step=first):
            pass
        lines = log.path.read_bytes().splitlines()
        assert [msgspec.json.decode(line, type=StepRecord).step for line in lines] == kept


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"steps.jsonl: cannot be written: there is no directory"):
        StepLog(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: cannot be made: File exists"):
        make_folder(tmp_path / "file")
