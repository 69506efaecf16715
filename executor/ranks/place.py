"""A rank's place in both views of the mesh, and its neighbours: numbers alone, no process groups.

Ranks of a pipeline stage are numbered with tp innermost, then sp, cp and dp; the experts' view of the same numbers has
etp innermost, then ep, then edp (parallel folding, arXiv 2504.14960). Every group of either view then is "so many
ranks, so far apart".
"""

from __future__ import annotations

from meshwright.costmodel.data_parallel import Sharding, num_shards
from meshwright.costmodel.strategy import Mesh, ZeroStage
from meshwright.costmodel.value import Value


class Place(Value, frozen=True, kw_only=True):
    """Rank number `rank` of a mesh.

    >>> place = Place(mesh=Mesh(pp=2, dp=2, sp=2, ep=4), rank=6)
    >>> place.stage, place.replica, place.line(2, 1), place.line(4, 1), place.line(2, 2)
    (1, 1, (6, 7), (4, 5, 6, 7), (4, 6))
    """

    mesh: Mesh
    rank: int

    @property
    def replica(self) -> int:
        """The number of its data-parallel replica."""
        return self.rank // self.mesh.data_stride % self.mesh.dp

    @property
    def stage(self) -> int:
        """The number of its device along the pipeline."""
        return self.rank // self.mesh.pipeline_stride % self.mesh.pp

    @property
    def member(self) -> int:
        """Its number among the ranks that share a micro-batch: tp, sp and cp together."""
        return self.rank % self.mesh.replica_gpus

    @property
    def in_stage(self) -> int:
        """Its number among the ranks of its stage."""
        return self.replica * self.mesh.replica_gpus + self.member

    def of_stage(self, in_stage: int, stage: int | None = None) -> int:
        """The rank that has a number in a stage, its own stage unless another is given."""
        replica, member = divmod(in_stage, self.mesh.replica_gpus)
        device = self.stage if stage is None else stage
        return device * self.mesh.pipeline_stride + replica * self.mesh.data_stride + member

    def line(self, size: int, stride: int) -> tuple[int, ...]:
        """The `size` ranks of its stage that lie `stride` apart, this one among them."""
        position = self.in_stage // stride % size
        first = self.in_stage - position * stride
        return tuple(self.of_stage(first + index * stride) for index in range(size))

    def all_lines(self, size: int, stride: int) -> tuple[tuple[int, ...], ...]:
        """What `line` is for any rank of any stage, each once.

        >>> Place(mesh=Mesh(pp=2, dp=2, tp=2), rank=0).all_lines(2, 2)
        ((0, 2), (1, 3), (4, 6), (5, 7))
        """
        ranks = range(self.mesh.num_gpus)
        return tuple(dict.fromkeys(Place(mesh=self.mesh, rank=rank).line(size, stride) for rank in ranks))

    def all_across(self, stages: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """What `across_stages` is for any rank, each once."""
        ranks = range(self.mesh.num_gpus)
        return tuple(dict.fromkeys(Place(mesh=self.mesh, rank=rank).across_stages(stages) for rank in ranks))

    def copies(self, split: int) -> tuple[int, ...]:
        """The ranks that hold the same parameters, where `split` neighbours share one copy."""
        return self.line(self.mesh.stage_gpus // split, split)

    def across_stages(self, stages: tuple[int, ...]) -> tuple[int, ...]:
        """The ranks that have its number in other stages."""
        return tuple(self.of_stage(self.in_stage, stage) for stage in stages)


def holder_lines(mesh: Mesh, split: int, sharding: Sharding) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and stride of the ranks that have a shard each of the same parameters, and of those with the same shard.

    `split` neighbours share one copy. Of copies, neighbours shard, as `costmodel.data_parallel` has it.

    >>> holder_lines(Mesh(dp=8), 2, Sharding(zero=ZeroStage.PARAMETERS, shard_degree=4))
    ((2, 2), (2, 4))
    """
    copies = mesh.stage_gpus // split
    shards = 1 if sharding.zero is ZeroStage.NONE else num_shards(mesh, sharding, copies)
    return (shards, split), (copies // shards, split * shards)
