"""What is refused before any rank starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.token_writer import write_tokens
from meshwright.executor.train.entry import run
from meshwright.executor.train.request import DeviceChoice, RunRequest
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan


def refuse(plan: Plan, folder: Path, data: str) -> InputError:
    """What is said, with nothing started and nothing left behind."""
    write_plan(plan, folder / "plan.json")
    asked = RunRequest(
        plan=folder / "plan.json", output=folder / "run", num_steps=1, device=DeviceChoice.CPU, data=data
    )
    with pytest.raises(InputError) as refused:
        run(asked, (), lambda _: None)
    assert not (folder / "run").exists()
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A token file with ids 0 to 299, beyond the tiny model's 256."""
    path = tmp_path / "tokens.bin"
    write_tokens([range(300)], path, vocabulary=300, tokenizer="none", end_of_document=None)
    return path


def test_missing_data(tiny_plan: Plan, tmp_path: Path) -> None:
    assert "no-such.bin" in str(refuse(tiny_plan, tmp_path, data=str(tmp_path / "no-such.bin")))


def test_truncated_data(tiny_plan: Plan, tmp_path: Path, tokens: Path) -> None:
    tokens.write_bytes(tokens.read_bytes()[:-2])
    assert str(tokens) in str(refuse(tiny_plan, tmp_path, data=str(tokens)))


def test_a_token_beyond_the_vocabulary(tiny_plan: Plan, tmp_path: Path, tokens: Path) -> None:
    assert str(refuse(tiny_plan, tmp_path, data=str(tokens))) == (
        f"{tokens}: token 256: 256, beyond the model's vocabulary; expected an id below 256"
    )
