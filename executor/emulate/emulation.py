"""From a plan that does not fit here to one that does, and which of its operators are still those of the plan.

An operator counts as the plan's where its work is equal: shapes, bytes, and for a collective the size and the place of
its group. All others are run as well, since their layer needs them, but their times are none of the plan's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec
from msgspec import UNSET

from meshwright.costmodel.alone import timing
from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.order.order_book import ModelEnd, OrderBook, OrderEntry
from meshwright.costmodel.program.operators import CollectiveWork, CopyWork, Operator
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import cost_context, stage_costs
from meshwright.costmodel.step import hop_times_s, predict
from meshwright.costmodel.strategy import Mesh
from meshwright.costmodel.units import format_bytes
from meshwright.costmodel.value import Value
from meshwright.executor.emulate.cut import cut_layer, cut_mesh, cut_strategy
from meshwright.executor.train.operator_times import AlikeParts, OperatorTimes, alike_parts
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan, configuration_of

LAYERS = "layers"
"""What to emulate: one layer of each kind. Otherwise the number of a virtual stage."""

MOST_MICRO_BATCHES = 4


class PredictedOnly(Value, frozen=True, kw_only=True):
    """Something of the plan's step that was not run here as the plan has it: seconds of one run, and why not."""

    part: str
    name: str
    predicted_s: float
    reason: str


class EmulationRecord(Value, frozen=True, kw_only=True):
    """What `run.json` has of an emulation. `layers`: the numbers in the plan's model of those that ran.

    `expert_imbalance`: rows of the busiest rank over the mean, as the plan's predictions have them; what ran here had
    the rows that its own routing gave.
    """

    what: str
    plan_mesh: Mesh
    plan_micro_batches: int
    layers: tuple[int, ...]
    plan_layers: int
    experts_cut: bool
    expert_imbalance: float
    predicted_only: tuple[PredictedOnly, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulation:
    """`full`: the plan's configuration; `plan`: what runs in its stead; `parts`: of `full`, with the titles of `plan`'s
    parts that stand for them.
    """

    full: TrainingConfiguration
    plan: Plan
    parts: tuple[AlikeParts, ...]
    record: EmulationRecord
    same: frozenset[tuple[str, str]]

    def of_the_plan(self, operators: Sequence[OperatorTimes]) -> tuple[OperatorTimes, ...]:
        """Those whose work is the plan's."""
        return tuple(one for one in operators if (one.part, one.name) in self.same)


def emulate(plan: Plan, where: str, num_ranks: int, what: str) -> Emulation:
    """The part of a plan that `what` says on at most so many ranks; raises `PlanError` where that cannot be honest."""
    full = configuration_of(plan)
    if full.mesh.num_gpus <= num_ranks:
        raise PlanError(where, "mesh", f"--emulate: the plan's {full.mesh.num_gpus} ranks are here; run it without")
    mesh = cut_mesh(full.mesh, num_ranks, where)
    numbers = _layers(full, what, where)
    reduced = _reduced(full, mesh, numbers, where)
    prediction = predict(reduced)
    if not prediction.fits:
        needed, limit = max(prediction.peak_memory_bytes), prediction.memory_limit_bytes
        problem = f"--emulate: {what} here needs {format_bytes(needed)} a rank, there are {format_bytes(limit)}"
        raise PlanError(where, "mesh", f"{problem}; --emulate {LAYERS} needs least")
    parts = _standing_for(full, numbers)
    pairs = list(_programs(full, reduced, parts))
    same = frozenset((part.name, name) for part, one, other in pairs for name in _same(one, other))
    return Emulation(
        full=full,
        plan=build_plan(reduced, prediction, plan.search),
        parts=parts,
        same=same,
        record=EmulationRecord(
            what=what,
            plan_mesh=full.mesh,
            plan_micro_batches=full.num_micro_batches,
            layers=numbers,
            plan_layers=full.model.num_layers,
            experts_cut=reduced.mesh.ep < full.mesh.ep,
            expert_imbalance=_imbalance(full),
            predicted_only=(*_other_operators(full, pairs, same, mesh.num_gpus), *_between_ranks(full)),
        ),
    )


def _layers(full: TrainingConfiguration, what: str, where: str) -> tuple[int, ...]:
    """The numbers of the layers that run."""
    if what == LAYERS:
        _, *layers, _ = alike_parts(full)
        return tuple(int(part.titles[0].removeprefix("layer ")) for part in layers)
    stages = range(len(full.stages))
    if not what.isdigit() or int(what) not in stages or not full.stages[int(what)]:
        expected = f"{LAYERS} or a virtual stage with layers, 0 to {stages[-1]}"
        raise PlanError(where, "pipeline", f"--emulate: {what} is neither; expected {expected}")
    first = sum(map(len, full.stages[: int(what)]))
    return tuple(range(first, first + len(full.stages[int(what)])))


def _reduced(full: TrainingConfiguration, mesh: Mesh, numbers: tuple[int, ...], where: str) -> TrainingConfiguration:
    """Those layers in one stage on the cut mesh, with a few of the micro-batches."""
    strategies = tuple(chain.from_iterable(full.stages))
    layers = tuple(cut_layer(full.model.layers[number], full.mesh, mesh, where) for number in numbers)
    micro_batches = min(full.num_micro_batches, MOST_MICRO_BATCHES)
    workload = msgspec.structs.replace(
        full.workload,
        global_batch=mesh.dp * full.pipeline.micro_batch * micro_batches,
        expert_imbalance=_imbalance(full),
    )
    if mesh.ep < full.mesh.ep:
        workload = msgspec.structs.replace(workload, expert_load=UNSET)
    reduced = msgspec.structs.replace(
        full,
        model=msgspec.structs.replace(full.model, layers=layers),
        cluster=full.cluster.with_gpus(mesh.num_gpus),
        workload=workload,
        mesh=mesh,
        sharding=msgspec.structs.replace(full.sharding, shard_degree=0),
        pipeline=Pipeline(schedule=ScheduleKind.ONE_F_ONE_B, micro_batch=full.pipeline.micro_batch),
        stages=(tuple(cut_strategy(strategies[number], mesh) for number in numbers),),
        orders=OrderBook(),
    )
    return msgspec.structs.replace(reduced, orders=_orders(full, reduced, _standing_for(full, numbers)))


def _imbalance(full: TrainingConfiguration) -> float:
    """Rows of the busiest rank over the mean that the plan expects in its most uneven layers.

    Predictions here expect the same, whatever the number of experts; the rows that come are those of the routing here.
    """
    context = cost_context(full)
    strategies = chain.from_iterable(full.stages)
    pairs = dict.fromkeys(zip(full.model.layers, strategies, strict=True))
    return max(context.setting(layer, strategy).expert_imbalance for layer, strategy in pairs)


def _standing_for(full: TrainingConfiguration, numbers: tuple[int, ...]) -> tuple[AlikeParts, ...]:
    """The plan's parts that run, with the titles that the executor gives to what runs in their stead."""
    titles = {f"layer {number}": f"layer {index}" for index, number in enumerate(numbers)}
    found = []
    for part in alike_parts(full):
        own = tuple(titles[title] for title in part.titles if title in titles)
        if isinstance(part.part, ModelEnd):
            found.append(part)
        elif own:
            found.append(msgspec.structs.replace(part, titles=own))
    return tuple(found)


def _programs(
    full: TrainingConfiguration, reduced: TrainingConfiguration, parts: Sequence[AlikeParts]
) -> Iterator[tuple[AlikeParts, LayerProgram, LayerProgram]]:
    """Each part with its program in the plan and here."""
    of_title = {title: part for part in alike_parts(reduced) for title in part.titles}
    plan_context, context = cost_context(full), cost_context(reduced)
    for part in parts:
        here = of_title[part.titles[0]]
        yield part, plan_context.program(part.part, part.strategy), context.program(here.part, here.strategy)


def _orders(full: TrainingConfiguration, reduced: TrainingConfiguration, parts: Sequence[AlikeParts]) -> OrderBook:
    """The plan's orders, of those parts that have the same operators here."""
    of_title = {title: part for part in alike_parts(reduced) for title in part.titles}
    entries = []
    for part, one, other in _programs(full, reduced, parts):
        order, here = full.orders.find(part.part, part.strategy), of_title[part.titles[0]]
        if order is not None and order.backward is not None and _names(one) == _names(other):
            entries.append(OrderEntry(part=here.part, strategy=here.strategy, order=order))
    return OrderBook(entries=tuple(entries))


def _names(program: LayerProgram) -> set[str]:
    return {operator.name for operator in (*program.forward, *program.backward)}


def _same(plan: LayerProgram, here: LayerProgram) -> Iterator[str]:
    """The names of the operators whose work is the same, but for copies to and from the host: a neighbour's."""
    works = {operator.name: operator.work for operator in (*here.forward, *here.backward)}
    for operator in (*plan.forward, *plan.backward):
        if works.get(operator.name) == operator.work and not isinstance(operator.work, CopyWork):
            yield operator.name


def _other_operators(
    full: TrainingConfiguration,
    pairs: Sequence[tuple[AlikeParts, LayerProgram, LayerProgram]],
    same: frozenset[tuple[str, str]],
    num_ranks: int,
) -> Iterator[PredictedOnly]:
    context = cost_context(full)
    for part, program, _ in pairs:
        for operator in (*program.forward, *program.backward):
            if (part.name, operator.name) not in same:
                yield PredictedOnly(
                    part=part.name,
                    name=operator.name,
                    predicted_s=timing(operator.work, context.cluster, context.runtime).time_s,
                    reason=_reason(operator, full.mesh, num_ranks),
                )


def _reason(operator: Operator, full: Mesh, num_ranks: int) -> str:
    if isinstance(operator.work, CollectiveWork) and operator.work.group.size > num_ranks:
        return f"over {operator.work.group.size} ranks"
    if isinstance(operator.work, CopyWork):
        return "of the neighbouring layer, which may be another here"
    return f"its size depends on all experts of ep {full.ep}"


def _between_ranks(full: TrainingConfiguration) -> Iterator[PredictedOnly]:
    """What dp and pp add once a step or a micro-batch."""
    for stage, cost in enumerate(stage_costs(full)):
        for name, seconds in (("gradient reduction", cost.grad_reduce_s), ("parameter gather", cost.param_gather_s)):
            if seconds:
                reason = f"over the copies of dp {full.mesh.dp}, once a step"
                yield PredictedOnly(part=f"stage {stage}", name=name, predicted_s=seconds, reason=reason)
    for stage, seconds in enumerate(hop_times_s(full)):
        if seconds:
            reason = "one stage runs here, once a micro-batch each way"
            yield PredictedOnly(part=f"stage {stage}", name="message to the next", predicted_s=seconds, reason=reason)
