"""The model of one rank: its stages, and the buffers that hold their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate.schedules import placement
from meshwright.costmodel.stage_cost import end_strategy
from meshwright.costmodel.strategy import ZeroStage
from meshwright.executor.layer.bindings.embedding import TABLE
from meshwright.executor.layer.bindings.router import CORRECTION
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.groups import ALONE, LayerGroups
from meshwright.executor.layer.parameters import Parameters, ParameterSpec
from meshwright.executor.layer.router_losses import LOAD
from meshwright.executor.layer.streams import Streams
from meshwright.executor.model.describe import ModelDescriber, PlannedPart
from meshwright.executor.model.initial import initial_part
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.model.part import Part
from meshwright.executor.model.stage import Routed, Stage, Watch
from meshwright.executor.ranks.communicators import Communicators
from meshwright.executor.state.flat import FlatKind, FlatParameters, OwnedParameter

BUCKET_ELEMENTS = 2**28
"""Parameters of one buffer, unless one alone has more: what is copied for a collective is never much more than this."""

UNTRAINED = (CORRECTION, LOAD)
"""The bias that balances experts, and their load in the step before, get no gradient. They stay wide: the bias decides
between scores that nearly agree."""


def stage_placement(configuration: TrainingConfiguration) -> tuple[tuple[int, ...], ...]:
    """The virtual stages of each device's chunks."""
    pipeline = configuration.pipeline
    return placement(pipeline.schedule, configuration.mesh.pp, pipeline.virtual_stages)


def end_devices(configuration: TrainingConfiguration) -> tuple[int, ...]:
    """The devices of the first and of the last virtual stage, which may be one."""
    ends = (0, len(configuration.stages) - 1)
    placed = enumerate(stage_placement(configuration))
    return tuple(device for device, stages in placed if any(end in stages for end in ends))


def _buckets(owned: Iterable[OwnedParameter]) -> Iterator[tuple[OwnedParameter, ...]]:
    """Parameters in order, as many together as a buffer takes."""
    bucket: list[OwnedParameter] = []
    for one in owned:
        if bucket and sum(other.room for other in bucket) + one.room > BUCKET_ELEMENTS:
            yield tuple(bucket)
            bucket = []
        bucket.append(one)
    yield tuple(bucket)


class RankModel:
    """What one rank holds: a stage for each of its chunks, and the buffers of their parameters.

    `streams` None: operators run one after another.
    `constants`: what gets no gradient, by name; `router_constants`: the same by layer's title and name in the layer.
    """

    def __init__(
        self,
        configuration: TrainingConfiguration,
        communicators: Communicators,
        numerics: Numerics,
        *,
        seed: int,
        routed: Routed,
        watch: Watch | None = None,
        streams: Streams | None = None,
    ) -> None:
        self.configuration = configuration
        self.communicators = communicators
        self.numerics = numerics
        self._seed = seed
        describer = ModelDescriber(configuration, communicators, numerics)
        planned = {stage: describer.stage(stage) for stage in self.virtual_stages}
        self.constants: dict[str, Tensor] = {}
        self.router_constants: dict[str, dict[str, Tensor]] = {}
        self.flats = self._make_flats(part for parts in planned.values() for part in parts)
        for flat in self.flats:
            flat.fill(self._initial)
        last = len(configuration.stages) - 1
        self.stages = tuple(
            Stage(
                [Part(part.description, self._parameters(part), streams) for part in parts],
                is_first=stage == 0,
                is_last=stage == last,
                token_weight=1.0 / configuration.workload.tokens,
                routed=routed,
                watch=watch,
            )
            for stage, parts in planned.items()
        )

    @property
    def virtual_stages(self) -> tuple[int, ...]:
        """The virtual stage of each chunk of this rank's device."""
        return stage_placement(self.configuration)[self.communicators.place.stage]

    @property
    def end_groups(self) -> LayerGroups:
        """The ranks that the model's two ends are spread over."""
        return self.communicators.layer(end_strategy(self.configuration.mesh))

    def _make_flats(self, parts: Iterable[PlannedPart]) -> tuple[FlatParameters, ...]:
        kinds: dict[FlatKind, dict[str, OwnedParameter]] = {}
        for part in parts:
            for name, spec in part.parameters.items():
                if spec.name in UNTRAINED:
                    like = torch.empty((), dtype=statistics_type(self.numerics.dtype), device=self.numerics.device)
                    self.constants[name] = like.new_full(spec.shape, spec.fill or 0.0)
                    of_layer = self.router_constants.setdefault(part.description.title, {})
                    of_layer[spec.name] = self.constants[name]
                    continue
                owned = OwnedParameter(name=name, spec=spec, groups=part.groups)
                kinds.setdefault(self._kind(name, spec, part), {})[name] = owned
        return tuple(
            self._make_flat(kind, bucket) for kind, owned in kinds.items() for bucket in _buckets(owned.values())
        )

    def _kind(self, name: str, spec: ParameterSpec, part: PlannedPart) -> FlatKind:
        return FlatKind(
            split=spec.num_parts(part.groups),
            decays=spec.fill is None,
            tied=name == TABLE
            and self.configuration.model.tied_embeddings
            and len(end_devices(self.configuration)) > 1,
        )

    def _make_flat(self, kind: FlatKind, owned: tuple[OwnedParameter, ...]) -> FlatParameters:
        communicators = self.communicators
        return FlatParameters(
            kind,
            owned,
            copies=communicators.copies(kind.split),
            ends=communicators.ends if kind.tied else ALONE,
            sums_wide=self.configuration.runtime.fp32_gradients,
            shards=self.configuration.sharding.zero is not ZeroStage.NONE,
            dtype=self.numerics.dtype,
            device=self.numerics.device,
        )

    def _initial(self, owned: OwnedParameter, like: Tensor) -> Tensor:
        num_layers = self.configuration.model.num_layers
        return initial_part(owned.spec, owned.name, owned.groups, num_layers=num_layers, seed=self._seed, like=like)

    def _parameters(self, part: PlannedPart) -> Parameters:
        weights, accumulators = {}, {}
        for name, spec in part.parameters.items():
            if name in self.constants:
                weights[spec.name] = self.constants[name]
                continue
            flat = next(flat for flat in self.flats if name in flat.weight_of)
            weights[spec.name] = flat.weight_of[name]
            accumulators[spec.name] = flat.accumulator_of[name]
        return Parameters(weights, accumulators)
