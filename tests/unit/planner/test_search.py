from __future__ import annotations

import gc
from typing import Any

import msgspec
import pytest

from meshwright.costmodel.errors import InfeasibleError
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import ContextMethod, Dispatch, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.cutting_planes import solve_point
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan import Alternative
from meshwright.planner.point import PointSolution
from meshwright.planner.search import INNER_GAP, MAX_EXPLAINED, SearchProgress, SearchResult, search
from meshwright.planner.space import RULES, Problem

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=4, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=4096))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=8, top_k=2, intermediate=2048))


def _problem(*fixes: str, limit_bytes: float = 60e9, layers: int = 4, seq_len: int = 2048) -> Problem:
    cluster = load_cluster("h100", num_gpus=8)
    gpu = msgspec.structs.replace(cluster.gpu, usable_memory_bytes=(limit_bytes + 1.5 * 2**30) / 0.97)
    return Problem(
        model=ModelSpec(name="made-up", hidden=1024, vocab=4096, layers=(DENSE,) + (MOE,) * (layers - 1)),
        cluster=msgspec.structs.replace(cluster, profile=msgspec.structs.replace(cluster.profile, gpu=gpu)),
        workload=Workload(global_batch=16, seq_len=seq_len),
        fixes=parse_fixes(fixes),
    )


@pytest.fixture(scope="module")
def found() -> SearchResult:
    return search(_problem(), top=4)


def test_the_plan_is_one_that_runs_on_all_gpus_and_fits(found: SearchResult) -> None:
    assert found.configuration.mesh.num_gpus == 8
    assert sum(map(len, found.configuration.stages)) == 4
    assert found.prediction == predict(found.configuration)
    assert found.prediction.fits


def test_nothing_leaves_for_host_memory_where_there_is_room() -> None:
    model = load_model("qwen3-30b-a3b")
    problem = Problem(
        model=msgspec.structs.replace(model, layers=model.layers[:8]),
        cluster=load_cluster("h200", num_gpus=2),
        workload=Workload(global_batch=8, seq_len=4096),
        fixes=parse_fixes(("mbs=2", "pp=1", "zero=1", "ep=2", "dispatch=alltoall")),
    )
    result = search(problem, runtime=load_runtime("meshwright-run"), top=0)
    assert max(result.prediction.peak_memory_bytes) < 0.5 * problem.cluster.gpu.usable_memory_bytes
    assert not any(layer.offload for stage in result.configuration.stages for layer in stage)


def test_embedding_and_head_are_split_another_way_where_only_that_fits() -> None:
    """Over sp=8, which is faster, every rank has the whole vocabulary, and the first stage is 0.7 GB too large."""
    problem = Problem(
        model=load_model("mixtral-8x22b"),
        cluster=load_cluster("h100", num_gpus=32),
        workload=Workload(global_batch=64, seq_len=2048),
        fixes=parse_fixes(("pp=4", "dp=1", "ep=8")),
    )
    result = search(problem, runtime=load_runtime("megatron"), top=0)
    assert result.configuration.mesh.tp == 8
    pinned = search(
        msgspec.structs.replace(problem, fixes=parse_fixes(("pp=4", "dp=1", "ep=8", "tp=8"))),
        runtime=load_runtime("megatron"),
        top=0,
    )
    assert result.certificate.lower_bound_s <= pinned.certificate.objective_s * (1 + 1e-9)


def test_the_certificate_counts_every_candidate(found: SearchResult) -> None:
    certificate = found.certificate
    assert certificate.candidates == certificate.rejected + certificate.pruned + certificate.solved
    assert certificate.solved >= 1
    assert 0 < certificate.lower_bound_s <= certificate.objective_s
    from_bound = 1 - certificate.lower_bound_s / certificate.objective_s
    if certificate.lower_bound_s < found.prediction.step_time_s:
        assert certificate.gap == pytest.approx(from_bound)
    else:  # The plan's own orders of operators went below the bound, which is given as its step.
        assert 0.0 <= certificate.gap <= from_bound
    assert found.prediction.step_time_s <= certificate.objective_s, "solved orders are no slower than listed ones"
    assert all(rule in certificate.space for rule in RULES)
    assert "every split of 4 layers" in certificate.space


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.1])
def test_the_search_ends_within_the_gap_asked_for(gap: float) -> None:
    certificate = search(_problem(), top=0, gap=gap).certificate
    assert certificate.gap <= 1 - (1 - gap) * (1 - INNER_GAP) + 1e-6


def _choice(entry: Alternative) -> tuple[object, ...]:
    mesh = entry.mesh
    return mesh.pp, mesh.dp, mesh.tp * mesh.sp, mesh.cp, mesh.ep, mesh.etp, entry.schedule


def test_runners_up_are_slower_and_differ_in_kind(found: SearchResult) -> None:
    entries = found.alternatives
    assert len(entries) == 4
    times = [entry.step_time_s for entry in entries]
    assert times == sorted(times)
    assert times[0] >= found.prediction.step_time_s
    assert len({_choice(entry) for entry in entries}) == 4
    mesh = found.configuration.mesh
    best = (mesh.pp, mesh.dp, mesh.tp * mesh.sp, mesh.cp, mesh.ep, mesh.etp, found.configuration.pipeline.schedule)
    assert best not in {_choice(entry) for entry in entries}


def test_no_runners_up_where_none_are_wanted() -> None:
    assert search(_problem("pp=1"), top=0).alternatives == ()


def test_progress_is_reported_and_bounds_only_rise() -> None:
    seen: list[SearchProgress] = []
    result = search(_problem(), top=0, progress=seen.append)
    assert seen
    assert seen[-1].best_s == pytest.approx(result.certificate.objective_s)
    bests = [entry.best_s for entry in seen if entry.best_s is not None]
    assert bests == sorted(bests, reverse=True)
    assert all(entry.lower_bound_s <= bests[-1] * (1 + 1e-9) for entry in seen)
    assert {entry.candidates for entry in seen} == {result.certificate.candidates}


def test_garbage_collection_is_left_as_it_was() -> None:
    assert gc.isenabled()
    with pytest.raises(InfeasibleError):
        search(_problem(limit_bytes=1e6))
    assert gc.isenabled()


def test_the_same_problem_has_the_same_answer(found: SearchResult) -> None:
    again = search(_problem(), top=4)
    assert again.configuration == found.configuration
    assert again.alternatives == found.alternatives


# Pinned choices.


@pytest.mark.parametrize("fix", ["pp=2", "pp=4", "dp=2", "ep=2", "ep=8", "etp=2", "cp=2"])
def test_pinned_degrees_are_respected(fix: str) -> None:
    name, value = fix.split("=")
    assert getattr(search(_problem(fix), top=0).configuration.mesh, name) == int(value)


@pytest.mark.parametrize("fixes", [("tp=2",), ("sp=4",), ("tp=2", "sp=2"), ("tp=1", "sp=1")])
def test_pinned_splits_of_attention_are_respected(fixes: tuple[str, ...]) -> None:
    configuration = search(_problem(*fixes), top=0).configuration
    for fix in fixes:
        name, value = fix.split("=")
        assert getattr(configuration.mesh, name) == int(value)
        assert {getattr(strategy, name) for stage in configuration.stages for strategy in stage} == {int(value)}


@pytest.mark.parametrize("schedule", list(ScheduleKind))
def test_a_pinned_schedule_is_respected(schedule: ScheduleKind) -> None:
    configuration = search(_problem(f"schedule={schedule}", "pp=2", "mbs=1"), top=0).configuration
    assert configuration.pipeline.schedule is schedule


@pytest.mark.parametrize(("fix", "expected"), [("vp=2", 2), ("vp=1", 1)])
def test_pinned_virtual_stages_are_respected(fix: str, expected: int) -> None:
    assert search(_problem(fix, "pp=2"), top=0).configuration.pipeline.virtual_stages == expected


def test_other_pinned_choices_are_respected() -> None:
    fixes = ("mbs=2", "zero=0", "recompute=full", "dispatch=alltoall", "ep=4", "attention=ulysses", "sp=2")
    configuration = search(_problem(*fixes), top=0).configuration
    assert configuration.pipeline.micro_batch == 2
    assert configuration.sharding.zero is ZeroStage.NONE
    strategies = [strategy for stage in configuration.stages for strategy in stage]
    assert {strategy.recompute for strategy in strategies} == {Recompute.FULL}
    assert {strategy.dispatch for strategy in strategies if strategy.ep > 1} == {Dispatch.ALL_TO_ALL}
    assert {(strategy.tp, strategy.sp) for strategy in strategies} == {(1, 2)}


@pytest.mark.parametrize("dispatch", list(Dispatch))
def test_no_pinned_dispatch_is_faster_than_the_best_plan_between_nodes(dispatch: Dispatch) -> None:
    def found(*fixes: str) -> SearchResult:
        problem = _problem("ep=8", "tp=1", "pp=1", *fixes, layers=2)
        cluster = msgspec.structs.replace(problem.cluster, gpus_per_node=4)
        return search(msgspec.structs.replace(problem, cluster=cluster), top=0)

    free = found()
    assert found(f"dispatch={dispatch}").prediction.step_time_s >= free.certificate.lower_bound_s


def test_pinned_context_parallelism_rings() -> None:
    configuration = search(_problem("attention=cp-ring", "cp=2"), top=0).configuration
    strategies = [strategy for stage in configuration.stages for strategy in stage]
    assert {strategy.context_method for strategy in strategies} == {ContextMethod.RING}


# Nothing fits.


def test_a_model_too_large_for_one_gpu() -> None:
    problem = Problem(
        model=load_model("mixtral-8x7b"),
        cluster=load_cluster("h100", num_gpus=1),
        workload=Workload(global_batch=1, seq_len=4096),
    )
    with pytest.raises(InfeasibleError, match=r"one GPU.* over the limit of .* GiB; a plan was found for \d+ GPUs"):
        search(problem, top=0)


def test_the_way_out_is_true() -> None:
    problem = _problem("mbs=1", "schedule=1f1b", "recompute=full", limit_bytes=0.12e9)
    with pytest.raises(InfeasibleError, match=r"needs \d+ MiB .* over the limit of 114 MiB") as caught:
        search(problem, top=0)
    num_gpus = int(str(caught.value).partition("a plan was found for ")[2].split()[0])
    assert num_gpus > 8
    larger = msgspec.structs.replace(problem, cluster=problem.cluster.with_gpus(num_gpus))
    assert search(larger, top=0).prediction.fits


def test_pins_that_do_not_fit_together_say_so() -> None:
    with pytest.raises(InfeasibleError, match=r"no legal combination of degrees for 8 GPUs .* free a pinned choice"):
        search(_problem("pp=3"), top=0)
    with pytest.raises(InfeasibleError, match="no legal combination"):
        search(_problem("tp=8", "pp=2"), top=0)


def test_pins_that_take_too_much_memory_may_be_freed() -> None:
    limit_bytes = 0.8e9
    assert search(_problem("ep=8", "mbs=1", limit_bytes=limit_bytes), top=0).prediction.fits
    with pytest.raises(InfeasibleError, match=r"MiB over the limit of 763 MiB; .*freeing pinned choices may do, too"):
        search(_problem("ep=1", "zero=0", "dp=8", limit_bytes=limit_bytes), top=0)


@pytest.mark.parametrize("seq_len", [2**18, 2**21])
def test_what_memory_bounds_rule_out_is_not_solved(monkeypatch: pytest.MonkeyPatch, seq_len: int) -> None:
    solved = []

    def counted(*arguments: Any, **options: Any) -> PointSolution:  # noqa: ANN401
        solved.append(solve_point(*arguments, **options))
        return solved[-1]

    monkeypatch.setattr("meshwright.planner.search.solve_point", counted)
    problem = _problem("pp=4", "mbs=1", limit_bytes=10e9, layers=8, seq_len=seq_len)
    with pytest.raises(InfeasibleError, match=r"over the limit of 9\.31 GiB"):
        search(problem, top=5)
    assert len(solved) <= 2 * MAX_EXPLAINED
