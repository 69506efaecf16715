"""Hardware profiles: every figure has a source, and what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.hardware import GPU_FIGURES
from meshwright.costmodel.tables import Source
from meshwright.hardware_profiles import load_profile, profile_names


def write(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_figure_has_a_source(name: str) -> None:
    profile = load_profile(name)
    cited = {citation.figure: citation for citation in profile.citations}
    assert {f"gpu.{field}" for field in GPU_FIGURES} <= set(cited)
    assert len(cited) == len(profile.citations)
    tables = (profile.gemm, profile.grouped_gemm, profile.attention, profile.memory, profile.links)
    assert all(len(entry.provenance.text) > 20 for table in tables for entry in table)
    assert all(len(citation.text) > 10 for citation in profile.citations)


def test_what_a_derived_profile_changes_is_marked_as_derived() -> None:
    for name in ("h20", "h100-hbm2e"):
        assert {table.provenance.source for table in load_profile(name).gemm} == {Source.DERIVED}
    assert load_profile("h800").gemm == load_profile("h100").gemm
    assert load_profile("h800").gpu.nvlink_bytes_per_s == 200e9
    assert load_profile("h200").gpu.memory_bytes_per_s == 4.8e12


def test_a_file_may_extend_a_shipped_profile(tmp_path: Path) -> None:
    citations = [{"figure": "gpu.nvlink_bytes_per_s", "source": "measured", "text": "our own link test"}]
    path = write(tmp_path, {"extends": "h100", "gpu": {"nvlink_bytes_per_s": 1e11}, "citations": citations})
    assert load_profile(path).gpu.nvlink_bytes_per_s == 1e11


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"extends": "h100", "gpu": {"nvlink_bytes_per_s": 1e11}}, "no citation"),
        ({"extends": "h1000"}, "'h1000' is not one of"),
        ({"extends": "h100", "gmem": []}, "did you mean 'gemm'"),
        ({"extends": "h100", "schema_version": 99}, "99; expected 2"),
        ({"extends": "h100", "gemm_transfer": {"scale": 1.0}}, "expected an object with"),
        ({"extends": "h100", "nvls": "perhaps"}, "nvls"),
        ({"extends": "h100", "gpu": "x"}, "gpu: expected an object"),
        ({"extends": "h100", "gpu": None}, "gpu: expected an object"),
        ({"extends": "h100", "citations": "x"}, "citations: expected a list of objects"),
        ({"extends": "h100", "citations": [1]}, "citations: expected a list of objects"),
        ({}, "schema_version"),
        ({"schema_version": 1}, "1; expected 2"),
        ({"schema_version": 2}, "missing required field"),
    ],
)
def test_says_what_is_wrong_in_one_line(tmp_path: Path, data: dict[str, Any], words: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_impossible_figures(tmp_path: Path, value: float) -> None:
    citations = [{"figure": "gpu.memory_bytes_per_s", "source": "measured", "text": "nonsense"}]
    path = write(tmp_path, {"extends": "h100", "gpu": {"memory_bytes_per_s": value}, "citations": citations})
    with pytest.raises(ProfileError):
        load_profile(path)


def test_unreadable_files_and_unknown_names(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema_version": 1,', encoding="utf-8")
    with pytest.raises(ProfileError, match="is not JSON"):
        load_profile(broken)
    broken.write_text("[]", encoding="utf-8")
    with pytest.raises(ProfileError, match="expected a JSON object"):
        load_profile(broken)
    with pytest.raises(ProfileError, match="no such file"):
        load_profile(tmp_path / "missing.json")
    with pytest.raises(ProfileError, match="did you mean 'h100'"):
        load_profile("h10")
