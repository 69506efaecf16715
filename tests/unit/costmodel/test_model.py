"""Values that describe a model refuse what cannot be, and answer what is asked of them."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.model import (
    AttentionSpec,
    DenseFfnSpec,
    LayerSpec,
    ModelSpec,
    MoeFfnSpec,
    with_num_layers,
)
from meshwright.costmodel.presets import load_model

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=16, value_head_dim=16)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=256))
SPARSE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=8, top_k=2, intermediate=64))
MODEL = ModelSpec(name="small", hidden=128, vocab=1000, layers=(DENSE, SPARSE, SPARSE))


def test_widths_are_heads_times_size() -> None:
    assert (ATTENTION.query_width, ATTENTION.key_width, ATTENTION.value_width) == (128, 32, 32)


def test_layer_runs_and_types_keep_order() -> None:
    assert MODEL.layer_runs == ((DENSE, 1), (SPARSE, 2))
    assert MODEL.layer_types == (DENSE, SPARSE)
    assert MODEL.is_moe
    assert not with_num_layers(MODEL, 1).is_moe


@pytest.mark.parametrize(
    ("field", "value"), [("num_heads", 0), ("head_dim", -1), ("window", -1), ("chunk", -8), ("num_kv_heads", 3)]
)
def test_impossible_attention_is_refused(field: str, value: int) -> None:
    with pytest.raises(ModelError, match=field if field != "num_kv_heads" else "does not divide num_heads 8"):
        msgspec.structs.replace(ATTENTION, **{field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 9}, "9 is more than num_experts 8"),
        ({"num_expert_groups": 3}, "3 does not divide num_experts 8"),
        ({"num_expert_groups": 2, "groups_per_token": 3}, "3 is more than num_expert_groups 2"),
        ({"num_expert_groups": 8, "groups_per_token": 1}, "1 groups hold 1 experts, top_k is 2"),
        ({"shared_intermediate": -1}, "-1 is negative"),
    ],
)
def test_impossible_experts_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        msgspec.structs.replace(SPARSE.ffn, **changes)


def test_latent_attention_has_one_key_head_a_query_head() -> None:
    with pytest.raises(ModelError, match="2 must equal num_heads in MLA"):
        msgspec.structs.replace(ATTENTION, kv_lora_rank=16, rope_head_dim=8)


def test_rotary_part_is_smaller_than_the_head() -> None:
    with pytest.raises(ModelError, match="16 is not between 0 and head_dim"):
        msgspec.structs.replace(ATTENTION, num_kv_heads=8, kv_lora_rank=16, rope_head_dim=16)


def test_a_model_has_layers() -> None:
    with pytest.raises(ModelError, match="at least one layer"):
        msgspec.structs.replace(MODEL, layers=())


def test_shortened_model_keeps_the_start_of_the_pattern() -> None:
    short = with_num_layers(load_model("deepseek-v3"), 5)
    assert [layer.is_moe for layer in short.layers] == [False, False, False, True, True]
    assert with_num_layers(MODEL, 3) == MODEL


@pytest.mark.parametrize("num_layers", [0, -1, 4])
def test_a_model_cannot_be_shortened_to_none_or_lengthened(num_layers: int) -> None:
    with pytest.raises(ModelError, match=f"small: num_layers: {num_layers} is not between 1 and 3"):
        with_num_layers(MODEL, num_layers)
