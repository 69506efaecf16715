"""The bytes of a case are those that layer programs count for the operator of that name."""

from __future__ import annotations

import pytest

from meshwright.costmodel.formulas.memory import optimizer_traffic_bytes
from meshwright.costmodel.huggingface import read_config
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.program.ends import build_head
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import MemoryWork, Precision
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.measure_hardware.memory_case import MemoryCase, MemoryOperator

TOKENS, HIDDEN, WIDTH, EXPERTS, TOP_K, VOCABULARY = 2048, 1024, 2048, 8, 2, 4096
ROWS = TOKENS * TOP_K
QUERY_AND_KEY = (8 + 4) * 128

CASES = {
    "norm1": (MemoryOperator.NORM, TOKENS, HIDDEN),
    "norm1.backward": (MemoryOperator.NORM_BACKWARD, TOKENS, HIDDEN),
    "residual1": (MemoryOperator.RESIDUAL, TOKENS, HIDDEN),
    "rope": (MemoryOperator.ROPE, TOKENS, QUERY_AND_KEY),
    "experts_activation": (MemoryOperator.SWIGLU, ROWS, WIDTH),
    "experts_activation.backward": (MemoryOperator.SWIGLU_BACKWARD, ROWS, WIDTH),
    "permute": (MemoryOperator.PERMUTE, ROWS, HIDDEN),
    "permute.backward": (MemoryOperator.PERMUTE_BACKWARD, ROWS, HIDDEN),
    "unpermute": (MemoryOperator.UNPERMUTE, ROWS, HIDDEN),
    "unpermute.backward": (MemoryOperator.UNPERMUTE_BACKWARD, ROWS, HIDDEN),
    "topk": (MemoryOperator.ROUTER, TOKENS, EXPERTS),
    "topk.backward": (MemoryOperator.ROUTER_BACKWARD, TOKENS, EXPERTS),
}


@pytest.fixture
def model(tiny_config: dict[str, object]) -> ModelSpec:
    return read_config(tiny_config, "config.json", "tiny")


@pytest.fixture
def setting() -> ProgramSetting:
    return ProgramSetting(hidden=HIDDEN, micro_batch=1, seq_len=TOKENS, strategy=LayerStrategy(), gpus_per_node=8)


def _works(model: ModelSpec, setting: ProgramSetting) -> dict[str, MemoryWork]:
    program = build_layer(model.layers[0], setting)
    operators = (*program.forward, *program.backward)
    return {operator.name: operator.work for operator in operators if isinstance(operator.work, MemoryWork)}


@pytest.mark.parametrize("name", list(CASES))
def test_operators_of_a_layer(name: str, model: ModelSpec, setting: ProgramSetting) -> None:
    operator, rows, width = CASES[name]
    top_k = TOP_K if name.startswith(("permute", "unpermute", "topk")) else 1
    case = MemoryCase(operator=operator, rows=rows, width=width, top_k=top_k)
    assert case.work(eager=False) == _works(model, setting)[name]


def test_cast(model: ModelSpec, setting: ProgramSetting) -> None:
    import msgspec

    fp8 = msgspec.structs.replace(setting, precision=Precision.FP8)
    works = _works(model, fp8)
    case = MemoryCase(operator=MemoryOperator.CAST_FP8, rows=TOKENS, width=HIDDEN)
    assert works["qkv.cast"] == case.work(eager=False)


@pytest.mark.parametrize("fused", [True, False])
def test_loss(model: ModelSpec, setting: ProgramSetting, fused: bool) -> None:
    program = build_head(model, setting, fused_cross_entropy=fused)
    works = {op.name: op.work for op in (*program.forward, *program.backward)}
    forward = MemoryCase(operator=MemoryOperator.CROSS_ENTROPY, rows=TOKENS, width=VOCABULARY)
    backward = MemoryCase(operator=MemoryOperator.CROSS_ENTROPY_BACKWARD, rows=TOKENS, width=VOCABULARY)
    assert works["cross_entropy"] == forward.work(eager=not fused)
    assert works["cross_entropy.backward"] == backward.work(eager=not fused)
    if not fused:
        cast = MemoryCase(operator=MemoryOperator.CAST_FP32, rows=TOKENS, width=VOCABULARY)
        assert works["cast.logits"] == cast.work(eager=True)


def test_optimizer() -> None:
    work = MemoryCase(operator=MemoryOperator.OPTIMIZER, rows=1, width=4096).work(eager=False)
    assert (work.read_bytes, work.write_bytes) == optimizer_traffic_bytes(4096.0, 0, 1)
