from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.executor.measure_hardware.journal import CollectiveLaunched, Journal, Skipped


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "p.partial.jsonl"
    first = Journal(path, "machine", restart=False)
    first.add("a", CollectiveLaunched(time_s=1.0))
    first.add("b", CollectiveLaunched(time_s=2.0))
    again = Journal(path, "machine", restart=False)
    assert again.found == 2
    assert again.outcomes == first.outcomes
    assert "a" in again
    assert "c" not in again


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p.partial.jsonl"
    journal = Journal(path, "machine", restart=False)
    journal.add("a", CollectiveLaunched(time_s=1.0))
    journal.add("b", CollectiveLaunched(time_s=2.0))
    path.write_bytes(path.read_bytes()[:-9])
    again = Journal(path, "machine", restart=False)
    assert set(again.outcomes) == {"a"}
    again.add("b", CollectiveLaunched(time_s=3.0))
    assert set(Journal(path, "machine", restart=False).outcomes) == {"a", "b"}


def test_a_run_that_ends_while_it_reads_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.partial.jsonl"
    journal = Journal(path, "machine", restart=False)
    journal.add("a", CollectiveLaunched(time_s=1.0))
    journal.add("b", Skipped(what="b", reason="out of memory"))
    before = path.read_bytes()

    def ended(*paths: Path) -> None:
        del paths
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", ended)
        with pytest.raises(KeyboardInterrupt):
            Journal(path, "machine", restart=False)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert set(Journal(path, "machine", restart=False).outcomes) == {"a"}


def test_what_is_measured_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "p.partial.jsonl"
    journal = Journal(path, "machine", restart=False)
    journal.add("a", CollectiveLaunched(time_s=1.0))
    journal.add("a", CollectiveLaunched(time_s=2.0))
    assert Journal(path, "machine", restart=False).outcomes == {"a": CollectiveLaunched(time_s=2.0)}


def test_what_was_skipped_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "p.partial.jsonl"
    Journal(path, "machine", restart=False).add("a", Skipped(what="a", reason="out of memory"))
    assert not Journal(path, "machine", restart=False).outcomes


def test_a_file_of_another_machine_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "p.partial.jsonl"
    Journal(path, "machine", restart=False).add("a", CollectiveLaunched(time_s=1.0))
    other = Journal(path, "another", restart=False)
    assert other.stranger
    assert not other.outcomes


def test_a_file_that_is_no_journal_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "p.partial.jsonl"
    path.write_text("nonsense\n", encoding="utf-8")
    assert Journal(path, "machine", restart=False).stranger


def test_restart_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "p.partial.jsonl"
    Journal(path, "machine", restart=False).add("a", CollectiveLaunched(time_s=1.0))
    assert not Journal(path, "machine", restart=True).outcomes
    assert not Journal(path, "machine", restart=False).outcomes


def test_nothing_is_left_in_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "p.partial.jsonl", "machine", restart=False)
    journal.finish()
    assert list(tmp_path.iterdir()) == []
