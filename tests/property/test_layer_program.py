"""Laws of layer programs, over models, degrees and strategies."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import (
    AttentionWork,
    GemmWork,
    GroupedGemmWork,
    Operator,
    Pass,
    Precision,
)
from meshwright.costmodel.program.recompute import plan_backward, transient_bytes
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import ContextMethod, Dispatch, LayerStrategy, Recompute

HIDDEN = 256
SEQ_LEN = 1024
HEADS = 16


@st.composite
def attentions(draw: st.DrawFn) -> AttentionSpec:
    if draw(st.booleans()):
        return AttentionSpec(
            num_heads=HEADS,
            num_kv_heads=HEADS,
            head_dim=48,
            value_head_dim=32,
            rope_head_dim=16,
            kv_lora_rank=64,
            query_lora_rank=draw(st.sampled_from([0, 96])),
            qkv_bias=draw(st.booleans()),
        )
    return AttentionSpec(
        num_heads=HEADS,
        num_kv_heads=draw(st.sampled_from([1, 2, 4, 16])),
        head_dim=32,
        value_head_dim=32,
        window=draw(st.sampled_from([0, 128, 4096])),
        qk_norm=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        shares_key_value=draw(st.booleans()),
    )


@st.composite
def layers(draw: st.DrawFn) -> LayerSpec:
    gated, bias = draw(st.booleans()), draw(st.booleans())
    ffn: DenseFfnSpec | MoeFfnSpec = DenseFfnSpec(intermediate=512, gated=gated, bias=bias)
    if draw(st.booleans()):
        ffn = MoeFfnSpec(
            num_experts=16,
            top_k=draw(st.sampled_from([1, 2, 6])),
            intermediate=128,
            gated=gated,
            bias=bias,
            shared_intermediate=draw(st.sampled_from([0, 128])),
            shared_gate=draw(st.booleans()),
        )
    return LayerSpec(attention=draw(attentions()), ffn=ffn, num_norms=draw(st.sampled_from([2, 4])))


DEGREES = st.sampled_from([1, 2, 4])


@st.composite
def strategies(draw: st.DrawFn) -> LayerStrategy:
    tp, sp, cp = draw(DEGREES), draw(DEGREES), draw(DEGREES)
    sequence_parallel = draw(st.booleans())
    whole = tp > 1 and not sequence_parallel
    return LayerStrategy(
        tp=tp,
        sp=sp,
        cp=cp,
        context_method=draw(st.sampled_from(ContextMethod)),
        sequence_parallel=sequence_parallel,
        ffn_tp=draw(st.sampled_from([1, tp] if whole else [1, tp, tp * sp, tp * sp * cp])),
        ep=1 if whole else draw(st.sampled_from([1, 2, 8, 16])),
        etp=1 if whole else draw(st.sampled_from([1, 2, 4])),
        dispatch=draw(st.sampled_from(Dispatch)),
    )


@st.composite
def program_settings(draw: st.DrawFn) -> ProgramSetting:
    return ProgramSetting(
        hidden=HIDDEN,
        micro_batch=draw(st.sampled_from([1, 2])),
        seq_len=SEQ_LEN,
        strategy=draw(strategies()),
        gpus_per_node=8,
        precision=draw(st.sampled_from(Precision)),
        gate_before_fc2=draw(st.booleans()),
        fp32_gradients=draw(st.booleans()),
    )


def flops(op: Operator) -> float:
    match op.work:
        case GemmWork(m=m, n=n, k=k):
            return 2.0 * m * n * k
        case GroupedGemmWork(rows=rows, n=n, k=k):
            return 2.0 * rows * n * k
        case _:
            return 0.0


def linear_flops(operators: tuple[Operator, ...], num_ranks: int, phase: Pass) -> float:
    return num_ranks * sum(flops(op) for op in operators if op.phase is phase)


def copies(count: int, *degrees: int) -> float:
    """How often `count` heads exist on all ranks together, when ranks with none of their own hold a copy."""
    each = count
    for degree in degrees:
        each = max(1, each // degree)
    total = each
    for degree in degrees:
        total *= degree
    return total / count


def attention_multiply_adds(spec: AttentionSpec, strategy: LayerStrategy) -> float:
    """Of one token, over all ranks. MLA's down projections run once a token, or on each rank that has the token."""
    repeats = 1 if strategy.sequence_parallel else strategy.tp
    output = HEADS * spec.value_head_dim * HIDDEN
    if spec.is_mla:
        query = HIDDEN * HEADS * spec.head_dim
        if rank := spec.query_lora_rank:
            query = repeats * HIDDEN * rank + rank * HEADS * spec.head_dim
        down = repeats * HIDDEN * (spec.kv_lora_rank + spec.rope_head_dim)
        up = spec.kv_lora_rank * HEADS * (spec.head_dim - spec.rope_head_dim + spec.value_head_dim)
        return query + down + up + output
    key_value = 0.0
    if not spec.shares_key_value:
        key_value = HIDDEN * spec.num_kv_heads * 2 * spec.head_dim * copies(spec.num_kv_heads, strategy.tp)
    return HIDDEN * HEADS * spec.head_dim + key_value + output


def ffn_multiply_adds(ffn: DenseFfnSpec | MoeFfnSpec, strategy: LayerStrategy) -> float:
    """Of one token, over all ranks. Whole on each tensor-parallel rank that has the token and does not split it."""
    repeats = 1 if strategy.sequence_parallel else strategy.tp
    matrices = 3 if ffn.gated else 2
    dense_repeats = 1 if strategy.ffn_tp > 1 else repeats
    if isinstance(ffn, DenseFfnSpec):
        return dense_repeats * matrices * HIDDEN * ffn.intermediate
    shared = dense_repeats * matrices * HIDDEN * ffn.shared_intermediate
    gate = HIDDEN if ffn.shared_gate and ffn.shared_intermediate else 0
    routed = matrices * HIDDEN * ffn.intermediate * ffn.top_k
    return shared + repeats * (routed + HIDDEN * ffn.num_experts + gate)


@given(layer=layers(), setting=program_settings())
def test_flops_of_all_ranks_are_those_of_the_model(layer: LayerSpec, setting: ProgramSetting) -> None:
    strategy = setting.strategy
    program = build_layer(layer, setting)
    tokens = setting.micro_batch * setting.seq_len
    multiply_adds = attention_multiply_adds(layer.attention, strategy) + ffn_multiply_adds(layer.ffn, strategy)
    forward = linear_flops(program.forward, strategy.replica_gpus, Pass.FORWARD)
    assert forward == pytest.approx(2 * tokens * multiply_adds)
    assert linear_flops(program.backward, strategy.replica_gpus, Pass.DGRAD) == pytest.approx(forward)
    assert linear_flops(program.backward, strategy.replica_gpus, Pass.WGRAD) == pytest.approx(forward)


@given(layer=layers(), setting=program_settings())
def test_scored_pairs_of_all_ranks_are_those_of_the_model(layer: LayerSpec, setting: ProgramSetting) -> None:
    spec = layer.attention
    window = min(spec.window or SEQ_LEN, SEQ_LEN)
    pairs = SEQ_LEN * window - window**2 / 2
    works = [op.work for op in build_layer(layer, setting).forward if isinstance(op.work, AttentionWork)]
    scored = [work.batch * work.num_heads * work.pairs for work in works]
    assert [setting.strategy.replica_gpus * one for one in scored] == [setting.micro_batch * HEADS * pairs]


def dense_weights(layer: LayerSpec, setting: ProgramSetting) -> float:
    """By hand: matrices over their split; biases of split columns likewise; norms and what follows a sum are whole."""
    spec, ffn, tp, split = layer.attention, layer.ffn, setting.strategy.tp, setting.strategy.ffn_tp
    total = layer.num_norms * HIDDEN + HEADS * spec.value_head_dim * HIDDEN / tp
    if spec.is_mla:
        nope = spec.head_dim - spec.rope_head_dim
        ranks = [(spec.kv_lora_rank, spec.kv_lora_rank + spec.rope_head_dim, nope + spec.value_head_dim)]
        if spec.query_lora_rank:
            ranks.append((spec.query_lora_rank, spec.query_lora_rank, spec.head_dim))
        else:
            total += HIDDEN * HEADS * spec.head_dim / tp
        for rank, width, up in ranks:
            total += HIDDEN * width + rank + rank * HEADS * up / tp + (width if spec.qkv_bias else 0)
    else:
        heads = HEADS / tp + (0 if spec.shares_key_value else 2 * max(1, spec.num_kv_heads // tp))
        total += heads * spec.head_dim * (HIDDEN + spec.qkv_bias)
        total += spec.qk_norm * spec.head_dim * (1 if spec.shares_key_value else 2)
    matrices = 3 if ffn.gated else 2
    if isinstance(ffn, MoeFfnSpec):
        total += HIDDEN * ffn.num_experts
        width = ffn.shared_intermediate
        total += HIDDEN if width and ffn.shared_gate else 0
    else:
        width = ffn.intermediate
    biases = (matrices - 1) * width / split + HIDDEN if ffn.bias and width else 0
    return total + matrices * HIDDEN * width / split + biases


@given(layer=layers(), setting=program_settings())
def test_weights_of_a_rank(layer: LayerSpec, setting: ProgramSetting) -> None:
    weights, ffn, strategy = build_layer(layer, setting).weights, layer.ffn, setting.strategy
    assert weights.non_expert == pytest.approx(dense_weights(layer, setting))
    if isinstance(ffn, MoeFfnSpec):
        width = ffn.intermediate / strategy.etp
        matrices = 3 if ffn.gated else 2
        biases = (matrices - 1) * width + HIDDEN if ffn.bias else 0
        assert weights.expert == 16 / strategy.ep * (matrices * HIDDEN * width + biases)
    else:
        assert weights.expert == 0


@given(layer=layers(), setting=program_settings())
def test_programs_are_well_formed(layer: LayerSpec, setting: ProgramSetting) -> None:
    program = build_layer(layer, setting)
    names = [op.name for op in (*program.forward, *program.backward)]
    assert len(names) == len(set(names))
    graph = program.graph()
    assert nx.is_directed_acyclic_graph(graph)
    order = {name: index for index, name in enumerate(names)}
    assert all(order[before] < order[after] for before, after in graph.edges)
    given_tensors = {"hidden", "previous_kv", "grad:next_hidden"}
    replay((*program.forward, *program.backward), given_tensors)
    sizes = program.sizes()
    assert program.saved() <= set(sizes)
    assert all(size > 0 for name, size in sizes.items() if name != "previous_kv")
    for op in (*program.forward, *program.backward):
        for name in (*op.reads, *op.writes):
            assert name.removeprefix("grad:") in sizes, name
    assert {"grad:hidden"} <= {name for op in program.backward for name in op.writes}


def replay(operators: tuple[Operator, ...], available: set[str]) -> set[str]:
    """Run operators in order: each finds what it reads."""
    available = set(available)
    for op in operators:
        assert available.issuperset(op.reads), (op.name, set(op.reads) - available)
        available.update(op.writes)
    return available


@given(layer=layers(), setting=program_settings(), policy=st.sampled_from(Recompute))
@settings(max_examples=300)
def test_what_is_kept_and_rerun_is_all_that_backward_reads(
    layer: LayerSpec, setting: ProgramSetting, policy: Recompute
) -> None:
    program = build_layer(layer, setting)
    plan = plan_backward(program, policy)
    replay((*plan.recomputed, *program.backward), {*plan.kept, "previous_kv", "grad:next_hidden"})
    assert {op.name for op in plan.recomputed} <= {op.name for op in program.forward}
    assert all(op.recomputes and op.phase is Pass.FORWARD for op in plan.recomputed)
    assert plan.kept_bytes == pytest.approx(sum(program.sizes()[name] for name in plan.kept))
    passing = transient_bytes(program, plan, (*plan.recomputed, *program.backward))
    assert passing >= max(program.sizes()["ffn_out"], program.sizes()["attn_out"])
    everything = sum(size for name, size in program.sizes().items())
    assert 0 < plan.kept_bytes <= everything


@given(layer=layers(), setting=program_settings())
def test_policies_that_rerun_more_keep_less(layer: LayerSpec, setting: ProgramSetting) -> None:
    program = build_layer(layer, setting)
    plans = {policy: plan_backward(program, policy) for policy in Recompute}
    chain = [Recompute.NONE, Recompute.ACTIVATION, Recompute.NORM_ACTIVATION, Recompute.SELECTIVE, Recompute.FULL]
    for weak, strong in [
        *pairwise(chain),
        (Recompute.NONE, Recompute.CORE_ATTENTION),
        (Recompute.CORE_ATTENTION, Recompute.FULL),
        (Recompute.NONE, Recompute.FFN),
        (Recompute.FFN, Recompute.FULL),
    ]:
        assert plans[weak].kept_bytes >= plans[strong].kept_bytes, (weak, strong)
        assert len(plans[weak].recomputed) <= len(plans[strong].recomputed), (weak, strong)
    assert plans[Recompute.FULL].kept - {"previous_kv"} == {"hidden"}
    assert {op.name for op in plans[Recompute.FULL].recomputed} == {op.name for op in program.forward} - {"residual2"}


@given(layer=layers(), setting=program_settings())
def test_keeping_everything_reruns_communication_of_copies_alone(layer: LayerSpec, setting: ProgramSetting) -> None:
    assume(setting.precision is Precision.BF16)
    plan = plan_backward(build_layer(layer, setting), Recompute.NONE)
    assert all(op.is_communication for op in plan.recomputed), [op.name for op in plan.recomputed]


@given(layer=layers(), setting=program_settings())
def test_backward_sends_what_forward_sends(layer: LayerSpec, setting: ProgramSetting) -> None:
    """Each collective has its mirror image, but for the two cases below; re-gathers are in the plan, not here."""
    program = build_layer(layer, setting)
    sent = program.communicated_bytes(forward=True)
    returned = program.communicated_bytes(forward=False)
    more = _gathered_once_summed_twice(layer, setting) + _entered_twice_left_once(layer.attention, setting)
    assert returned == pytest.approx(sent + more)


def _gathered_once_summed_twice(layer: LayerSpec, setting: ProgramSetting) -> float:
    """Shared experts that use the routed experts' gather have a reduce-scatter of their own."""
    strategy, ffn = setting.strategy, layer.ffn
    ranks = strategy.ep * strategy.etp
    alike = strategy.dispatch is Dispatch.ALL_GATHER and strategy.ffn_tp == ranks > 1
    if isinstance(ffn, MoeFfnSpec) and ffn.shared_intermediate and alike:
        return (ranks - 1) * setting.tokens * HIDDEN * 2
    return 0.0


def _entered_twice_left_once(spec: AttentionSpec, setting: ProgramSetting) -> float:
    """Without sequence parallelism the gradients of both latents are all-reduced, for one output that is."""
    tp, tokens = setting.strategy.tp, setting.tokens
    if not spec.is_mla or setting.strategy.sequence_parallel:
        return 0.0
    entered = (spec.query_lora_rank or HIDDEN) + spec.kv_lora_rank + spec.rope_head_dim
    return 2 * (tp - 1) / tp * tokens * (entered - HIDDEN) * 2


@given(layer=layers(), setting=program_settings())
def test_fp8_keeps_one_byte_where_only_products_read(layer: LayerSpec, setting: ProgramSetting) -> None:
    assume(setting.precision is Precision.FP8)
    program = build_layer(layer, setting)
    kept, sizes = plan_backward(program, Recompute.NONE).kept, program.sizes()
    name = "fc2_in"
    assert f"{name}.fp8" in kept
    assert name not in kept
    assert sizes[f"{name}.fp8"] == sizes[name] / 2
    routers = [op.work for op in program.forward if op.name == "router"]
    assert all(isinstance(work, GemmWork) and work.precision is Precision.BF16 for work in routers)
