"""The mesh under other numbers of GPUs and other degrees: data parallelism takes the change up."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.strategy import Mesh

AXES = ("pp", "dp", "tp", "sp", "cp", "ep", "etp")


def held_mesh(mesh: Mesh, num_gpus: int, given: Mapping[str, int]) -> Mesh:
    """The mesh on `num_gpus` GPUs with the given degrees; dp, unless given, is what the others leave.

    Raises `StrategyError` where that is no whole number, or where all degrees are given and are not the GPUs.
    """
    degrees = {axis: given.get(axis, getattr(mesh, axis)) for axis in AXES}
    replica = degrees["pp"] * degrees["cp"] * degrees["sp"] * degrees["tp"]
    if "dp" not in given:
        degrees["dp"] = _data_degree(degrees, replica, num_gpus, given)
    elif replica * degrees["dp"] != num_gpus:
        raise StrategyError(
            "mesh",
            "dp",
            f"{_product(degrees)} x dp {degrees['dp']} = {replica * degrees['dp']} GPUs, but cluster.num_gpus is"
            f" {num_gpus}; leave mesh.dp out, or set cluster.num_gpus as well",
        )
    return msgspec.structs.replace(mesh, **degrees)


def _data_degree(degrees: Mapping[str, int], replica: int, num_gpus: int, given: Mapping[str, int]) -> int:
    if num_gpus % replica == 0:
        return num_gpus // replica
    below = num_gpus // replica * replica
    ways = " or ".join(str(near) for near in (below, below + replica) if near)
    raise StrategyError(
        "mesh" if given else "cluster",
        "dp" if given else "num_gpus",
        f"{num_gpus} GPUs are not a multiple of the {replica} of a replica ({_product(degrees)}), so dp cannot take"
        f" the change up; the nearest are {ways}",
    )


def _product(degrees: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {degrees[axis]}" for axis in ("pp", "cp", "sp", "tp"))
