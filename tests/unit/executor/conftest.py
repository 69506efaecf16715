"""Shared by the tests of layers: tiny layers of every kind, run by their programs and by the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, MoeFfnSpec, RouterScore
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import Operator
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.layer.context import LayerContext, RoutingChoice
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import Parameters, full_weights
from meshwright.executor.layer.reference import ReferenceLayer
from meshwright.executor.layer.rope_scaling import NO_SCALING, RopeScaling
from meshwright.executor.layer.run import LayerRunner

HIDDEN, SEQ_LEN, MICRO_BATCH = 32, 12, 2
CPU = torch.device("cpu")
torch.set_num_threads(1)  # the tensors are tiny

GQA = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, value_head_dim=8)
MLA = AttentionSpec(
    num_heads=4,
    num_kv_heads=4,
    head_dim=12,
    value_head_dim=8,
    query_lora_rank=10,
    kv_lora_rank=14,
    rope_head_dim=4,
)
DENSE = DenseFfnSpec(intermediate=24)
MOE = MoeFfnSpec(num_experts=4, top_k=2, intermediate=12)


def _with(spec: AttentionSpec, **changes: object) -> AttentionSpec:
    return type(spec)(**{**{name: getattr(spec, name) for name in spec.__struct_fields__}, **changes})


def _moe(**changes: object) -> LayerSpec:
    fields = {name: getattr(MOE, name) for name in MOE.__struct_fields__}
    return LayerSpec(attention=GQA, ffn=MoeFfnSpec(**{**fields, **changes}))


LAYERS: dict[str, LayerSpec] = {
    "dense": LayerSpec(attention=GQA, ffn=DENSE),
    "dense, all key heads": LayerSpec(attention=_with(GQA, num_kv_heads=4), ffn=DENSE),
    "dense, one key head": LayerSpec(attention=_with(GQA, num_kv_heads=1), ffn=DENSE),
    "dense, biases": LayerSpec(
        attention=_with(GQA, qkv_bias=True, output_bias=True), ffn=DenseFfnSpec(intermediate=24, bias=True)
    ),
    "dense, layer norms, gelu": LayerSpec(
        attention=GQA, ffn=DenseFfnSpec(intermediate=24, gated=False), norm_bias=True
    ),
    "dense, norms of heads": LayerSpec(attention=_with(GQA, qk_norm=True), ffn=DENSE),
    "dense, norms of heads without weights": LayerSpec(
        attention=_with(GQA, qk_norm=True, qk_norm_weights=False), ffn=DENSE
    ),
    "dense, four norms": LayerSpec(attention=GQA, ffn=DENSE, num_norms=4),
    "dense, latent": LayerSpec(attention=MLA, ffn=DENSE),
    "dense, latent, direct query": LayerSpec(attention=_with(MLA, query_lora_rank=0), ffn=DENSE),
    "dense, latent, biases": LayerSpec(attention=_with(MLA, qkv_bias=True), ffn=DENSE),
    "moe": _moe(),
    "moe, wide": _moe(intermediate=16),
    "moe, top 1": _moe(top_k=1),
    "moe, every expert": _moe(top_k=4),
    "moe, empty experts": _moe(num_experts=32, top_k=1),
    "moe, sigmoid": _moe(score=RouterScore.SIGMOID, score_correction_bias=True, num_experts=8, top_k=3),
    "moe, groups": _moe(score=RouterScore.SIGMOID, num_experts=8, num_expert_groups=4, groups_per_token=2),
    "moe, softmax groups": _moe(num_experts=8, num_expert_groups=4, groups_per_token=2),
    "moe, shared": _moe(shared_intermediate=20),
    "moe, gated shared": _moe(shared_intermediate=20, shared_gate=True),
    "moe, biases": _moe(bias=True, router_bias=True),
    "moe, gelu": _moe(gated=False),
    "moe, gelu, biases": _moe(gated=False, bias=True),
    "moe, four norms": LayerSpec(attention=GQA, ffn=MOE, num_norms=4),
    "moe, latent, shared": LayerSpec(
        attention=MLA, ffn=MoeFfnSpec(num_experts=4, top_k=2, intermediate=12, shared_intermediate=20)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a layer computes: its output, the gradients of its input and of every weight."""

    output: Tensor
    input_gradient: Tensor
    gradients: dict[str, Tensor]

    def on_cpu(self) -> Results:
        """The same in float64 on the CPU."""
        gradients = {name: gradient.cpu().double() for name, gradient in self.gradients.items()}
        return Results(
            output=self.output.cpu().double(),
            input_gradient=self.input_gradient.cpu().double(),
            gradients=gradients,
        )

    def assert_close(self, other: Results, tolerance: float) -> None:
        """Equal but for rounding, every tensor by its own norm."""
        assert self.gradients.keys() == other.gradients.keys()
        pairs = {"output": (self.output, other.output), "input": (self.input_gradient, other.input_gradient)}
        pairs |= {name: (self.gradients[name], other.gradients[name]) for name in self.gradients}
        for name, (own, expected) in pairs.items():
            error = (own - expected).norm() / expected.norm().clamp_min(1.0)
            assert error <= tolerance, f"{name} differs by {error:.2e}"


@dataclass(frozen=True, kw_only=True)
class TinyLayer:
    """A layer with weights, an input and the gradient of its output, all of one seed."""

    layer: LayerSpec
    setting: ProgramSetting
    routing: RoutingChoice
    dtype: torch.dtype
    weights: dict[str, Tensor]
    hidden: Tensor
    upstream: Tensor
    rope_scaling: RopeScaling = NO_SCALING
    latent_norm_epsilon: float = 1e-6
    device: torch.device = CPU

    @property
    def program(self) -> LayerProgram:
        """The program that is run."""
        return build_layer(self.layer, self.setting)

    def run(self, order: Callable[[LayerProgram], Iterable[Operator]] | None = None) -> Results:
        """The operators, in program order unless another is given."""
        runner = self.runner()
        batch = runner.start(self.hidden)
        batch.put_output_gradient(self.upstream)
        batch.run((*runner.forward, *runner.backward) if order is None else order(self.program))
        gradients = runner.parameters.gradients
        return Results(output=batch.output, input_gradient=batch.input_gradient, gradients=gradients)

    def runner(self) -> LayerRunner:
        """The layer on one rank."""
        context = LayerContext(
            layer=self.layer,
            setting=self.setting,
            device=self.device,
            dtype=self.dtype,
            routing=self.routing,
            rope_scaling=self.rope_scaling,
            latent_norm_epsilon=self.latent_norm_epsilon,
        )
        return LayerRunner(self.program, context, Parameters(self.weights), self.setting.strategy.recompute)

    def run_reference(self) -> Results:
        """The same by autograd."""
        leaves = {name: weight.clone().requires_grad_() for name, weight in self.weights.items()}
        hidden = self.hidden.clone().requires_grad_()
        reference = ReferenceLayer(
            layer=self.layer,
            weights=leaves,
            micro_batch=self.setting.micro_batch,
            routing=self.routing,
            wide=self.dtype,
            rope_scaling=self.rope_scaling,
            latent_norm_epsilon=self.latent_norm_epsilon,
        )
        output = reference(hidden)
        output.backward(self.upstream)
        gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        assert hidden.grad is not None
        return Results(output=output.detach(), input_gradient=hidden.grad, gradients=gradients)

    def on(self, device: torch.device, dtype: torch.dtype) -> TinyLayer:
        """The same numbers on another device, in another format."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype)

        weights = {name: moved(weight) for name, weight in self.weights.items()}
        hidden, upstream = moved(self.hidden), moved(self.upstream)
        return replace(self, device=device, dtype=dtype, weights=weights, hidden=hidden, upstream=upstream)

    def with_setting(self, **changes: object) -> TinyLayer:
        """The same under another setting."""
        fields = {name: getattr(self.setting, name) for name in self.setting.__struct_fields__}
        return replace(self, setting=ProgramSetting(**{**fields, **changes}))


def make_tiny_layer(
    layer: LayerSpec,
    dtype: torch.dtype = torch.float64,
    routing: RoutingChoice | None = None,
    strategy: LayerStrategy | None = None,
    micro_batch: int = MICRO_BATCH,
) -> TinyLayer:
    """A tiny layer with weights from a fixed seed."""
    setting = ProgramSetting(
        hidden=HIDDEN,
        micro_batch=micro_batch,
        seq_len=SEQ_LEN,
        strategy=strategy or LayerStrategy(),
        gpus_per_node=8,
    )
    generator = torch.Generator().manual_seed(7)
    shape = (SEQ_LEN * micro_batch, HIDDEN)
    return TinyLayer(
        layer=layer,
        setting=setting,
        routing=routing or RoutingChoice(),
        dtype=dtype,
        weights=full_weights(layer_parameters(layer, HIDDEN), CPU, dtype, seed=3),
        hidden=torch.randn(shape, generator=generator, dtype=dtype),
        upstream=torch.randn(shape, generator=generator, dtype=dtype),
    )


@pytest.fixture
def tiny_layer() -> Callable[..., TinyLayer]:
    """Makes a tiny layer by the name of its kind."""

    def make(name: str, **changes: object) -> TinyLayer:
        return make_tiny_layer(LAYERS[name], **changes)  # type: ignore[arg-type]

    return make


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `kind` runs for every kind of layer."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", list(LAYERS))
