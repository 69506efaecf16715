"""The communicators of a layer and this rank's place in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.strategy import LayerStrategy

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Communicator:
    """`size` ranks of which this is number `rank`; a single rank needs no process group."""

    size: int = 1
    rank: int = 0
    group: ProcessGroup | None = None


ALONE = Communicator()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroups:
    """Tensor parallelism of attention, Ulysses, context parallelism, tensor parallelism of the FFN, experts.

    `key_value`: the tensor-parallel ranks that hold the same key heads, where there are fewer of these than ranks;
    `expert_tensor`: the ranks that share each expert's width (etp); `routed`: all ranks of a set of experts, ep x etp.
    `replica`: the ranks that share the tokens of a micro-batch, by their numbers. `expert_inside`: the ranks of the
    expert group on this rank's node; `expert_across`: those at the same place of other nodes.
    """

    tensor: Communicator = ALONE
    key_value: Communicator = ALONE
    sequence: Communicator = ALONE
    context: Communicator = ALONE
    ffn: Communicator = ALONE
    expert: Communicator = ALONE
    expert_tensor: Communicator = ALONE
    routed: Communicator = ALONE
    replica: Communicator = ALONE
    expert_inside: Communicator = ALONE
    expert_across: Communicator = ALONE


def groups_over_all_ranks(strategy: LayerStrategy, all_ranks: Communicator) -> LayerGroups:
    """The groups of a strategy whose every axis is cut over all ranks or not at all."""

    def over(axis: str, size: int) -> Communicator:
        if size not in (1, all_ranks.size):
            raise StrategyError("layer", axis, f"{size} is neither 1 nor all {all_ranks.size} ranks")
        return ALONE if size == 1 else all_ranks

    def of(axis: str) -> Communicator:
        return over(axis, getattr(strategy, axis))

    return LayerGroups(
        tensor=of("tp"),
        sequence=of("sp"),
        context=of("cp"),
        ffn=of("ffn_tp"),
        expert=of("ep"),
        expert_tensor=of("etp"),
        routed=over("ep", strategy.ep * strategy.etp),
        replica=of("replica_gpus"),
    )
