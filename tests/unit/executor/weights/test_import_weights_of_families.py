"""Models of transformers compute the same here, and come back to the bit."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from meshwright.executor.weights.export_weights import export_weights
from meshwright.executor.weights.import_weights import open_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFTEST = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
Saved = Callable[[str], tuple["PreTrainedModel", Path]]
HALVES = "deepseek v3, biases, plain weights, halves"


def _load(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids).logits
    return logits


@pytest.mark.parametrize("name", CONFTEST["FAMILIES"])
def test_logits_are_those_of_transformers(saved: Saved, name: str) -> None:
    model, folder = saved(name)
    source, ids = open_source(folder), CONFTEST["tokens"]()
    expected = _logits(model, ids)
    own = CONFTEST["logits_by_layers"](source.model, source.numerics, dict(source.tensors()), ids)
    assert expected.std() > 0.1
    assert (own - expected).norm() / expected.norm() < 1e-5
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", CONFTEST["FAMILIES"])
def test_an_export_is_what_was_imported(saved: Saved, tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    model, folder = saved(name)
    source, out = open_source(folder), tmp_path / "out"
    export_weights(source.tensors(), out, source.model, source.numerics, max_length=64, shard_bytes=20_000)
    before, after = _load(folder), _load(out)
    assert before.keys() == after.keys()
    unequal = [key for key in before if not torch.equal(before[key], after[key])]
    assert len(list(out.glob("*.safetensors"))) > 1
    if name == HALVES:  # written in pairs: other rows, the same model
        assert {key.split(".")[-2] for key in unequal} == {"q_b_proj", "kv_a_proj_with_mqa"}
    else:
        assert unequal == []
    again = AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager")
    again.eval()
    ids = CONFTEST["tokens"]()
    torch.testing.assert_close(_logits(again, ids), _logits(model, ids), rtol=1e-6, atol=1e-5)
    assert open_source(out).model.layers == source.model.layers
    assert open_source(out).numerics == source.numerics
