"""The code for CUDA, tried without CUDA: every call of the bindings is one that torch knows, with shapes that fit.

Fake tensors have a device, a format and a shape, but no values: what kernels compute is checked on a GPU by
`benchmarks/layer_times.py --check`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.offload import OFFLOADED, with_copies
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.context import AttentionKernel, LayerContext
from meshwright.executor.layer.host_copies import HostCopies
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.layer.run import LayerRunner
from meshwright.executor.layer_timing.cases import timed_layer

MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "internal-352b", "paper-deepseek-moe", "deepseek-v3")
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without CUDA does not even copy fake tensors of it."""

    def as_it_is(self: Tensor, *_: object, **__: object) -> Tensor:
        return self

    def fresh(self: Tensor, *_: object) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)

    monkeypatch.setattr(torch.Tensor, "copy_", as_it_is)
    monkeypatch.setattr(torch.Tensor, "contiguous", fresh)


def _setting(hidden: int) -> ProgramSetting:
    return ProgramSetting(hidden=hidden, micro_batch=2, seq_len=4096, strategy=LayerStrategy(), gpus_per_node=1)


def _weights(layer: LayerSpec, hidden: int) -> dict[str, Tensor]:
    return {
        parameter.name: torch.empty(parameter.shape, dtype=torch.bfloat16, device=CUDA)
        for parameter in layer_parameters(layer, hidden)
    }


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("kernel", [AttentionKernel.CUDNN, AttentionKernel.FA2])
@pytest.mark.parametrize("model", MODELS)
def test_a_layer_runs_on_fake_tensors(model: str, kernel: AttentionKernel) -> None:
    spec = load_model(model)
    layer = timed_layer(spec)
    setting = _setting(spec.hidden)
    with FakeTensorMode(allow_non_fake_inputs=True):
        weights = _weights(layer, spec.hidden)
        context = LayerContext(layer=layer, setting=setting, device=CUDA, dtype=torch.bfloat16, attention_kernel=kernel)
        runner = LayerRunner(build_layer(layer, setting), context, Parameters(weights))
        hidden = torch.empty(8192, spec.hidden, dtype=torch.bfloat16, device=CUDA)
        batch = runner.start(hidden)
        batch.run(runner.forward)
        batch.put_output_gradient(hidden)
        batch.run(runner.backward)
    assert batch.output.shape == batch.input_gradient.shape == hidden.shape
    gradients = runner.parameters.gradients
    assert {name: gradient.shape for name, gradient in gradients.items()} == {
        name: weight.shape for name, weight in weights.items() if name != "router.correction"
    }
    assert {gradient.dtype for gradient in gradients.values()} == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("model", ["llama-3.1-8b", "deepseek-v3"])
def test_activations_wait_in_pinned_host_memory(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, empty = list[int](), torch.empty

    def noting(*arguments: object, pin_memory: bool = False, **options: object) -> Tensor:
        tensor: Tensor = empty(*arguments, **options)  # type: ignore[call-overload]
        if pin_memory:
            assert tensor.device.type == "cpu"
            pinned.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(torch, "empty", noting)
    spec = load_model(model)
    layer = timed_layer(spec)
    setting = _setting(spec.hidden)
    with FakeTensorMode(allow_non_fake_inputs=True):
        weights = _weights(layer, spec.hidden)
        context = LayerContext(
            layer=layer, setting=setting, device=CUDA, dtype=torch.bfloat16, attention_kernel=AttentionKernel.CUDNN
        )
        program = with_copies(build_layer(layer, setting), Recompute.NONE)
        runner, copies = LayerRunner(program, context, Parameters(weights)), HostCopies()
        hidden = torch.empty(8192, spec.hidden, dtype=torch.bfloat16, device=CUDA)
        batches = [runner.start(hidden, copies) for _ in range(2)]
        for batch in batches:
            batch.run(runner.forward)
            copies.end_forward(batch.offloaded)
        assert not batches[0].scope.values.names().intersection(OFFLOADED)
        num_bytes = sum(size for name, size in program.sizes().items() if name in batches[0].offloaded.names)
        assert num_bytes <= sum(pinned) < 2 * num_bytes
        for batch, following in ((batches[1], batches[0].offloaded), (batches[0], None)):
            copies.begin_backward(batch.offloaded, following)
            assert batch.scope.values["fc1_out"].device == CUDA
            batch.put_output_gradient(hidden)
            batch.run(runner.backward)
