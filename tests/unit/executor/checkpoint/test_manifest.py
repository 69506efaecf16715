"""What a checkpoint says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.presets import load_model
from meshwright.executor.checkpoint.manifest import (
    DataPosition,
    Manifest,
    check_same_data,
    model_sha256,
    read_manifest,
)

DATA = DataPosition(source="uniform of 8", seed=1, global_batch=4, seq_len=16, next_step=3)


def _write(folder: Path, **changes: object) -> None:
    manifest = Manifest(model="tiny", model_sha256="m", plan_sha256="p", step=3, data=DATA, extra={"loss": 1.5})
    fields = {**msgspec.to_builtins(manifest), **changes}
    (folder / "manifest.json").write_text(json.dumps(fields))


def test_it_comes_back(tmp_path: Path) -> None:
    _write(tmp_path)
    assert read_manifest(tmp_path).extra == {"loss": 1.5}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema_version": 2}, r"manifest\.json: schema_version: 2, expected 1"),
        ({"step": "three"}, r"manifest\.json: step: Expected `int`, got `str`"),
        ({"data": None}, r"manifest\.json: data: Expected `object`, got `null`"),
        ({"files": {"__0_0.distcp": 12}}, r"__0_0\.distcp: missing, expected 12 bytes: the checkpoint is not whole"),
    ],
)
def test_a_wrong_one_is_refused(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    _write(tmp_path, **changes)
    with pytest.raises(InputError, match=problem):
        read_manifest(tmp_path)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: not JSON"):
        read_manifest(tmp_path)


def test_a_model_is_what_it_is_whatever_its_name() -> None:
    model = load_model("mixtral-8x7b")
    assert model_sha256(model) == model_sha256(msgspec.structs.replace(model, name="mine", source="elsewhere"))
    assert model_sha256(model) != model_sha256(msgspec.structs.replace(model, vocab=1))


def test_other_data_are_named() -> None:
    check_same_data(DATA, DATA, "saved")
    with pytest.raises(InputError, match=r"saved: data\.seed: 1, but this run has 2; expected the same data"):
        check_same_data(DATA, msgspec.structs.replace(DATA, seed=2), "saved")
    first, second = (msgspec.structs.replace(DATA, source=digit * 64) for digit in "ab")
    with pytest.raises(InputError, match=r"saved: data\.source: tokens a{12}, but this run has tokens b{12};"):
        check_same_data(first, second, "saved")
