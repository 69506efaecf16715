"""Copies of tokens for the holders of their experts."""

from __future__ import annotations

import pytest
import torch

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import AttentionSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import Dispatch, LayerStrategy
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.copies import balanced_sizes, holders_of
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.row_maps import balanced_experts

NUM_RANKS, NUM_TOKENS, EXPERTS, TOP_K = 4, 7, 8, 3


def context(rank: int, gpus_per_node: int, groups: LayerGroups | None = None) -> LayerContext:
    """A rank of an expert group."""
    inside = min(gpus_per_node, NUM_RANKS)
    node, place = divmod(rank, inside)
    return LayerContext(
        layer=LayerSpec(
            attention=AttentionSpec(num_heads=2, num_kv_heads=2, head_dim=4, value_head_dim=4),
            ffn=MoeFfnSpec(num_experts=EXPERTS, top_k=TOP_K, intermediate=4),
        ),
        setting=ProgramSetting(
            hidden=8,
            micro_batch=1,
            seq_len=NUM_TOKENS,
            strategy=LayerStrategy(ep=NUM_RANKS, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
            gpus_per_node=gpus_per_node,
        ),
        device=torch.device("cpu"),
        dtype=torch.float32,
        groups=groups
        or LayerGroups(
            expert=Communicator(size=NUM_RANKS, rank=rank),
            expert_inside=Communicator(size=inside, rank=place),
            expert_across=Communicator(size=NUM_RANKS // inside, rank=node),
        ),
    )


def ranks_of_tokens() -> list[list[int]]:
    """The ranks of each token's choices under balanced routing, the same for the tokens of every rank."""
    experts = balanced_experts(NUM_TOKENS, EXPERTS, TOP_K, torch.device("cpu"))
    return (experts // (EXPERTS // NUM_RANKS)).tolist()


@pytest.mark.parametrize(
    ("gpus_per_node", "hops"), [(8, [""]), (4, [""]), (1, ["network"]), (2, ["network", "nvlink"])]
)
def test_hops_are_those_of_the_program(gpus_per_node: int, hops: list[str]) -> None:
    assert list(holders_of(context(0, gpus_per_node))) == hops


def test_nodes_without_groups_of_their_own_are_refused() -> None:
    groups = LayerGroups(expert=Communicator(size=NUM_RANKS, rank=0))
    with pytest.raises(StrategyError, match="dispatch"):
        holders_of(context(0, 2, groups))


@pytest.mark.parametrize("rank", range(NUM_RANKS))
def test_balanced_sizes_over_ranks(rank: int) -> None:
    layer, tokens = context(rank, 8), ranks_of_tokens()
    (holders,) = holders_of(layer).values()
    sizes = balanced_sizes(NUM_TOKENS, holders, layer)
    assert sizes.sent == [sum(target in token for token in tokens) for target in range(NUM_RANKS)]
    assert sizes.received == [sum(rank in token for token in tokens)] * NUM_RANKS
    assert sizes.num_rows == NUM_RANKS * sum(token.count(rank) for token in tokens)


@pytest.mark.parametrize("rank", range(NUM_RANKS))
def test_balanced_sizes_over_nodes(rank: int) -> None:
    layer, tokens, node = context(rank, 2), ranks_of_tokens(), rank // 2
    network, nvlink = (balanced_sizes(NUM_TOKENS, holders, layer) for holders in holders_of(layer).values())
    nodes = [{target // 2 for target in token} for token in tokens]
    assert network.sent == [sum(target in token for token in nodes) for target in range(2)]
    assert network.received == [sum(node in token for token in nodes)] * 2
    assert nvlink.sent == [2 * sum(node * 2 + target in token for token in tokens) for target in range(2)]
    assert nvlink.received == [2 * sum(rank in token for token in tokens)] * 2
    assert nvlink.num_rows == NUM_RANKS * sum(token.count(rank) for token in tokens)
