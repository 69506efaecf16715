"""Process groups, made once for each set of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.distributed as dist

from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.layer.groups import ALONE, Communicator, LayerGroups
from meshwright.executor.ranks.place import Place


class Communicators:
    """The communicators of one rank.

    All that a plan needs are made at once, and by every rank in the same order, those of others too: torch numbers
    groups by how many a process has made. `end_devices` hold the model's two ends; `key_heads`: the numbers of key
    heads that its layers have.
    """

    def __init__(
        self,
        place: Place,
        strategies: Sequence[LayerStrategy],
        end_devices: tuple[int, ...],
        key_heads: Iterable[int] = (),
    ) -> None:
        self.place = place
        self._end_devices = end_devices
        self._made: dict[tuple[int, ...], Communicator] = {}
        counts = tuple(dict.fromkeys(key_heads))
        for strategy in strategies:
            for count in counts:
                self._make(place.all_lines(_key_copies(strategy, count), 1))
            for size, stride in _lines(strategy).values():
                self._make(place.all_lines(size, stride))
            for split in (1, strategy.tp, strategy.ffn_tp, strategy.ep * strategy.etp):
                self._make(place.all_lines(place.mesh.stage_gpus // split, split))
        self._make(place.all_across(tuple(range(place.mesh.pp))))
        self._make(place.all_across(end_devices))

    def _make(self, groups: Iterable[tuple[int, ...]]) -> None:
        for ranks in groups:
            if len(ranks) > 1 and ranks not in self._made:
                group = _group(ranks)
                own = self.place.rank in ranks
                self._made[ranks] = (
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
        return self.copies(1)

    def copies(self, split: int) -> Communicator:
        """The ranks that hold the same parameters, where `split` neighbours share one copy."""
        return self._of(self.place.copies(split))

    def layer(self, strategy: LayerStrategy, key_heads: int = 0) -> LayerGroups:
        """The groups of a layer under a strategy; of an end, which has no key heads."""
        copies = _key_copies(strategy, key_heads) if key_heads else 1
        found = {axis: self._of(self.place.line(*line)) for axis, line in _lines(strategy).items()}
        return LayerGroups(**found, key_value=self._of(self.place.line(copies, 1)))


def _key_copies(strategy: LayerStrategy, key_heads: int) -> int:
    """Neighbouring tensor-parallel ranks that hold the same key heads."""
    return max(1, strategy.tp // key_heads)


def _lines(strategy: LayerStrategy) -> dict[str, tuple[int, int]]:
    """Size and stride of each of a layer's groups."""
    tp, sp = strategy.tp, strategy.sp
    return {
        "tensor": (tp, 1),
        "sequence": (sp, tp),
        "context": (strategy.cp, tp * sp),
        "ffn": (strategy.ffn_tp, 1),
        "expert": (strategy.ep, strategy.etp),
        "expert_tensor": (strategy.etp, 1),
        "routed": (strategy.ep * strategy.etp, 1),
    }


def _group(ranks: tuple[int, ...]) -> dist.ProcessGroup | None:
    return dist.group.WORLD if len(ranks) == dist.get_world_size() else dist.new_group(list(ranks))
