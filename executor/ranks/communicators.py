"""Process groups, made once for each set of ranks, by the ranks in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.layer.groups import ALONE, Communicator, LayerGroups
from meshwright.executor.ranks.place import Place


class Communicators:
    """The communicators of one rank.

    All that a plan needs are made at once and in the same order by all ranks, kind by kind: a rank is in one group of
    each kind, so that no ranks wait for each other in a circle.
    """

    def __init__(self, place: Place, strategies: Sequence[LayerStrategy]) -> None:
        self.place = place
        self._made: dict[tuple[int, ...], Communicator] = {}
        for strategy in strategies:
            self.layer(strategy)
            for split in (1, strategy.tp, strategy.ffn_tp, strategy.ep * strategy.etp):
                self.copies(split)
        self.pipeline  # noqa: B018  made here, with the others

    def of(self, ranks: tuple[int, ...]) -> Communicator:
        """The communicator of these ranks, this one among them."""
        if len(ranks) == 1:
            return ALONE
        if ranks not in self._made:
            self._made[ranks] = Communicator(size=len(ranks), rank=ranks.index(self.place.rank), group=_group(ranks))
        return self._made[ranks]

    @property
    def world(self) -> Communicator:
        """All ranks."""
        return self.of(tuple(range(self.place.mesh.num_gpus)))

    @property
    def pipeline(self) -> Communicator:
        """The ranks that pass each other micro-batches: one of each stage."""
        return self.of(self.place.across_stages(tuple(range(self.place.mesh.pp))))

    @property
    def stage(self) -> Communicator:
        """All ranks of the pipeline stage."""
        return self.of(self.place.copies(1))

    def copies(self, split: int) -> Communicator:
        """The ranks that hold the same parameters, where `split` neighbours share one copy."""
        return self.of(self.place.copies(split))

    def layer(self, strategy: LayerStrategy) -> LayerGroups:
        """The groups of a layer under a strategy."""
        line = self.place.line
        return LayerGroups(
            tensor=self.of(line(strategy.tp, 1)),
            sequence=self.of(line(strategy.sp, strategy.tp)),
            ffn=self.of(line(strategy.ffn_tp, 1)),
            expert=self.of(line(strategy.ep, strategy.etp)),
        )


def _group(ranks: tuple[int, ...]) -> dist.ProcessGroup:
    if len(ranks) == dist.get_world_size():
        world = dist.group.WORLD
        assert world is not None  # the process group is initialised: its size was asked for
        return world
    return dist.new_group(list(ranks), use_local_synchronization=True)
