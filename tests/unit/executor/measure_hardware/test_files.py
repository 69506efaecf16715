from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshwright.executor.measure_hardware.files import write_json
from meshwright.executor.measure_hardware.journal import CollectiveLaunched


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(CollectiveLaunched(time_s=1.0), path)
    assert msgspec.json.decode(path.read_bytes(), type=CollectiveLaunched) == CollectiveLaunched(time_s=1.0)
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"
    path.write_text("old", encoding="utf-8")

    def fail(*_: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_json(CollectiveLaunched(time_s=1.0), path)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
