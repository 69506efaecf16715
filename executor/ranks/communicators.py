"""Process groups, made once for each set of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.distributed as dist

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.strategy import LayerStrategy, Mesh, place_over_replicas
from meshwright.executor.layer.groups import ALONE, Communicator, LayerGroups
from meshwright.executor.ranks.place import Place, holder_lines


class Communicators:
    """The communicators of one rank.

    All that a plan needs are made at once, and by every rank in the same order, those of others too: torch numbers
    groups by how many a process has made. `end_devices` hold the model's two ends; `key_heads`: the numbers of key
    heads that its layers have. `sms`: numbers of SMs that some layers of a strategy give to their collectives inside a
    node of `gpus_per_node`; each has communicators of its own. So has the sharded state: its collectives wait for none
    of a layer, nor these for them.
    """

    def __init__(
        self,
        place: Place,
        strategies: Sequence[LayerStrategy],
        end_devices: tuple[int, ...],
        sharding: Sharding,
        gpus_per_node: int,
        key_heads: Iterable[int] = (),
        sms: Sequence[tuple[LayerStrategy, int]] = (),
    ) -> None:
        self.place = place
        self._gpus_per_node = gpus_per_node
        self._end_devices = end_devices
        self._sharding = sharding
        self._made: dict[tuple[tuple[int, ...], int], Communicator] = {}
        self._of_state: dict[tuple[int, ...], Communicator] = {}
        counts = tuple(dict.fromkeys(key_heads))
        for strategy in strategies:
            for count in counts:
                self._make(place.all_lines(_key_copies(strategy, count), 1))
            for size, stride in _lines(strategy, place.mesh, gpus_per_node).values():
                self._make(place.all_lines(size, stride))
            for split in (1, strategy.tp, strategy.ffn_tp, strategy.ep * strategy.etp):
                for size, stride in holder_lines(place.mesh, split, sharding):
                    self._make_of_state(place.all_lines(size, stride))
        self._make(place.all_lines(place.mesh.stage_gpus, 1))
        self._make(place.all_across(tuple(range(place.mesh.pp))))
        self._make(place.all_across(end_devices))
        for strategy, num_sms in sms:
            for size, stride in _lines(strategy, place.mesh, gpus_per_node).values():
                lines = place.all_lines(size, stride)
                self._make((ranks for ranks in lines if _are_in_one_node(ranks, gpus_per_node)), num_sms)

    def _make(self, groups: Iterable[tuple[int, ...]], num_sms: int = 0) -> None:
        for ranks in groups:
            if len(ranks) > 1 and (ranks, num_sms) not in self._made:
                self._made[ranks, num_sms] = self._communicator(ranks, _group(ranks, num_sms))

    def _make_of_state(self, groups: Iterable[tuple[int, ...]]) -> None:
        for ranks in groups:
            if len(ranks) > 1 and ranks not in self._of_state:
                self._of_state[ranks] = self._communicator(ranks, _group_of_state(ranks))

    def _communicator(self, ranks: tuple[int, ...], group: dist.ProcessGroup | None) -> Communicator:
        if self.place.rank not in ranks:
            return ALONE
        return Communicator(size=len(ranks), rank=ranks.index(self.place.rank), group=group)

    def _of(self, ranks: tuple[int, ...], num_sms: int = 0) -> Communicator:
        """The communicator on so many SMs, where there is one; else that on as many as the library takes."""
        if len(ranks) == 1:
            return ALONE
        return self._made[ranks, num_sms if (ranks, num_sms) in self._made else 0]

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

    def layer(self, strategy: LayerStrategy, key_heads: int = 0, num_sms: int = 0) -> LayerGroups:
        """The groups of a layer under a strategy (of an end, which has no key heads).

        `num_sms`: SMs of its collectives inside a node, 0 for what the library takes.
        """
        copies = _key_copies(strategy, key_heads) if key_heads else 1
        lines = _lines(strategy, self.place.mesh, self._gpus_per_node)
        found = {axis: self._of(self.place.line(*line), num_sms) for axis, line in lines.items()}
        return LayerGroups(**found, key_value=self._of(self.place.line(copies, 1)))


def _key_copies(strategy: LayerStrategy, key_heads: int) -> int:
    """Neighbouring tensor-parallel ranks that hold the same key heads."""
    return max(1, strategy.tp // key_heads)


def _lines(strategy: LayerStrategy, mesh: Mesh, gpus_per_node: int) -> dict[str, tuple[int, int]]:
    """Size and stride of the groups of a layer, by their names in `LayerGroups`."""
    tp, sp, etp = strategy.tp, strategy.sp, strategy.etp
    expert = place_over_replicas(strategy.ep, etp, mesh.replica_gpus, mesh.data_stride, gpus_per_node)
    return {
        "tensor": (tp, 1),
        "sequence": (sp, tp),
        "context": (strategy.cp, tp * sp),
        "ffn": (strategy.ffn_tp, 1),
        "expert": (strategy.ep, etp),
        "expert_tensor": (etp, 1),
        "routed": (strategy.ep * etp, 1),
        "replica": (strategy.replica_gpus, 1),
        "expert_inside": (expert.ranks_per_node, etp),
        "expert_across": (expert.num_nodes, etp * expert.ranks_per_node),
    }


def _are_in_one_node(ranks: tuple[int, ...], gpus_per_node: int) -> bool:
    return gpus_per_node > 0 and len({rank // gpus_per_node for rank in ranks}) == 1


def _group(ranks: tuple[int, ...], num_sms: int) -> dist.ProcessGroup | None:
    if num_sms:
        return group_on_sms(ranks, num_sms)
    return dist.group.WORLD if len(ranks) == dist.get_world_size() else dist.new_group(list(ranks))


def _group_of_state(ranks: tuple[int, ...]) -> dist.ProcessGroup | None:
    made: dist.ProcessGroup | None = dist.new_group(list(ranks))
    return made


def group_on_sms(ranks: tuple[int, ...], num_sms: int) -> dist.ProcessGroup | None:
    """A group whose collectives NCCL runs on so many thread blocks, each of which takes an SM."""
    options = dist.ProcessGroupNCCL.Options()
    options.config.min_ctas = num_sms
    options.config.max_ctas = num_sms
    made: dist.ProcessGroup | None = dist.new_group(list(ranks), backend="nccl", pg_options=options)
    return made
