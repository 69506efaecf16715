"""Configurations of other frameworks, read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from meshwright.planner.foreign import FRAMEWORKS, Source
from meshwright.planner.foreign.settings import Reading

HERE = Path(__file__).parent / "configurations"

DENSE = (
    "--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --seq-length 4096 --max-position-embeddings 4096"
    " --micro-batch-size 1 --vocab-size 32000 --bf16 --swiglu --disable-bias-linear --normalization RMSNorm"
    " --position-embedding-type rope --untie-embeddings-and-output-weights --hidden-dropout 0 --attention-dropout 0"
    " --cross-entropy-loss-fusion"
)
MOE = (
    f"{DENSE} --num-experts 8 --moe-router-topk 2 --moe-grouped-gemm --moe-permute-fusion"
    " --moe-token-dispatcher-type alltoall"
)


def source_of(name: str, added: str = "", **environment: str) -> Source:
    path = HERE / name
    return Source(
        where=name, text=path.read_text(encoding="utf-8"), suffix=path.suffix, added=added, environment=environment
    )


@pytest.fixture
def published() -> Callable[..., Reading]:
    """Reads a file of `configurations`, with options behind it and variables."""

    def read(name: str, added: str = "", **environment: str) -> Reading:
        framework = FRAMEWORKS["torchtitan" if name.endswith(".toml") else "megatron"]
        return framework.read(source_of(name, added, **environment))

    return read


@pytest.fixture
def megatron() -> Callable[[str], Reading]:
    """Reads arguments of Megatron-LM."""
    return lambda text: FRAMEWORKS["megatron"].read(Source(where="arguments", text=text))


@pytest.fixture
def torchtitan() -> Callable[[str], Reading]:
    """Reads options of torchtitan."""
    return lambda text: FRAMEWORKS["torchtitan"].read(Source(where="arguments", text=text))


@pytest.fixture
def dense_arguments() -> str:
    """A dense model in Megatron-LM's words."""
    return DENSE


@pytest.fixture
def moe_arguments() -> str:
    """A mixture of experts in Megatron-LM's words."""
    return MOE
