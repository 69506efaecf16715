"""Sparse halves by hand: b = 1, s = 1024, h = 512, 16 experts of 256, k = 2."""

from __future__ import annotations

from math import comb

import msgspec
import pytest

from meshwright.costmodel.formulas.experts import expected_distinct_holders
from meshwright.costmodel.model import AttentionSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import (
    Axis,
    Collective,
    CollectiveWork,
    CustomKernel,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryWork,
    Operator,
    Pass,
)
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Recompute

S, H, K, E, F = 1024, 512, 2, 16, 256
ROW = H * 2
MOE = MoeFfnSpec(num_experts=E, top_k=K, intermediate=F)
SHARED = msgspec.structs.replace(MOE, shared_intermediate=512)


def _build(
    strategy: LayerStrategy, moe: MoeFfnSpec = MOE, imbalance: float = 1.0, *, gate_before_fc2: bool = True
) -> LayerProgram:
    attention = AttentionSpec(num_heads=8, num_kv_heads=8, head_dim=64, value_head_dim=64)
    setting = ProgramSetting(
        hidden=H,
        micro_batch=1,
        seq_len=S,
        strategy=strategy,
        gpus_per_node=8,
        expert_imbalance=imbalance,
        gate_before_fc2=gate_before_fc2,
    )
    return build_layer(LayerSpec(attention=attention, ffn=moe), setting)


def _operator(program: LayerProgram, name: str) -> Operator:
    return next(op for op in (*program.forward, *program.backward) if op.name == name)


def _exchanges(program: LayerProgram, *, forward: bool) -> list[tuple[str, Collective, float, Group]]:
    operators = program.forward if forward else program.backward
    return [
        (op.name, op.work.collective, op.work.num_bytes, op.work.group)
        for op in operators
        if op.axis is Axis.EXPERT and isinstance(op.work, CollectiveWork)
    ]


def _node(size: int) -> Group:
    return Group(size=size, ranks_per_node=size)


def test_one_rank_sorts_rows_and_exchanges_nothing() -> None:
    program = _build(LayerStrategy(), imbalance=3.0)
    assert _exchanges(program, forward=True) == []
    assert program.sizes()["ffn_in"] == S * K * ROW  # imbalance between ranks means nothing to one rank
    work = _operator(program, "experts_fc1").work
    assert work == GroupedGemmWork(num_groups=E, rows=S * K, n=2 * F, k=H)


def test_all_to_all_sends_a_row_for_each_chosen_expert() -> None:
    program = _build(LayerStrategy(ep=8))
    sent = S * K * ROW
    out = [("dispatch", Collective.ALL_TO_ALL, sent, _node(8)), ("combine", Collective.ALL_TO_ALL, sent, _node(8))]
    back = [
        ("combine.backward", Collective.ALL_TO_ALL, sent, _node(8)),
        ("dispatch.backward", Collective.ALL_TO_ALL, sent, _node(8)),
    ]
    assert _exchanges(program, forward=True) == out
    assert _exchanges(program, forward=False) == back
    assert _operator(program, "experts_fc2").work == GroupedGemmWork(num_groups=2, rows=S * K, n=H, k=F)


def test_gathering_moves_all_tokens_of_the_group() -> None:
    program = _build(LayerStrategy(sp=4, ep=8, dispatch=Dispatch.ALL_GATHER))
    everything = 8 * S / 4 * ROW
    assert _exchanges(program, forward=True) == [
        ("dispatch", Collective.ALL_GATHER, everything, _node(8)),
        ("combine", Collective.REDUCE_SCATTER, everything, _node(8)),
    ]
    assert _exchanges(program, forward=False) == [
        ("combine.backward", Collective.ALL_GATHER, everything, _node(8)),
        ("dispatch.backward", Collective.REDUCE_SCATTER, everything, _node(8)),
    ]
    assert program.sizes()["ffn_in"] == S / 4 * K * ROW


def test_experts_split_over_etp_gather_rows_and_sum_parts() -> None:
    program = _build(LayerStrategy(ep=2, etp=4))
    sent = S * K * ROW
    pairs = Group(size=2, ranks_per_node=2)
    assert _exchanges(program, forward=True) == [
        ("dispatch", Collective.ALL_TO_ALL, sent, pairs),
        ("dispatch.etp", Collective.ALL_GATHER, 4 * sent, _node(4)),
        ("combine.etp", Collective.REDUCE_SCATTER, 4 * sent, _node(4)),
        ("combine", Collective.ALL_TO_ALL, sent, pairs),
    ]
    fc1 = _operator(program, "experts_fc1").work
    assert fc1 == GroupedGemmWork(num_groups=8, rows=4 * S * K, n=2 * F // 4, k=H)
    assert program.weights.expert == 8 * 3 * H * F / 4
    sizes = program.sizes()
    assert (sizes["dispatch_in"], sizes["dispatch_out"]) == (sent, 4 * sent)
    assert (sizes["combine_in"], sizes["combine_out"]) == (4 * sent, sent)


def test_etp_alone_gathers_and_sums() -> None:
    program = _build(LayerStrategy(tp=4, etp=4))
    sent = S / 4 * K * ROW
    assert _exchanges(program, forward=True) == [
        ("dispatch.etp", Collective.ALL_GATHER, 4 * sent, _node(4)),
        ("combine.etp", Collective.REDUCE_SCATTER, 4 * sent, _node(4)),
    ]


def test_deduplicated_rows_go_once_to_each_rank_of_a_node() -> None:
    program = _build(LayerStrategy(ep=4, dispatch=Dispatch.ALL_TO_ALL_DEDUP))
    copies = 4 * (1 - comb(12, 2) / comb(16, 2))
    (_, kind, sent, group), _ = _exchanges(program, forward=True)
    assert (kind, group) == (Collective.ALL_TO_ALL, _node(4))
    assert sent == pytest.approx(copies * S * ROW)
    sizes = program.sizes()
    assert sizes["ffn_in"] == S * K * ROW  # a rank with two of a token's experts works on two rows
    assert sizes["dispatch_out"] == pytest.approx(copies * S * ROW)


def test_deduplicated_rows_cross_the_network_once_for_each_node() -> None:
    program = _build(LayerStrategy(ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP))
    to_nodes = 2 * (1 - comb(8, 2) / comb(16, 2)) * S * ROW
    to_ranks = 2.0 * S * ROW  # one expert a rank: a copy for each
    across, inside = Group(size=2, ranks_per_node=1), _node(8)
    kind = Collective.ALL_TO_ALL
    out = _exchanges(program, forward=True)
    assert [(name, kind, group) for name, kind, _, group in out] == [
        ("dispatch.network", kind, across),
        ("dispatch.nvlink", kind, inside),
        ("combine.nvlink", kind, inside),
        ("combine.network", kind, across),
    ]
    assert [sent for _, _, sent, _ in out] == pytest.approx([to_nodes, to_ranks, to_ranks, to_nodes])
    names = [name for name, *_ in _exchanges(program, forward=False)]
    assert names == [
        "combine.backward.network",
        "combine.backward.nvlink",
        "dispatch.backward.nvlink",
        "dispatch.backward.network",
    ]
    assert program.sizes()["dispatch_in"] == pytest.approx(to_nodes)
    skewed = _build(LayerStrategy(ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP), imbalance=2.0).sizes()
    assert skewed["dispatch_in"] == skewed["combine_out"] == pytest.approx(to_nodes)
    assert skewed["dispatch.network.out"] == skewed["combine.nvlink.out"] == pytest.approx(2 * to_nodes)
    assert skewed["dispatch_out"] == skewed["combine_in"] == pytest.approx(2 * to_ranks)


def test_the_busiest_rank_works_and_receives_more_but_sends_its_own() -> None:
    even, skewed = _build(LayerStrategy(ep=8)), _build(LayerStrategy(ep=8), imbalance=1.5)
    for name in ("ffn_in", "fc1_out", "dispatch_out", "combine_in"):
        assert skewed.sizes()[name] == 1.5 * even.sizes()[name]
    for name in ("dispatch_in", "combine_out", "ffn_out"):
        assert skewed.sizes()[name] == even.sizes()[name]
    assert _exchanges(skewed, forward=True)[0][2] == 1.5 * _exchanges(even, forward=True)[0][2]
    assert _build(LayerStrategy(ep=2), imbalance=5.0).sizes()["ffn_in"] == 2 * S * K * ROW  # all rows at most


def test_node_limited_routing_reaches_fewer_nodes() -> None:
    """By enumeration: 8 experts in 4 groups, 2 groups a token, 2 experts a token, on 2 nodes of 2 groups each."""
    hit = count = 0
    for one in range(4):
        for other in range(one + 1, 4):
            reachable = [2 * one, 2 * one + 1, 2 * other, 2 * other + 1]
            for first in range(4):
                for second in range(first + 1, 4):
                    hit += len({reachable[first] // 4, reachable[second] // 4})
                    count += 1
    limited = expected_distinct_holders(8, 2, 2, num_groups=4, groups_per_token=2)
    assert limited == pytest.approx(hit / count)
    assert limited < expected_distinct_holders(8, 2, 2)
    assert expected_distinct_holders(256, 8, 64, 8, 4) < expected_distinct_holders(256, 8, 64)


def test_shared_experts_use_the_gather_of_the_routed_ones() -> None:
    strategy = LayerStrategy(sp=8, ffn_tp=8, ep=8, dispatch=Dispatch.ALL_GATHER)
    program = _build(strategy, SHARED)
    gathers = [op.name for op in program.forward if _is(op, Collective.ALL_GATHER)]
    assert gathers == ["dispatch"]
    assert "ln2_out_ag" in _operator(program, "shared_fc1").reads
    scattered = [op.name for op in program.backward if _is(op, Collective.REDUCE_SCATTER)]
    assert scattered == ["dispatch.backward", "reduce_scatter.shared_grad_ln2_out"]


def test_shared_experts_gather_for_themselves_over_other_ranks() -> None:
    strategy = LayerStrategy(sp=8, ffn_tp=4, ep=8, dispatch=Dispatch.ALL_GATHER)
    program = _build(strategy, SHARED)
    sizes = program.sizes()
    assert (sizes["ln2_out_ag"], sizes["shared_ln2_out_ag"]) == (S * ROW, S / 2 * ROW)
    plan = plan_backward(program, Recompute.NONE)
    assert [op.name for op in plan.recomputed] == ["all_gather.shared_ln2_out"]


def _is(op: Operator, kind: Collective) -> bool:
    return isinstance(op.work, CollectiveWork) and op.work.collective is kind


def test_shared_experts_stand_beside_the_dispatch() -> None:
    program = _build(LayerStrategy(ep=8), SHARED)
    assert _operator(program, "shared_fc1").module == "shared"
    graph = program.graph()
    assert not graph.has_edge("dispatch", "shared_fc1")
    assert "shared_out" in _operator(program, "residual2").reads


def test_a_gate_on_shared_experts_is_computed_and_learned() -> None:
    gated = msgspec.structs.replace(SHARED, shared_gate=True)
    program = _build(LayerStrategy(ep=8), gated)
    assert _operator(program, "shared_gate").work == GemmWork(m=S, n=1, k=H)
    assert _operator(program, "shared_gate.wgrad").phase is Pass.WGRAD
    assert program.weights.non_expert - _build(LayerStrategy(ep=8), SHARED).weights.non_expert == H
    assert "grad:ln2_out_gate" in _operator(program, "sum.grad_ln2_out").reads


@pytest.mark.parametrize("dispatch", Dispatch)
@pytest.mark.parametrize("ep", [1, 8])
def test_the_routers_gradient_waits_for_the_gate_weights_gradient(dispatch: Dispatch, ep: int) -> None:
    early = _build(LayerStrategy(ep=ep, dispatch=dispatch))
    late = _build(LayerStrategy(ep=ep, dispatch=dispatch), gate_before_fc2=False)
    sources = {"topk.backward": "experts_fc2.dgrad"}
    for name, needed in sources.items():
        assert needed in _ancestors(early, name)
        assert needed not in _ancestors(late, name)
    assert "unpermute.backward" in _ancestors(late, "topk.backward")


def _ancestors(program: LayerProgram, name: str) -> set[str]:
    import networkx as nx

    found: set[str] = nx.ancestors(program.graph(), name)
    return found


@pytest.mark.parametrize(
    ("ep", "dispatch", "kept"),
    [
        (1, Dispatch.ALL_TO_ALL, "fc2_out"),
        (8, Dispatch.ALL_TO_ALL, "combine_out"),
        (8, Dispatch.ALL_GATHER, "fc2_out"),
    ],
)
def test_a_gate_behind_fc2_keeps_its_output(ep: int, dispatch: Dispatch, kept: str) -> None:
    late = _build(LayerStrategy(ep=ep, dispatch=dispatch), gate_before_fc2=False)
    early = _build(LayerStrategy(ep=ep, dispatch=dispatch))
    assert plan_backward(late, Recompute.NONE).kept - plan_backward(early, Recompute.NONE).kept == {kept}


def test_experts_folded_over_several_attention_groups() -> None:
    """Two attention groups of 4 share 8 expert ranks: a rank still works on as many rows as it sends."""
    program = _build(LayerStrategy(tp=4, ep=8))
    assert program.sizes()["ffn_in"] == S / 4 * K * ROW
    assert _exchanges(program, forward=True)[0][3] == _node(8)
    assert program.weights.expert == E // 8 * 3 * H * F


def test_biases_of_experts_and_routers_are_weights() -> None:
    moe = msgspec.structs.replace(SHARED, bias=True, router_bias=True, score_correction_bias=True)
    more = _build(LayerStrategy(ep=4, etp=2), moe).weights
    less = _build(LayerStrategy(ep=4, etp=2), SHARED).weights
    assert more.expert - less.expert == E / 4 * (2 * F / 2 + H)
    assert more.dense - less.dense == 2 * E
    assert more.ffn - less.ffn == 2 * 512 + H


def _custom(program: LayerProgram) -> dict[str, tuple[CustomKernel, float]]:
    """Kernel and bytes in rows of the hidden size, of every operator that a custom kernel can run."""
    return {
        op.name: (op.work.custom.kernel, op.work.custom.num_bytes / ROW)
        for op in (*program.forward, *program.backward)
        if isinstance(op.work, MemoryWork) and op.work.custom
    }


def test_custom_kernels_read_a_copied_row_once() -> None:
    """T tokens and K T rows here; the products of a gate weight's gradient read rows, too."""
    early, late = _custom(_build(LayerStrategy())), _custom(_build(LayerStrategy(), gate_before_fc2=False))
    tokens, rows = S, S * K
    assert early["permute"] == early["unpermute.backward"] == (CustomKernel.PERMUTE, tokens + rows)
    assert early["unpermute"] == early["permute.backward"] == (CustomKernel.UNPERMUTE, tokens + rows)
    assert late["unpermute.backward"] == (CustomKernel.UNPERMUTE_BACKWARD, tokens + 2 * rows)
    width = F / H
    assert early["experts_activation"] == (CustomKernel.SWIGLU, 3 * rows * width)
    assert early["experts_activation.backward"] == (CustomKernel.SWIGLU_BACKWARD, 5 * rows * width)
    logits, routing = 4 * tokens * E / ROW, (8 * tokens * K + 4 * E) / ROW
    assert early["topk"] == (CustomKernel.ROUTE, logits + routing)
    assert early["topk.backward"] == (CustomKernel.ROUTE_BACKWARD, logits + 2 * routing)


def test_sorting_rows_that_arrived_reads_every_row() -> None:
    custom = _custom(_build(LayerStrategy(ep=4)))
    rows = S * K
    for name in ("sort", "unsort", "sort.backward", "unsort.backward"):
        assert custom[name] == (CustomKernel.PERMUTE, 2 * rows)
    gathered = _custom(_build(LayerStrategy(ep=4, dispatch=Dispatch.ALL_GATHER)))
    assert gathered["permute"] == (CustomKernel.PERMUTE, 4 * S + rows)
    assert gathered["unpermute"][1] == 4 * S + rows


def test_no_custom_kernel_computes_another_activation() -> None:
    custom = _custom(_build(LayerStrategy(), msgspec.structs.replace(MOE, gated=False)))
    assert "experts_activation" not in custom
    assert "permute" in custom
