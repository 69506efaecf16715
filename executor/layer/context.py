"""What the bindings of a layer need to know beside its tensors: shapes, numerics, communicators, kernels chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ParamSpec, TypeVar

import torch

from meshwright.costmodel.errors import ModelError, StrategyError
from meshwright.costmodel.model import LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.attention_shape import AttentionShape, attention_shape
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime_limits import parts_of_layer
from meshwright.costmodel.strategy import Dispatch
from meshwright.executor.layer.functions.compiled import compiled
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameters import Block
from meshwright.executor.layer.rope_scaling import NO_SCALING, RopeScaling
from meshwright.executor.layer.router_losses import NO_LOSSES, RouterLosses

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class AttentionKernel(StrEnum):
    """What computes attention. FORMULA: plain products and a softmax, any device, any format; the truth."""

    CUDNN = "cudnn"
    FA2 = "fa2"
    FORMULA = "formula"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingChoice:
    """What a model description leaves open about routing, and whether it is overruled.

    normalize: the weights of the chosen experts add up to `scale`. balanced: tokens go to experts in turn, whatever the
    router says (it is still computed, and the weights are its own), so that every expert has as many rows.
    """

    normalize: bool = True
    scale: float = 1.0
    balanced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContext:
    """One layer on one rank. `fuse`: memory-bound functions run compiled, not operator by operator.

    `token_weight`: the share of one token in the step's loss, for the losses of the router. `capacity_factor`: bounds
    the tokens of an expert, infinite where nothing is dropped.

    `latent_norm_epsilon` is that of the norms of MLA's latents, which DeepSeek's models leave at its default.
    `vocabulary`: the model's, for its two ends.
    """

    layer: LayerSpec
    setting: ProgramSetting
    device: torch.device
    dtype: torch.dtype
    groups: LayerGroups = field(default_factory=LayerGroups)
    attention_kernel: AttentionKernel = AttentionKernel.FORMULA
    routing: RoutingChoice = RoutingChoice()
    router_losses: RouterLosses = NO_LOSSES
    token_weight: float = 1.0
    capacity_factor: float = math.inf
    fuse: bool = False
    norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling = NO_SCALING
    latent_norm_epsilon: float = 1e-6
    vocabulary: int = 0

    def __post_init__(self) -> None:
        check_supported(self.layer, self.setting)

    @property
    def shape(self) -> AttentionShape:
        """Heads and widths of this rank's attention."""
        return attention_shape(self.setting, self.layer.attention)

    @property
    def score_scale(self) -> float:
        """What the products of queries and keys are multiplied by."""
        return float(self.layer.attention.head_dim**-0.5) * self.rope_scaling.score_factor

    @property
    def moe(self) -> MoeFfnSpec:
        """The mixture of experts of a layer that has one."""
        if not isinstance(self.layer.ffn, MoeFfnSpec):
            raise ModelError("layer", "ffn", "is dense; expected a mixture of experts")
        return self.layer.ffn

    @property
    def experts_per_rank(self) -> int:
        """Routed experts on this rank."""
        return self.moe.num_experts // self.groups.expert.size

    @property
    def drops_tokens(self) -> bool:
        """Whether experts have a bounded capacity. Forced balance needs none."""
        return math.isfinite(self.capacity_factor) and not self.routing.balanced

    @property
    def tensor_ranks(self) -> Communicator:
        """The ranks of attention's tensor parallelism."""
        return self.groups.tensor

    @property
    def vocabulary_rows(self) -> slice:
        """This rank's part of the vocabulary."""
        return Block(count=self.vocabulary, even=False).rows(self.tensor_ranks)

    def fused(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """The function compiled, which its caller asks for where `fuse` is set."""
        return compiled(function)


def check_supported(layer: LayerSpec, setting: ProgramSetting) -> None:
    """Raise for what the bindings do not run yet."""
    strategy = setting.strategy
    for name, what in parts_of_layer(layer, setting.seq_len, setting.precision).items():
        error, where = (StrategyError, "layer") if name == "precision" else (ModelError, "attention")
        raise error(where, name, f"the executor does not run {what} yet")
    choices = {
        "gate_before_fc2": (
            not setting.gate_before_fc2
            and strategy.ep * strategy.etp > 1
            and strategy.dispatch is not Dispatch.ALL_TO_ALL,
            "a gate behind FC2 with gathered or deduplicated tokens",
        ),
    }
    for name, (asked, what) in choices.items():
        if asked:
            raise StrategyError("layer", name, f"the executor does not run {what} yet")
