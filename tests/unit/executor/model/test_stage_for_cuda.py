"""The code of the model's ends for CUDA, tried without CUDA on fake tensors: shapes fit, and the host never waits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.ends import build_embedding, build_head
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.model.end_parameters import embedding_parameters, head_parameters
from meshwright.executor.model.micro_batch_tokens import MicroBatchTokens
from meshwright.executor.model.part import Part, PartDescription
from meshwright.executor.model.stage import Stage

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without CUDA does not even copy fake tensors of it."""

    def as_it_is(self: Tensor, *_: object) -> Tensor:
        return self

    monkeypatch.setattr(torch.Tensor, "copy_", as_it_is)
    monkeypatch.setattr(torch.Tensor, "contiguous", as_it_is)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b"])
def test_ends_of_a_model_run_on_cuda_without_reading_it(name: str) -> None:
    model = load_model(name)
    setting = ProgramSetting(
        hidden=model.hidden, micro_batch=1, seq_len=4096, strategy=LayerStrategy(), gpus_per_node=8
    )
    context = LayerContext(layer=model.layers[-1], setting=setting, device=CUDA, dtype=torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        weights = {
            spec.name: torch.empty(spec.shape, dtype=torch.bfloat16, device=CUDA)
            for spec in (*embedding_parameters(model), *head_parameters(model))
        }
        parameters = Parameters(weights)
        parts = [
            Part(
                PartDescription(title="end", program=program, context=context, recompute=Recompute.NONE, order=None),
                parameters,
            )
            for program in (build_embedding(model, setting), build_head(model, setting))
        ]
        ids = torch.empty(4096, dtype=torch.int64, device=CUDA)
        stage = Stage(parts, is_first=True, is_last=True, token_weight=1e-4, routed=lambda *_: None)
        loss = stage.forward(0, None, MicroBatchTokens(inputs_T=ids, labels_T=ids))
        stage.backward(0, None)
    assert loss.device == CUDA
    assert {key: gradient.shape for key, gradient in parameters.gradients.items()} == {
        key: weight.shape for key, weight in weights.items()
    }
    assert all(gradient.dtype is torch.bfloat16 for gradient in parameters.gradients.values())
