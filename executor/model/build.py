"""The model of one rank: its stages, and the buffers that hold their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate.schedules import placement
from meshwright.costmodel.stage_cost import ends_of
from meshwright.executor.layer.bindings.embedding import TABLE
from meshwright.executor.layer.bindings.router import CORRECTION
from meshwright.executor.layer.exchange_room import ExchangeRooms
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.groups import ALONE, LayerGroups
from meshwright.executor.layer.host_copies import HostCopies
from meshwright.executor.layer.host_reads import HostReads
from meshwright.executor.layer.parameters import Parameters, ParameterSpec
from meshwright.executor.layer.router_losses import LOAD
from meshwright.executor.layer.streams import Streams
from meshwright.executor.model.describe import ModelDescriber, PlannedPart
from meshwright.executor.model.initial import initial_part
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.model.part import Part
from meshwright.executor.model.stage import Stage
from meshwright.executor.model.stage_passes import Routed
from meshwright.executor.observe.observer import StepObserver
from meshwright.executor.ranks.communicators import Communicators
from meshwright.executor.state import buckets
from meshwright.executor.state.choice import StateChoice
from meshwright.executor.state.flat import FlatKind, FlatParameters, Holders, OwnedParameter
from meshwright.executor.state.model_state import ModelState

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


class RankModel:
    """What one rank holds: a stage for each of its chunks, and the buffers of their parameters.

    `streams` None: operators run one after another. `has_room`: what layers exchange has room for more rows than there
    are, so that the host need not wait for their number; `rooms`: for how many. `constants`: what gets no gradient, by
    name; `router_constants`: the same by layer's title and name in the layer. To make one is a collective.
    """

    def __init__(
        self,
        configuration: TrainingConfiguration,
        communicators: Communicators,
        numerics: Numerics,
        *,
        seed: int,
        routed: Routed,
        watch: StepObserver,
        streams: Streams | None = None,
        has_room: bool = False,
    ) -> None:
        self.configuration = configuration
        self.communicators = communicators
        self.numerics = numerics
        self._seed = seed
        describer = ModelDescriber(configuration, communicators, numerics)
        planned = {stage: describer.stage(stage) for stage in self.virtual_stages}
        self.constants: dict[str, Tensor] = {}
        self.router_constants: dict[str, dict[str, Tensor]] = {}
        self._choice = StateChoice(sharding=configuration.sharding, runtime=configuration.runtime, dtype=numerics.dtype)
        owned = {part.description.title: self._owned(part) for parts in planned.values() for part in parts}
        self.flats = self._make_flats(owned)
        self.state = ModelState(
            self.flats,
            {part: self._flats_with(names) for part, names in owned.items()},
            self._choice,
            watch.part,
            num_micro_batches=configuration.num_micro_batches,
        )
        for flat in self.flats:
            flat.fill(self._initial)
        self.state.spread()
        exchanging = [part for parts in planned.values() for part in parts if part.description.exchanges_rows]
        most_ranks = max((part.description.context.groups.expert.size for part in exchanging), default=0)
        self.rooms = ExchangeRooms(len(exchanging) if has_room else 0, most_ranks, numerics.device)
        room = {id(part): self.rooms.of_layer(number) for number, part in enumerate(exchanging) if has_room}
        last, host_copies = len(configuration.stages) - 1, HostCopies()
        self.stages = tuple(
            Stage(
                [
                    Part(
                        part.description,
                        self._parameters(part),
                        streams,
                        HostReads(watch.exchanging, room.get(id(part))),
                    )
                    for part in parts
                ],
                is_first=stage == 0,
                is_last=stage == last,
                token_weight=1.0 / configuration.workload.tokens,
                routed=routed,
                passing=self.state.passing,
                watch=watch,
                host_copies=host_copies,
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
        return self.communicators.layer(ends_of(self.configuration))

    def _owned(self, part: PlannedPart) -> dict[str, tuple[FlatKind, OwnedParameter]]:
        """The trained parameters of a part by name; those that are not trained become constants."""
        owned = {}
        for name, spec in part.parameters.items():
            if spec.name in UNTRAINED:
                like = torch.empty((), dtype=statistics_type(self.numerics.dtype), device=self.numerics.device)
                self.constants[name] = like.new_full(spec.shape, spec.fill or 0.0)
                of_layer = self.router_constants.setdefault(part.description.title, {})
                of_layer[spec.name] = self.constants[name]
            else:
                one = OwnedParameter(name=name, spec=spec, groups=part.groups)
                owned[name] = self._kind(name, spec, part), one
        return owned

    def _make_flats(
        self, parts: Mapping[str, Mapping[str, tuple[FlatKind, OwnedParameter]]]
    ) -> tuple[FlatParameters, ...]:
        """The buffers, in the order in which a forward needs them."""
        kinds: dict[FlatKind, list[list[OwnedParameter]]] = {}
        place: dict[str, int] = {}
        for index, owned in enumerate(parts.values()):
            found: dict[FlatKind, list[OwnedParameter]] = {}
            for name, (kind, one) in owned.items():
                if name not in place:  # a tied table is in two parts
                    place[name] = index
                    found.setdefault(kind, []).append(one)
            for kind, ones in found.items():
                kinds.setdefault(kind, []).append(ones)
        least = 0 if self._choice.shards_gradients or self._choice.shards_weights else buckets.LEAST_ELEMENTS
        flats = [
            self._make_flat(kind, bucket) for kind, owned in kinds.items() for bucket in buckets.buckets(owned, least)
        ]
        return tuple(sorted(flats, key=lambda flat: place[flat.owned[0].name]))

    def _flats_with(self, names: Iterable[str]) -> tuple[FlatParameters, ...]:
        wanted = set(names)
        return tuple(flat for flat in self.flats if wanted.intersection(one.name for one in flat.owned))

    def _kind(self, name: str, spec: ParameterSpec, part: PlannedPart) -> FlatKind:
        return FlatKind(
            split=spec.num_parts(part.groups),
            decays=spec.fill is None,
            tied=name == TABLE
            and self.configuration.model.tied_embeddings
            and len(end_devices(self.configuration)) > 1,
        )

    def _make_flat(self, kind: FlatKind, owned: tuple[OwnedParameter, ...]) -> FlatParameters:
        shards, replicas = self.communicators.holders(kind.split)
        ends = self.communicators.ends if kind.tied else ALONE
        return FlatParameters(
            kind,
            owned,
            Holders(shards=shards, replicas=replicas, ends=ends),
            keeps_whole=not self._choice.shards_weights or shards.size == 1,
            on_host=self._choice.sharding.offload_optimizer,
            dtype=self.numerics.dtype,
            device=self.numerics.device,
        )

    def _initial(self, owned: OwnedParameter, like: Tensor) -> Tensor:
        num_layers = self.configuration.model.num_layers
        return initial_part(owned.spec, owned.name, owned.groups, num_layers=num_layers, seed=self._seed, like=like)

    def _parameters(self, part: PlannedPart) -> Parameters:
        title = part.description.title
        weights, accumulators = self.constants | self.state.weights_of(title), self.state.accumulators_of(title)
        return Parameters(
            {spec.name: weights[name] for name, spec in part.parameters.items()},
            {spec.name: accumulators[name] for name, spec in part.parameters.items() if name in accumulators},
        )
