"""Measured times of operators beside the predicted ones: a join on part of the model, pass and name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import inf
from statistics import median

import torch.distributed as dist

from meshwright.costmodel.alone import timing
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.hardware import Basis
from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.program.operators import Operator, Resource
from meshwright.costmodel.stage_cost import cost_context, ends_of, recompute_of
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.costmodel.value import Value
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.observe.operator_samples import OperatorKey, OperatorSamples
from meshwright.executor.observe.whereabouts import waits_for_ranks
from meshwright.planner.describe.section import ranges


class OperatorTimes(Value, frozen=True, kw_only=True):
    """An operator of the parts of the model that are alike, seconds of one run.

    `measured_s` is the median of runs on a rank, and over ranks the median again; of a collective, and of the choice of
    experts, the least over ranks, because the rank that comes last waits for no other. `longest_s` is the greatest over
    ranks. `predicted_s` is for the operator alone, on the plan's GPUs. `work` is the kind of its work, `runs` how often
    the stages of one pipeline together run it in a step. Times begin when the operator's `stream` comes to it: where
    the device waits for the host to launch, that is in them, and so is what the operators on other streams take from
    it.
    """

    part: str
    phase: PassKind
    name: str
    recomputes: bool
    work: str
    stream: Resource
    basis: Basis
    runs: int
    measured_s: float
    longest_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_s / self.measured_s - 1.0 if self.measured_s else inf

    @property
    def difference_s(self) -> float:
        """Seconds of a step by which prediction and measurement lie apart, without their sign."""
        return abs(self.predicted_s - self.measured_s) * self.runs


class AlikeParts(Value, frozen=True, kw_only=True):
    """Parts of the model with the same operators: layers alike under one strategy, or an end."""

    name: str
    part: LayerSpec | ModelEnd
    strategy: LayerStrategy
    titles: tuple[str, ...]


def alike_parts(configuration: TrainingConfiguration) -> tuple[AlikeParts, ...]:
    """The parts of a model in order; titles are those of the executor's parts."""
    ends = ends_of(configuration)
    strategies = (strategy for stage in configuration.stages for strategy in stage)
    layers: dict[tuple[LayerSpec, LayerStrategy], list[int]] = {}
    for index, pair in enumerate(zip(configuration.model.layers, strategies, strict=True)):
        layers.setdefault(pair, []).append(index)
    return (
        _end(ModelEnd.EMBEDDING, ends),
        *(
            AlikeParts(
                name=f"layer{'s' if len(numbers) > 1 else ''} {ranges(numbers)}",
                part=layer,
                strategy=strategy,
                titles=tuple(f"layer {number}" for number in numbers),
            )
            for (layer, strategy), numbers in layers.items()
        ),
        _end(ModelEnd.HEAD, ends),
    )


def _end(end: ModelEnd, strategy: LayerStrategy) -> AlikeParts:
    return AlikeParts(name=end.value, part=end, strategy=strategy, titles=(end.value,))


def rank_medians(samples: OperatorSamples, parts: Sequence[AlikeParts]) -> dict[OperatorKey, float]:
    """The medians of one rank, over parts alike; keys have the name of these for their title."""
    alike = {title: part.name for part in parts for title in part.titles}
    pooled: dict[OperatorKey, list[float]] = {}
    for key, seconds in samples.seconds.items():
        pooled.setdefault(_renamed(key, alike[key.title]), []).extend(seconds)
    return {key: median(seconds) for key, seconds in pooled.items()}


def _renamed(key: OperatorKey, title: str) -> OperatorKey:
    return OperatorKey(title=title, kind=key.kind, name=key.name, recomputes=key.recomputes, stream=key.stream)


def gather_medians(own: dict[OperatorKey, float], host: Communicator) -> list[dict[OperatorKey, float]]:
    """Those of all ranks on the first, its own alone elsewhere. A collective of a group that moves objects."""
    if host.size == 1:
        return [own]
    found: list[dict[OperatorKey, float]] = [own] * host.size
    dist.gather_object(own, found if host.rank == 0 else None, group=host.group, group_dst=0)
    return found if host.rank == 0 else [own]


def operator_times(
    configuration: TrainingConfiguration, ranks: Sequence[Mapping[OperatorKey, float]]
) -> tuple[OperatorTimes, ...]:
    """Every operator that was measured, in the order of the model and of its programs; `ranks` by parts alike."""
    context = cost_context(configuration)
    found = []
    for part in alike_parts(configuration):
        runs = len(part.titles) * configuration.num_micro_batches
        for (kind, operator), stream in product(_operators(configuration, part), Resource):
            key = OperatorKey(
                title=part.name, kind=kind, name=operator.name, recomputes=operator.recomputes, stream=stream
            )
            seconds = [rank[key] for rank in ranks if key in rank]
            if seconds:
                predicted = timing(operator.work, context.cluster, context.runtime)
                found.append(
                    OperatorTimes(
                        part=part.name,
                        phase=kind,
                        name=operator.name,
                        recomputes=operator.recomputes,
                        work=str(operator.work.__struct_config__.tag),
                        stream=stream,
                        basis=predicted.basis,
                        runs=runs,
                        measured_s=min(seconds) if waits_for_ranks(operator) else median(seconds),
                        longest_s=max(seconds),
                        predicted_s=predicted.time_s,
                    )
                )
    return tuple(found)


def _operators(configuration: TrainingConfiguration, part: AlikeParts) -> Iterator[tuple[PassKind, Operator]]:
    """The operators of every pass that some schedule runs."""
    context = cost_context(configuration)
    program, recompute = context.program(part.part, part.strategy), recompute_of(part.part, part.strategy)
    for kind in PassKind:
        if kind is not PassKind.JOINT:
            yield from ((kind, operator) for operator in pass_operators(program, recompute, kind))
