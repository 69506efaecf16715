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
            {"lm_head.weight_scale_inv": torch.ones(1)},
            r"lm_head\.weight_scale_inv: unexpected: the config\.json has no",
        ),
        (
            {"lm_head.weight": torch.ones(61, 32).to(torch.float8_e4m3fn)},
            r"lm_head\.weight: FP8 without scales, expected weights in BF16, FP32, or FP8 blocks",
        ),
    ],
)
def test_wrong_tensors_are_named(saved: Saved, changes: dict[str, torch.Tensor | None], problem: str) -> None:
    _, folder = saved("llama")
    _change(folder, **changes)
    with pytest.raises(InputError, match=problem):
        _read(folder)


def _quantize(folder: Path, block: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Make the projections of a folder FP8 with random scales; the values that they then stand for."""
    changed: dict[str, torch.Tensor | None] = {}
    values = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        if "_proj" in name:
            rows, columns = (-(-size // side) for size, side in zip(tensor.shape, block, strict=True))
            scales, quantized = torch.rand(rows, columns) + 0.5, tensor.to(torch.float8_e4m3fn)
            changed |= {name: quantized, f"{name}_scale_inv": scales}
            values[name] = quantized.float() * torch.kron(scales, torch.ones(block))[: len(tensor), : tensor.shape[1]]
    _change(folder, **changed)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(block)}
    (folder / "config.json").write_text(json.dumps(config))
    return values


def test_fp8_blocks_are_multiplied_by_their_scales(saved: Saved) -> None:
    _, folder = saved("deepseek v3")
    plain = dict(open_source(folder).tensors())
    values = _quantize(folder, (16, 8))
    source = open_source(folder)
    for name, tensor in source.tensors():
        for region in source.mapping.regions[name]:
            expected = values.get(region.source, region.take(plain[name]))
            assert torch.equal(region.take(tensor), expected), region.source
    _change(folder, **{"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(2, 4)})
    with pytest.raises(InputError, match=r"up_proj\.weight_scale_inv: shape \(2, 4\), expected shape \(3, 4\)"):
        _read(folder)


@pytest.mark.parametrize(
    ("quantization", "problem"),
    [
        ({"quant_method": "gptq"}, r"quantization_config\.quant_method: 'gptq', expected fp8, or no quantization"),
        ({"quant_method": "fp8"}, r"quantization_config\.weight_block_size: None, expected rows and columns"),
    ],
)
def test_other_quantizations_are_refused(saved: Saved, quantization: dict[str, object], problem: str) -> None:
    _, folder = saved("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    with pytest.raises(InputError, match=problem):
        open_source(folder)


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
