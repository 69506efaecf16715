"""The order written by hand is legal everywhere, does what the paper says, and no proven optimum is worse."""

from __future__ import annotations

import pytest

from meshwright.costmodel.data_parallel import Sharding, StateModel
from meshwright.costmodel.layer_passes import LayerPasses
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.list_schedule import launched
from meshwright.costmodel.order.ordered_pass import OrderedPass, ordered_pass, serial_timeline
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.order.timeline import PassTimeline
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.operators import Pass, Precision, Resource
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.stage_cost import CostContext
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, Recompute
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.operator_order import solve_pass
from meshwright.planner.operator_order.hand_order import hand_order, hand_pass_order

GATHER, ROWS = Dispatch.ALL_GATHER, Dispatch.ALL_TO_ALL
MODELS = ("internal-352b", "mixtral-8x7b", "deepseek-moe-16b")
SPLITS = {
    "tp-tp": LayerStrategy(tp=8, ffn_tp=8, etp=8, dispatch=GATHER),
    "tp-ep-rows": LayerStrategy(tp=8, ep=8, dispatch=ROWS),
    "tp-ep-gather-split-shared": LayerStrategy(tp=8, ffn_tp=8, ep=8, dispatch=GATHER),
    "sp-tp": LayerStrategy(sp=8, ffn_tp=8, etp=8, dispatch=GATHER),
    "sp-ep-rows": LayerStrategy(sp=8, ep=8, dispatch=ROWS),
    "sp-ep-rows-etp": LayerStrategy(sp=8, ep=4, etp=2, dispatch=ROWS),
    "sp-ep-gather": LayerStrategy(sp=8, ep=8, dispatch=GATHER),
    "sp-ep-nodes": LayerStrategy(sp=8, ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
}


def _problems(
    model_name: str, strategy: LayerStrategy, precision: Precision = Precision.BF16
) -> dict[PassKind, PassProblem]:
    """Every pass of a layer of the model on H800, SAR unless the strategy says otherwise."""
    model, cluster, runtime = load_model(model_name), load_cluster("h800").with_gpus(16), load_runtime("meshwright")
    mesh = Mesh(dp=2, tp=strategy.tp, sp=strategy.sp, ep=strategy.ep, etp=strategy.etp)
    context = CostContext(
        model=model,
        cluster=cluster,
        workload=Workload(global_batch=32, seq_len=8192, precision=precision),
        runtime=runtime,
        state=StateModel(cluster=cluster, mesh=mesh, sharding=Sharding(), runtime=runtime),
        micro_batch=1,
        passes=LayerPasses.ALL,
    )
    return {kind: ordered.problem for kind, ordered in context.ordered(model.layers[-1], strategy).items()}


def _sar(split: LayerStrategy) -> LayerStrategy:
    fields = {name: getattr(split, name) for name in split.__struct_fields__}
    return LayerStrategy(**{**fields, "recompute": Recompute.SELECTIVE})


def _check_legal(problem: PassProblem, ordered: OrderedPass) -> None:
    """As a plan's order it is accepted, takes the same time, and lies between load and program order's sum."""
    again = ordered_pass(problem, ordered.order())
    assert again.total_s == pytest.approx(ordered.total_s, rel=1e-12)
    assert ordered.total_s >= sum(time_s for time_s, link in zip(problem.time_s, problem.link, strict=True) if link < 0)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("model", MODELS)
def test_is_legal_for_every_pass(model: str, split: LayerStrategy) -> None:
    for problem in _problems(model, _sar(split)).values():
        for fused in (False, True):
            ordered = hand_order(problem, fused=fused)
            _check_legal(problem, ordered)
            assert hand_pass_order(problem, fused=fused) == ordered.order()
            assert fused or all(pair is None for pair in ordered.run.grouping.pairs)


@pytest.mark.parametrize("recompute", list(Recompute))
def test_is_legal_under_every_recomputation(recompute: Recompute) -> None:
    for problem in _problems("internal-352b", LayerStrategy(sp=8, ep=8, dispatch=GATHER, recompute=recompute)).values():
        for fused in (False, True):
            _check_legal(problem, hand_order(problem, fused=fused))


def test_is_legal_in_fp8_and_for_latent_attention() -> None:
    for problem in _problems("deepseek-v3", LayerStrategy(tp=8, ep=8, recompute=Recompute.SELECTIVE)).values():
        _check_legal(problem, hand_order(problem, fused=True))
    fp8 = LayerStrategy(sp=8, ep=8, dispatch=GATHER, communication=Precision.FP8, recompute=Recompute.SELECTIVE)
    for problem in _problems("internal-352b", fp8, Precision.FP8).values():
        _check_legal(problem, hand_order(problem, fused=False))


@pytest.mark.parametrize("split", ["tp-tp", "tp-ep-rows", "sp-ep-rows", "sp-ep-gather"])
def test_no_solved_order_is_worse(split: str) -> None:
    for model in ("internal-352b", "phi-3.5-moe"):
        problems = _problems(model, _sar(SPLITS[split]))
        for kind in (PassKind.FORWARD, PassKind.BACKWARD):
            problem = problems[kind]
            solved = solve_pass(problem, num_nodes=500, num_replays=100)
            best_s = min(hand_order(problem, fused=fused).total_s for fused in (False, True))
            assert solved.lower_bound_s <= best_s * (1.0 + 1e-9)
            assert solved.ordered.total_s <= best_s * (1.0 + 1e-12)
            assert best_s <= serial_timeline(problem).end_s


def test_a_solved_order_that_must_fit_in_memory_is_not_worse_than_a_hand_order_that_fits() -> None:
    problem = _problems("internal-352b", _sar(SPLITS["sp-tp"]))[PassKind.BACKWARD]
    by_hand = hand_order(problem, fused=False)
    only = tuple(launched(by_hand.run))
    solved = solve_pass(problem, lambda order: tuple(order) == only, num_nodes=50, num_replays=10)
    assert solved.ordered.total_s == by_hand.total_s


# What section 4.1 says, on the strategy that it is about: SP and EP by all-gather and reduce-scatter.


@pytest.fixture(scope="module")
def paper() -> dict[PassKind, PassProblem]:
    return _problems("internal-352b", _sar(SPLITS["sp-ep-gather"]))


def _beside(timeline: PassTimeline, communication: str) -> set[str]:
    """What computes while a communication is under way."""
    [span] = [one for one in timeline.spans if one.name == communication]
    assert span.stream is Resource.NVLINK
    return {
        other.name
        for other in timeline.on_stream(Resource.COMPUTE)
        if other.start_s < span.end_s and other.end_s > span.start_s
    }


def test_recomputation_hides_where_the_paper_says(paper: dict[PassKind, PassProblem]) -> None:
    timeline = hand_order(paper[PassKind.BACKWARD], fused=False).timeline()
    assert {"experts_activation", "norm2"} <= _beside(timeline, "combine.backward")
    assert "experts_fc2.dgrad" in _beside(timeline, "dispatch")
    assert "norm1" in _beside(timeline, "all_to_all.grad_qkv")


def test_wgrad_and_shared_experts_hide_communication(paper: dict[PassKind, PassProblem]) -> None:
    backward = hand_order(paper[PassKind.BACKWARD], fused=False).timeline()
    assert "experts_fc2.wgrad" in _beside(backward, "dispatch.backward")
    assert "experts_fc1.wgrad" in _beside(backward, "all_to_all.grad_attn")
    forward = hand_order(paper[PassKind.FORWARD], fused=False).timeline()
    assert "shared_fc1" in _beside(forward, "dispatch")
    assert _beside(forward, "combine") == {"shared_fc2"}


def test_fuses_the_four_pairs_of_the_paper_and_their_mirror_images(paper: dict[PassKind, PassProblem]) -> None:
    forward, backward = (hand_pass_order(paper[k], fused=True) for k in (PassKind.FORWARD, PassKind.BACKWARD))
    assert [launch.operators for launch in forward.launches if len(launch.operators) > 1] == [
        ("qkv", "rope", "all_to_all.qkv"),
        ("all_to_all.attn", "attn_projection"),
        ("dispatch", "permute", "experts_fc1"),
        ("experts_fc2", "unpermute", "combine"),
    ]
    assert [launch.operators for launch in backward.launches if len(launch.operators) > 1] == [
        ("combine.backward", "unpermute.backward", "experts_fc2.dgrad"),
        ("experts_fc1.dgrad", "permute.backward", "dispatch.backward"),
        ("attn_projection.dgrad", "all_to_all.grad_attn"),
        ("all_to_all.grad_qkv", "rope.backward", "qkv.dgrad"),
    ]


def test_main_path_keeps_program_order(paper: dict[PassKind, PassProblem]) -> None:
    """dgrad in the order of the program; what moves is recomputation, wgrad and the shared experts."""
    problem = paper[PassKind.BACKWARD]
    main = [
        op.name for op in problem.operators if op.phase is Pass.DGRAD and not op.recomputes and op.module != "shared"
    ]
    order = list(hand_pass_order(problem, fused=False).names())
    assert [name for name in order if name in main] == main


def test_joint_pass_runs_forward_then_backward(paper: dict[PassKind, PassProblem]) -> None:
    joint = paper[PassKind.JOINT]
    names = list(hand_pass_order(joint, fused=False).names())
    forward = [name for name in names if name.startswith("forward:")]
    assert names[: len(forward)] == forward
    apart_s = sum(hand_order(paper[kind], fused=False).total_s for kind in (PassKind.FORWARD, PassKind.BACKWARD))
    assert hand_order(joint, fused=False).total_s == pytest.approx(apart_s, rel=0.05)
