"""Process groups, made once for each set of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.distributed as dist

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.layer.groups import ALONE, Communicator, LayerGroups
from meshwright.executor.ranks.place import Place, holder_lines


class Communicators:
    """The communicators of one rank.

    All that a plan needs are made at once, and by every rank in the same order, those of others too: torch numbers
    groups by how many a process has made. `end_devices` hold the model's two ends. The sharded state has groups of its
    own, so that its collectives wait for none of a layer, nor these for them.
    """

    def __init__(
        self,
        place: Place,
        strategies: Sequence[LayerStrategy],
        end_devices: tuple[int, ...],
        sharding: Sharding,
    ) -> None:
        self.place = place
        self._end_devices = end_devices
        self._sharding = sharding
        self._made: dict[tuple[int, ...], Communicator] = {}
        self._of_state: dict[tuple[int, ...], Communicator] = {}
        for strategy in strategies:
            for size, stride in _lines(strategy):
                self._make(place.all_lines(size, stride))
            for split in (1, strategy.tp, strategy.ffn_tp, strategy.ep * strategy.etp):
                for size, stride in holder_lines(place.mesh, split, sharding):
                    self._make(place.all_lines(size, stride), self._of_state)
        self._make(place.all_lines(place.mesh.stage_gpus, 1))
        self._make(place.all_across(tuple(range(place.mesh.pp))))
        self._make(place.all_across(end_devices))

    def _make(
        self, groups: Iterable[tuple[int, ...]], of_state: dict[tuple[int, ...], Communicator] | None = None
    ) -> None:
        made = self._made if of_state is None else of_state
        for ranks in groups:
            if len(ranks) > 1 and ranks not in made:
                group = _group(ranks) if of_state is None else dist.new_group(list(ranks))
                own = self.place.rank in ranks
                made[ranks] = (
                    Communicator(size=len(ranks), rank=ranks.index(self.place.rank), group=group) if own else ALONE
                )

    def _of(self, ranks: tuple[int, ...]) -> Communicator:
        return ALONE if len(ranks) == 1 else self._made[ranks]

    @property
    def world(self) -> Communicator:
        """All ranks."""
        size = self.place.mesh.num_gpus
        return ALONE if size == 1 else Communicator(size=size, rank=self.place.rank, group=dist.group.WORLD)

    @property
    def pipeline(self) -> Communicator:
        """The ranks that pass each other micro-batches: one of each stage."""
        return self._of(self.place.across_stages(tuple(range(self.place.mesh.pp))))

    @property
    def ends(self) -> Communicator:
        """The ranks that hold the same parts of the model's two ends; only they may ask."""
        return self._of(self.place.across_stages(self._end_devices))

    @property
    def stage(self) -> Communicator:
        """All ranks of the pipeline stage."""
        return self._of(self.place.copies(1))

    def holders(self, split: int) -> tuple[Communicator, Communicator]:
        """The ranks that hold the same parameters, where `split` neighbours share one copy: shards, and replicas."""
        lines = (self.place.line(*line) for line in holder_lines(self.place.mesh, split, self._sharding))
        shards, replicas = (ALONE if len(ranks) == 1 else self._of_state[ranks] for ranks in lines)
        return shards, replicas

    def layer(self, strategy: LayerStrategy) -> LayerGroups:
        """The groups of a layer under a strategy."""
        tensor, sequence, ffn, expert = (self._of(self.place.line(*line)) for line in _lines(strategy))
        return LayerGroups(tensor=tensor, sequence=sequence, ffn=ffn, expert=expert)


def _lines(strategy: LayerStrategy) -> tuple[tuple[int, int], ...]:
    """Size and stride of the groups of tensor, sequence, FFN and expert parallelism."""
    return (strategy.tp, 1), (strategy.sp, strategy.tp), (strategy.ffn_tp, 1), (strategy.ep, strategy.etp)


def _group(ranks: tuple[int, ...]) -> dist.ProcessGroup | None:
    return dist.group.WORLD if len(ranks) == dist.get_world_size() else dist.new_group(list(ranks))
