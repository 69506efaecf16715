"""Layers are cut by experts until they fit, and say so."""

from __future__ import annotations

import pytest

from meshwright.costmodel.errors import InfeasibleError
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.layer_timing.cases import MODELS, Case, make_case, needed_bytes


def _case(model: str, memory_bytes: float) -> Case:
    strategy = LayerStrategy()
    return make_case(model, "single", strategy, seq_len=4096, micro_batch=1, num_gpus=1, memory_bytes=memory_bytes)


@pytest.mark.parametrize("model", MODELS)
def test_every_layer_fits_on_a_gpu_of_80_gb(model: str) -> None:
    case = _case(model, 80e9)
    assert needed_bytes(case.layer, case.setting) <= 0.8 * 80e9
    assert not case.is_cut


def test_experts_are_cut_by_half_until_it_fits() -> None:
    case = _case("internal-352b", 20e9)
    assert case.is_cut
    assert (case.num_experts, case.num_experts_of_model) == (4, 32)
    assert "4 of 32 experts" in case.title


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(InfeasibleError, match="does not fit"):
        _case("llama-3.1-8b", 1e9)
