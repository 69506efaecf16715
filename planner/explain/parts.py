"""The parts that a model is made of under a plan: each kind of layer with each strategy, the embedding, the head."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.layer_cost import LayerCost, Terms
from meshwright.costmodel.layer_passes import LayerPasses
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.offload import OFFLOADED
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.order.ordered_pass import OrderedPass
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.stage_cost import CostContext, PartCost, cost_context, ends_of
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.costmodel.value import Value
from meshwright.planner.explain.citations import CitedFigure
from meshwright.planner.explain.exposure import exposures
from meshwright.planner.explain.operators import OperatorTerm, operator_term
from meshwright.planner.explain.routing import routing_formulas
from meshwright.planner.explain.state import StateTerm, state_terms
from meshwright.planner.layer_words import RECOMPUTE_WORDS, layer_kind
from meshwright.planner.runners_up import strategy_text

Part = LayerSpec | ModelEnd
LINKS = ((Resource.NVLINK, "nvlink"), (Resource.NETWORK, "network"), (Resource.COPY_ENGINE, "pcie"))
NEGLIGIBLE_S = 1e-12
_SPLIT = (PassKind.FORWARD, PassKind.DGRAD, PassKind.WGRAD)
PASSES = {
    LayerPasses.JOINED: (PassKind.FORWARD, PassKind.BACKWARD),
    LayerPasses.SPLIT: _SPLIT,
    LayerPasses.OVERLAPPED: _SPLIT,
}
"""The passes that hold each operator of a layer once, by what the schedule runs."""


class KeptTensor(Value, frozen=True, kw_only=True):
    """An activation held from a micro-batch's forward to its backward."""

    name: str
    num_bytes: float


class PassTerm(Value, frozen=True, kw_only=True):
    """One pass of a part for one micro-batch.

    `seconds` are its terms by kind (`costmodel.layer_cost.Terms`), those that are not hidden adding up to `length_s`.
    `beyond_operators` is the part of them that does not come from the operators listed: ZeRO-2 and 3, offload,
    communication hidden beside another micro-batch.
    """

    name: str
    length_s: float
    seconds: dict[str, float]
    beyond_operators: dict[str, float]
    operators: tuple[OperatorTerm, ...]


class PartTerm(Value, frozen=True, kw_only=True):
    """A part of the model on one rank. `layers` are the numbers of the layers it stands for; none for the two ends.

    `label` tells it from the other parts: its kind, and of its strategy what others of that kind have otherwise.
    `overlap_saving_s`: what a forward beside a backward saves. `state_host_s`: host time of the update.
    `sum_of_ends_s`: the sum of gradients over both ends of the pipeline, a part of `optimizer_s`.
    """

    label: str
    kind: str
    strategy: str
    layers: tuple[int, ...]
    num_parameters: float
    passes: tuple[PassTerm, ...]
    overlap_saving_s: float
    kept: tuple[KeptTensor, ...]
    kept_bytes: float
    late_bytes: float
    transient_bytes: float
    state: tuple[StateTerm, ...]
    param_gather_s: float
    grad_reduce_s: float
    optimizer_s: float
    sum_of_ends_s: float
    state_host_s: float
    cites: tuple[CitedFigure, ...]

    @property
    def count(self) -> int:
        """How many layers of the model it stands for; an end is there once."""
        return max(1, len(self.layers))


def part_terms(configuration: TrainingConfiguration) -> tuple[PartTerm, ...]:
    """Every part in the order of the model."""
    context = cost_context(configuration)
    found = tuple(part_term(context, part, strategy, layers) for part, strategy, layers in _parts(configuration))
    return tuple(msgspec.structs.replace(term, label=_label(term, found)) for term in found)


def _label(term: PartTerm, parts: tuple[PartTerm, ...]) -> str:
    alike = [_distinction(part) for part in parts if part.kind == term.kind]
    differing = [word for word in _distinction(term) if not all(word in other for other in alike)]
    return f"{term.kind}; {', '.join(differing)}" if differing else term.kind


def _distinction(term: PartTerm) -> tuple[str, ...]:
    """A strategy's pieces, that on recomputation in words."""
    attention, ffn, recompute, *others = term.strategy.split(" / ")
    return attention, ffn, f"recomputes {RECOMPUTE_WORDS[Recompute(recompute)]}", *others


def _parts(configuration: TrainingConfiguration) -> Iterator[tuple[Part, LayerStrategy, tuple[int, ...]]]:
    ends = ends_of(configuration)
    yield ModelEnd.EMBEDDING, ends, ()
    strategies = (strategy for stage in configuration.stages for strategy in stage)
    alike: dict[tuple[LayerSpec, LayerStrategy], list[int]] = {}
    for number, key in enumerate(zip(configuration.model.layers, strategies, strict=True)):
        alike.setdefault(key, []).append(number)
    for (layer, strategy), numbers in alike.items():
        yield layer, strategy, tuple(numbers)
    yield ModelEnd.HEAD, ends, ()


def part_cost(context: CostContext, part: Part, strategy: LayerStrategy) -> PartCost:
    """The cost of a layer or of an end of the model."""
    if isinstance(part, LayerSpec):
        return context.layer(part, strategy)
    return context.embedding(strategy) if part is ModelEnd.EMBEDDING else context.head(strategy)


def part_term(context: CostContext, part: Part, strategy: LayerStrategy, layers: tuple[int, ...]) -> PartTerm:
    """One part, term by term."""
    cost, program = part_cost(context, part, strategy), context.program(part, strategy)
    cites: dict[str, CitedFigure] = {}
    ordered = context.ordered(part, strategy)
    passes = tuple(
        _pass_term(context, kind, one, cost.compute, strategy, cites)
        for kind, one in ordered.items()
        if kind in PASSES[context.passes_of(part)]
    )
    state = state_terms(context.state, program.weights, strategy)
    sum_of_ends_s = context.sum_of_ends_s(strategy) if isinstance(part, ModelEnd) else 0.0
    return PartTerm(
        label="",
        kind=layer_kind(part) if isinstance(part, LayerSpec) else part.value,
        strategy=strategy_text(strategy),
        layers=layers,
        num_parameters=program.weights.total,
        passes=passes,
        overlap_saving_s=cost.compute.overlap_saving_s,
        kept=_kept(context, part, strategy),
        kept_bytes=cost.compute.kept_bytes,
        late_bytes=cost.compute.late_bytes,
        transient_bytes=cost.compute.transient_bytes,
        state=state,
        param_gather_s=cost.state.param_gather_s,
        grad_reduce_s=cost.state.grad_reduce_s,
        optimizer_s=cost.state.optimizer_s,
        sum_of_ends_s=sum_of_ends_s,
        state_host_s=cost.state.optimizer_s - sum_of_ends_s - sum(term.update_s for term in state),
        cites=tuple(cites.values()),
    )


def _pass_term(
    context: CostContext,
    kind: PassKind,
    ordered: OrderedPass,
    cost: LayerCost,
    strategy: LayerStrategy,
    cites: dict[str, CitedFigure],
) -> PassTerm:
    terms: Terms = getattr(cost, kind.value)
    found, operators = exposures(ordered), []
    for operator in ordered.launched():
        routing = routing_formulas(operator, strategy, context.workload)
        exposure = found.get(operator.name)
        term, cited = operator_term(operator, context.cluster, context.runtime, exposure, routing)
        operators.append(term)
        cites.update({figure.name: figure for figure in cited})
    seconds = {name.removesuffix("_s"): getattr(terms, name) for name in Terms.__struct_fields__}
    return PassTerm(
        name=kind.value,
        length_s=terms.total_s,
        seconds=seconds,
        beyond_operators=_beyond(seconds, ordered),
        operators=tuple(operators),
    )


def _beyond(seconds: dict[str, float], ordered: OrderedPass) -> dict[str, float]:
    """What the pass exposes, hides and loses beside what its own operators do."""
    use = ordered.use()
    own = {"slowdown": use.slowdown_s}
    for resource, link in LINKS:
        own |= {f"exposed_{link}": use.exposed_s[resource], f"hidden_{link}": use.hidden_s[resource]}
    differences = {name: seconds[name] - own_s for name, own_s in own.items()}
    return {name: difference_s for name, difference_s in differences.items() if abs(difference_s) > NEGLIGIBLE_S}


def _kept(context: CostContext, part: Part, strategy: LayerStrategy) -> tuple[KeptTensor, ...]:
    """What is held on the GPU, the largest first; what waits in host memory is not."""
    program = context.program(part, strategy)
    recompute = strategy.recompute if isinstance(part, LayerSpec) else Recompute.NONE
    away = OFFLOADED if isinstance(part, LayerSpec) and strategy.offload else ()
    sizes = program.sizes()
    held = [(sizes[name], name) for name in plan_backward(program, recompute).kept if name not in away]
    return tuple(
        KeptTensor(name=name, num_bytes=size) for size, name in sorted(held, key=lambda item: (-item[0], item[1]))
    )
