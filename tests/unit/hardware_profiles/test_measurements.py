"""Measurement files: what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.program.operators import GemmWork
from meshwright.hardware_profiles.measurements import Implementation, Purpose, Sample, load_measurements


def test_a_sample_has_its_median_between_its_percentiles() -> None:
    def sample(time_s: float, low_s: float, high_s: float) -> Sample:
        return Sample(
            work=GemmWork(m=1, n=1, k=1),
            implementation=Implementation.CUBLAS,
            purpose=Purpose.FIT,
            time_s=time_s,
            low_s=low_s,
            high_s=high_s,
            repeats=3,
        )

    assert sample(2.0, 1.0, 3.0).time_s == 2.0
    with pytest.raises(ProfileError, match="not between low and high"):
        sample(4.0, 1.0, 3.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ProfileError, match="not a positive finite number"):
            sample(wrong, 1.0, 3.0)


def test_clocks_are_positive_where_they_are() -> None:
    def sample(clock_hz: float | None) -> Sample:
        return Sample(
            work=GemmWork(m=1, n=1, k=1),
            implementation=Implementation.CUBLAS,
            purpose=Purpose.FIT,
            time_s=1.0,
            low_s=1.0,
            high_s=1.0,
            repeats=3,
            clock_hz=clock_hz,
        )

    assert sample(None).clock_hz is None
    with pytest.raises(ProfileError, match="clock_hz"):
        sample(0.0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "schema_version: None; expected 1"),
        (json.dumps({"schema_version": 0}), "schema_version: 0; expected 1"),
        (json.dumps({"schema_version": 1}), "machine"),
    ],
)
def test_bad_files_are_refused_with_their_name(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "measured.json"
    path.write_text(content)
    with pytest.raises(ProfileError, match=problem) as error:
        load_measurements(path)
    assert "measured.json" in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        load_measurements(tmp_path / "none.json")
