"""What is wrong with a folder of weights is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from meshwright.costmodel.errors import InputError
from meshwright.executor.weights.import_weights import open_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Saved = Callable[[str], tuple["PreTrainedModel", Path]]
WEIGHTS = "model.safetensors"


def _change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of a single file; None takes one away."""
    found = {**load_file(folder / WEIGHTS), **tensors}
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, folder / WEIGHTS)


def _read(folder: Path) -> None:
    list(open_source(folder).tensors())


def test_tensors_come_in_the_order_of_the_model_and_format_asked(saved: Saved) -> None:
    _, folder = saved("mixtral")
    source = open_source(folder)
    names = [name for name, tensor in source.tensors(dtype=torch.bfloat16) if tensor.dtype is torch.bfloat16]
    assert names == list(source.mapping.shapes)
    wanted = ["head", "layers.1.experts_fc2"]
    assert [name for name, _ in source.tensors(wanted)] == ["layers.1.experts_fc2", "head"]
    with pytest.raises(InputError, match=r"layers\.9\.qkv: the model has no such parameter"):
        next(source.tensors(["layers.9.qkv"]))


def test_experts_of_a_rank_are_read_alone(saved: Saved) -> None:
    _, folder = saved("deepseek v3")
    source = open_source(folder)
    whole, part = dict(source.tensors()), dict(source.tensors(experts=range(2, 5)))
    for name, tensor in whole.items():
        expected = tensor[2:5] if ".experts_" in name else tensor
        assert torch.equal(part[name], expected), name


def test_shards_are_read_by_their_index(saved: Saved, tmp_path: Path) -> None:
    model, folder = saved("llama")
    whole = dict(open_source(folder).tensors())
    sharded = tmp_path / "sharded"
    model.save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    again = dict(open_source(sharded).tensors())
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    first = min(sharded.glob("*.safetensors"))
    first.unlink()
    with pytest.raises(InputError, match=rf"{first.name}: no such file, but model\.safetensors\.index\.json names it"):
        _read(sharded)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.norm.weight": None}, r"model\.norm\.weight: missing, expected shape \(32\)"),
        (
            {"model.norm.weight": None, "lm_head.weight": None},
            r"model\.norm\.weight: missing \(and 1 more\), expected shape",
        ),
        ({"model.extra": torch.ones(1)}, r"model\.extra: unexpected: the config\.json has no place for it"),
        ({"model.norm.weight": torch.ones(31)}, r"model\.norm\.weight: shape \(31\), expected shape \(32\)"),
        (
            {"model.layers.0.mlp.up_proj.weight": torch.ones(48, 32, dtype=torch.float16)},
            r"up_proj\.weight: torch\.float16, but model\.layers\.0\.mlp\.gate_proj\.weight is torch\.float32",
        ),
        (
            {"a.weight_scale_inv": torch.ones(1)},
            r"a\.weight_scale_inv: scales of FP8 weights, expected weights in BF16",
        ),
    ],
)
def test_wrong_tensors_are_named(saved: Saved, changes: dict[str, torch.Tensor | None], problem: str) -> None:
    _, folder = saved("llama")
    _change(folder, **changes)
    with pytest.raises(InputError, match=problem):
        _read(folder)


def test_what_older_files_hold_beside_is_left_out(saved: Saved) -> None:
    _, folder = saved("llama")
    _change(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    _read(folder)


def test_truncated_weights_are_refused(saved: Saved) -> None:
    _, folder = saved("llama")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: no whole safetensors file"):
        _read(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        _read(folder)


def test_a_wrong_index_is_refused(saved: Saved) -> None:
    _, folder = saved("llama")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"nothing": WEIGHTS}}))
    with pytest.raises(InputError, match=r"model\.safetensors: nothing: no such tensor, but .* says that it is there"):
        _read(folder)
    index.write_text("{}")
    with pytest.raises(InputError, match=r"index\.json: weight_map: missing or no object"):
        _read(folder)
    index.write_text("{")
    with pytest.raises(InputError, match=r"index\.json: not JSON"):
        _read(folder)


def test_a_missing_or_broken_config_is_named(saved: Saved) -> None:
    _, folder = saved("llama")
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: cannot be read: Expected `object`"):
        open_source(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        open_source(folder)
