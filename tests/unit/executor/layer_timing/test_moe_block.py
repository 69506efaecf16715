"""The executor's experts and the plain ones compute what the reference does, on one rank and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from meshwright.costmodel.errors import ModelError
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer_timing.moe_block import Implementation, MoeBlock, MoeResults, block_errors, moe_block
from meshwright.executor.layer_timing.moe_layer import LayerExperts
from meshwright.executor.layer_timing.moe_plain import PlainExperts

CPU = torch.device("cpu")
TOKENS = 24
LIMIT = 1e-5


def _small(model: str) -> MoeBlock:
    block = moe_block(model, 16, Communicator(), CPU, torch.float32)
    ffn = msgspec.structs.replace(block.moe, intermediate=16)
    layer = msgspec.structs.replace(block.layer, ffn=ffn)
    return MoeBlock(name=model, layer=layer, hidden=32, ranks=block.ranks, device=CPU, dtype=torch.float32)


Maker = Callable[[MoeBlock, dict[str, Tensor]], Implementation]
MAKERS: dict[str, Maker] = {
    "layer": lambda block, weights: LayerExperts(block, weights, TOKENS),
    "plain": PlainExperts,
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v3", "mixtral-8x7b"])
def test_results_are_those_of_the_reference(model: str, maker: str) -> None:
    block = _small(model)
    whole = block.whole_weights()
    errors = block_errors(block, whole, MAKERS[maker](block, block.own_part(whole)), TOKENS)
    assert len(errors) == 5
    assert max(errors.values()) < LIMIT, errors


def test_a_wrong_result_shows() -> None:
    block = _small("mixtral-8x7b")
    whole = block.whole_weights()
    right = PlainExperts(block, whole)

    def wrong(x: Tensor, upstream: Tensor) -> MoeResults:
        found = right(x, upstream)
        return MoeResults(
            output_TH=found.output_TH,
            input_gradient_TH=1.1 * found.input_gradient_TH,
            gradients=found.gradients,
            experts_TK=found.experts_TK,
        )

    errors = block_errors(block, whole, wrong, TOKENS)
    assert errors.pop("grad:input") == pytest.approx(0.1, rel=1e-3)
    assert max(errors.values()) < LIMIT


def test_flops_are_three_products_of_three_passes() -> None:
    block = _small("mixtral-8x7b")
    assert block.flops(10) == 3 * 3 * 2 * 10 * block.moe.top_k * 32 * 16


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no mixture of experts"):
        moe_block("llama-3.1-8b", 8, Communicator(), CPU, torch.float32)


def test_two_ranks_agree_with_the_reference(repository: Path, tmp_path: Path) -> None:
    output = tmp_path / "moe_ffn.json"
    environment = {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(repository / "src"),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    options = ["--num-gpus", "2", "--device", "cpu", "--tiny", "--tokens", "8", "--rounds", "1", "--passes", "1"]
    command = [sys.executable, str(repository / "benchmarks" / "moe_ffn.py"), *options, "-o", str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads(output.read_text())["runs"]["2"]["rows"]
    assert [timed["implementation"] for timed in row["timed"]] == ["kernels", "plain"]
    assert all(timed["worst_error"] < LIMIT for timed in row["timed"])
