"""The routed experts of a layer by themselves, from router to combine: what is timed, checked and compared.

Ranks hold E / size experts each and T tokens of their own. Every implementation takes tokens and the gradient of its
output and leaves the same quantities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.model import LayerSpec, MoeFfnSpec
from meshwright.costmodel.presets import load_model
from meshwright.executor.layer.collectives import all_gather_rows, all_reduce
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import full_weights, own_weights
from meshwright.executor.layer.reference import ReferenceLayer

WEIGHT_SEED, INPUT_SEED = 31, 32
ROUTER, CORRECTION, FC1, FC2 = "router", "router.correction", "experts_fc1", "experts_fc2"
NAMES = (ROUTER, CORRECTION, FC1, FC2)
PASSES = 3
"""Products of a forward, of the gradients of rows and of those of weights: as many FLOPs each."""
MATRICES = 3
"""Of a gated expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeBlock:
    """The experts of a layer on one of `ranks`. The layer's shared experts are left out."""

    name: str
    layer: LayerSpec
    hidden: int
    ranks: Communicator
    device: torch.device
    dtype: torch.dtype

    @property
    def moe(self) -> MoeFfnSpec:
        """The experts."""
        if not isinstance(self.layer.ffn, MoeFfnSpec):
            raise ModelError(self.name, "ffn", "is dense; expected a mixture of experts")
        return self.layer.ffn

    @property
    def experts_per_rank(self) -> int:
        """Experts on this rank."""
        return self.moe.num_experts // self.ranks.size

    def flops(self, num_tokens: int) -> float:
        """Of a forward and a backward of the experts' products, of one rank's share of all ranks' tokens."""
        rows = num_tokens * self.moe.top_k
        return 2.0 * PASSES * MATRICES * rows * self.hidden * self.moe.intermediate

    def whole_weights(self) -> dict[str, Tensor]:
        """Weights of all experts, the same on every rank."""
        specs = tuple(spec for spec in layer_parameters(self.layer, self.hidden) if spec.name in NAMES)
        return full_weights(specs, self.device, self.dtype, WEIGHT_SEED)

    def own_part(self, whole: dict[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of them."""
        specs = tuple(spec for spec in layer_parameters(self.layer, self.hidden) if spec.name in NAMES)
        return own_weights(specs, whole, LayerGroups(expert=self.ranks, routed=self.ranks))

    def inputs(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Tokens of this rank and the gradient of their outputs, (T, H)."""
        generator = torch.Generator(self.device).manual_seed(INPUT_SEED + self.ranks.rank)
        both = torch.randn((2, num_tokens, self.hidden), generator=generator, device=self.device, dtype=torch.float32)
        return both[0].to(self.dtype), (both[1] * self.hidden**-0.5).to(self.dtype)


def moe_block(model: str, num_experts: int, ranks: Communicator, device: torch.device, dtype: torch.dtype) -> MoeBlock:
    """The routed experts of a preset's first layer that has some, with so many of them."""
    spec = load_model(model)
    layer = next((layer for layer in spec.layer_types if layer.is_moe), None)
    if layer is None or not isinstance(layer.ffn, MoeFfnSpec):
        raise ModelError(model, "layers", "have no mixture of experts")
    ffn = msgspec.structs.replace(layer.ffn, num_experts=num_experts, shared_intermediate=0, shared_gate=False)
    layer = msgspec.structs.replace(layer, ffn=ffn)
    name = f"{model}, {num_experts} experts"
    return MoeBlock(name=name, layer=layer, hidden=spec.hidden, ranks=ranks, device=device, dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeResults:
    """What a forward and a backward leave. gradients: of this rank's weights, by name. experts_TK: that were chosen."""

    output_TH: Tensor
    input_gradient_TH: Tensor
    gradients: dict[str, Tensor]
    experts_TK: Tensor


Implementation = Callable[[Tensor, Tensor], MoeResults]
"""Runs a forward and a backward on tokens and the gradient of their outputs, both (T, H)."""


def block_errors(block: MoeBlock, whole: dict[str, Tensor], run: Implementation, num_tokens: int) -> dict[str, float]:
    """Relative errors (Frobenius norm) of all results against autograd of the float32 reference on all ranks' tokens.

    The reference goes by the experts that the implementation chose.
    """
    found = run(*block.inputs(num_tokens))
    x, upstream, experts = (
        all_gather_rows(own, block.ranks) for own in (*block.inputs(num_tokens), found.experts_TK.contiguous())
    )
    leaves = {name: weight.detach().float().requires_grad_() for name, weight in whole.items()}
    leaf = x.float().requires_grad_()
    reference = ReferenceLayer(layer=block.layer, weights=leaves, micro_batch=1)
    output = reference.routed_experts(leaf, experts)
    output.backward(upstream.float())
    assert leaf.grad is not None
    rank, tokens = block.ranks.rank, slice(block.ranks.rank * num_tokens, (block.ranks.rank + 1) * num_tokens)
    here = slice(rank * block.experts_per_rank, (rank + 1) * block.experts_per_rank)
    router = all_reduce(found.gradients[ROUTER].float(), block.ranks)
    pairs = {
        "output": (found.output_TH, output.detach()[tokens]),
        "grad:input": (found.input_gradient_TH, leaf.grad[tokens]),
        f"grad:{ROUTER}": (router, leaves[ROUTER].grad),
        f"grad:{FC1}": (found.gradients[FC1], _part(leaves[FC1].grad, here)),
        f"grad:{FC2}": (found.gradients[FC2], _part(leaves[FC2].grad, here)),
    }
    return {name: _error(own, truth) for name, (own, truth) in pairs.items()}


def _part(gradient: Tensor | None, here: slice) -> Tensor | None:
    return None if gradient is None else gradient[here]


def _error(found: Tensor, truth: Tensor | None) -> float:
    assert truth is not None
    return float((found.float() - truth).norm() / truth.norm())
