"""Of several ranks that have failed, the one that is to blame is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.executor.observe.whereabouts import Outcome, Whereabouts
from meshwright.executor.train.failure import RankEnd, described_failure, write_failure
from meshwright.executor.train.supervision import WHEREABOUTS, leave_reason
from meshwright.executor.train.trainer import LossError


@pytest.fixture
def places(tmp_path: Path) -> list[Whereabouts]:
    """Three ranks in step 4; the last one has not begun it."""
    ranks = [Whereabouts(tmp_path / str(rank)) for rank in range(3)]
    for one in ranks[:2]:
        one.enter_step(4)
        one.do("gradients", waits=True)
    return ranks


def ends(*pairs: tuple[int, int]) -> list[RankEnd]:
    return [RankEnd(rank=rank, status=status) for rank, status in pairs]


def test_a_killed_rank_comes_before_those_that_lost_it(places: list[Whereabouts], tmp_path: Path) -> None:
    places[0].end(Outcome.LOST)
    error = described_failure(ends((0, 1), (2, -9)), tmp_path, 3)
    assert str(error) == (
        "run: rank 2 died (signal 9: often the host's memory ran out) in the start;"
        " ranks 0, 1 waited in step 4, gradients"
    )
    assert error.exit_status == 1


def test_a_killed_rank_comes_before_those_that_its_loss_aborts(places: list[Whereabouts], tmp_path: Path) -> None:
    error = described_failure(ends((0, -6), (2, -9)), tmp_path, len(places))
    assert error.record.rank == 2


def test_an_error_of_its_own_comes_before_lost_ranks(places: list[Whereabouts], tmp_path: Path) -> None:
    places[0].end(Outcome.LOST)
    error = described_failure(ends((0, 1), (1, 2)), tmp_path, 3)
    assert str(error) == "run: rank 1 ended with status 2 in step 4, gradients; the other ranks were ended"
    assert error.exit_status == 2


def test_the_reason_that_a_rank_has_left_is_the_message(
    places: list[Whereabouts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WHEREABOUTS, str(tmp_path))
    leave_reason(1, InputError("tokens.bin", "token 9", "999, beyond the model's vocabulary"))
    places[0].end(Outcome.LOST)
    error = described_failure(ends((0, 1), (1, 2)), tmp_path, len(places))
    assert str(error) == "error: tokens.bin: token 9: 999, beyond the model's vocabulary"
    assert (error.exit_status, error.record.rank) == (2, 1)
    assert f"error: {error.record.failed}" == str(error)


def test_a_reason_that_is_no_bad_input_is_the_runs(
    places: list[Whereabouts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WHEREABOUTS, str(tmp_path))
    leave_reason(0, LossError("step 4: loss nan: not finite"))
    error = described_failure(ends((0, 1)), tmp_path, len(places))
    assert (str(error), error.exit_status) == ("run: step 4: loss nan: not finite", 1)


def test_after_a_timeout_all_are_listed(places: list[Whereabouts], tmp_path: Path) -> None:
    places[1].end(Outcome.HUNG)
    error = described_failure(ends((1, 1)), tmp_path, 3)
    assert str(error) == (
        "run: no rank gets on (--timeout): ranks 0, 1 waited in step 4, gradients; rank 2 stayed in the start"
    )


def test_ranks_that_never_came_so_far(tmp_path: Path) -> None:
    error = described_failure(ends((1, 2)), tmp_path, 2)
    assert str(error) == "run: rank 1 ended with status 2 in the start; the other ranks were ended"


def test_the_records_say_so(places: list[Whereabouts], tmp_path: Path) -> None:
    error = described_failure(ends((2, -9)), tmp_path, len(places))
    write_failure(error.record, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["rank"], record["status"]) == (2, -9)
    assert [one["waits"] for one in record["positions"]] == [True, True, False]
