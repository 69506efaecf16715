"""When two configurations shard model state alike."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding


def same_sharding(one: TrainingConfiguration, other: TrainingConfiguration) -> bool:
    """Whether both shard alike; where every parameter is on one rank only, there is nothing to shard."""
    if one.sharding.offload_optimizer is not other.sharding.offload_optimizer:
        return False
    return _without_effect(one) or _effective(one) == _effective(other)


def _without_effect(configuration: TrainingConfiguration) -> bool:
    mesh = configuration.mesh
    experts = mesh.edp if configuration.model.is_moe else 1
    return mesh.dp * mesh.cp * mesh.sp == 1 and experts == 1


def _effective(configuration: TrainingConfiguration) -> Sharding:
    """A degree that takes in all replicas is none."""
    mesh, sharding = configuration.mesh, configuration.sharding
    whole = sharding.shard_degree == mesh.dp * mesh.cp * mesh.sp
    return msgspec.structs.replace(sharding, shard_degree=0) if whole else sharding
