"""From a plan's configuration to what each virtual stage runs: programs, orders and contexts of its parts."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UnsetType

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.model import LayerSpec, MoeFfnSpec
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.stage_cost import CostContext, cost_context, ends_of, recompute_of
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import ParameterSpec
from meshwright.executor.layer.router_losses import LOAD
from meshwright.executor.model.end_parameters import embedding_parameters, end_name, head_parameters, layer_name
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.model.part import PartDescription
from meshwright.executor.model.shared_slots import run_order
from meshwright.executor.model.sm_shares import pass_sms
from meshwright.executor.ranks.communicators import Communicators


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPart:
    """A part of a stage with its parameters: their specs by the model's names for them."""

    description: PartDescription
    parameters: dict[str, ParameterSpec]

    @property
    def groups(self) -> LayerGroups:
        """The ranks that its operators and parameters are spread over."""
        return self.description.context.groups


class ModelDescriber:
    """Describes the parts of a configuration's model on one rank."""

    def __init__(self, configuration: TrainingConfiguration, communicators: Communicators, numerics: Numerics) -> None:
        self.configuration = configuration
        self.communicators = communicators
        self.numerics = numerics
        self._context = cost_context(configuration)

    def stage(self, virtual_stage: int) -> tuple[PlannedPart, ...]:
        """The parts of a virtual stage."""
        stages = self.configuration.stages
        first = sum(map(len, stages[:virtual_stage]))
        parts = [self._layer(first + index, strategy) for index, strategy in enumerate(stages[virtual_stage])]
        if virtual_stage == 0:
            parts.insert(0, self._end(ModelEnd.EMBEDDING, embedding_parameters(self.configuration.model)))
        if virtual_stage == len(stages) - 1:
            parts.append(self._end(ModelEnd.HEAD, head_parameters(self.configuration.model)))
        return tuple(parts)

    def _layer(self, index: int, strategy: LayerStrategy) -> PlannedPart:
        model = self.configuration.model
        layer = model.layers[index]
        specs = (*layer_parameters(layer, model.hidden), *self._load(layer))
        return PlannedPart(
            description=self._describe(f"layer {index}", layer, layer, strategy),
            parameters={layer_name(index, spec.name): spec for spec in specs},
        )

    @property
    def _capacity_factor(self) -> float:
        asked = self.numerics.capacity_factor
        return self.configuration.workload.capacity if isinstance(asked, UnsetType) else asked

    def _load(self, layer: LayerSpec) -> tuple[ParameterSpec, ...]:
        """The load of the step before, even at the first, where a loss needs it."""
        if not isinstance(layer.ffn, MoeFfnSpec) or not self.numerics.router_losses.needs_load:
            return ()
        return (ParameterSpec(name=LOAD, shape=(layer.ffn.num_experts,), fill=1.0),)

    def _end(self, end: ModelEnd, specs: tuple[ParameterSpec, ...]) -> PlannedPart:
        model, strategy = self.configuration.model, ends_of(self.configuration)
        return PlannedPart(
            description=self._describe(end.value, end, model.layers[-1], strategy),
            parameters={end_name(spec.name, model): spec for spec in specs},
        )

    def _describe(
        self, title: str, part: LayerSpec | ModelEnd, layer: LayerSpec, strategy: LayerStrategy
    ) -> PartDescription:
        context: CostContext = self._context
        numerics = self.numerics
        return PartDescription(
            title=title,
            program=context.program(part, strategy),
            context=LayerContext(
                layer=layer,
                setting=context.setting(layer, strategy),
                device=numerics.device,
                dtype=numerics.dtype,
                groups=self.communicators.layer(strategy, _key_heads(part)),
                vocabulary=self.configuration.model.vocab,
                attention_kernel=numerics.attention_kernel,
                routing=numerics.routing,
                router_losses=numerics.router_losses,
                token_weight=1.0 / self.configuration.workload.tokens,
                capacity_factor=self._capacity_factor,
                fuse=numerics.fuse,
                norm_epsilon=numerics.described.norm_epsilon,
                latent_norm_epsilon=numerics.described.latent_norm_epsilon,
                rope_theta=numerics.described.rope_theta,
                rope_scaling=numerics.described.rope_scaling,
            ),
            recompute=recompute_of(part, strategy),
            order=run_order(self.configuration, part, strategy),
            groups=self._groups(part, strategy),
        )

    def _groups(self, part: LayerSpec | ModelEnd, strategy: LayerStrategy) -> dict[PassKind, LayerGroups]:
        """The groups of each pass, on the SMs that the plan gives to its collectives."""
        context = self._context
        program, order = context.program(part, strategy), run_order(self.configuration, part, strategy)
        sms = pass_sms(self.configuration, program, recompute_of(part, strategy), order)
        heads = _key_heads(part)
        return {kind: self.communicators.layer(strategy, heads, num_sms) for kind, num_sms in sms.items()}


def _key_heads(part: LayerSpec | ModelEnd) -> int:
    return part.attention.num_kv_heads if isinstance(part, LayerSpec) else 0
