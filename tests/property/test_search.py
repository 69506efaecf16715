"""Laws of the search: more room and more freedom are never slower, and the certificate's bound is a bound."""

from __future__ import annotations

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshwright.costmodel.errors import InfeasibleError
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan import SearchRecord
from meshwright.planner.search import INNER_GAP, search
from meshwright.planner.space import Problem

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=4, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=4096))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=8, top_k=2, intermediate=2048))
PINS = ("mbs=1", "pp=1", "pp=2", "tp=1", "sp=2", "ep=1", "ep=4", "zero=1", "recompute=full", "schedule=1f1b", "dp=4")
MIXED_WHERE_PINNED = ("tp", "sp")
SLACK = 1 + INNER_GAP
GAP = 1e-6


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Three or four layers on 4 or 8 GPUs, with a limit that may bind and with pins that may contradict each other."""
    num_gpus = draw(st.sampled_from((4, 8)))
    pins = draw(st.lists(st.sampled_from(PINS), min_size=2, max_size=3, unique_by=lambda pin: pin.split("=")[0]))
    cluster = msgspec.structs.replace(
        load_cluster("h100"), num_gpus=num_gpus, gpus_per_node=draw(st.sampled_from((2, 4)))
    )
    layers = draw(st.sampled_from(((DENSE,) * 4, (MOE,) * 3, (DENSE, MOE, MOE, MOE))))
    problem = Problem(
        model=ModelSpec(name="made-up", hidden=1024, vocab=4096, layers=layers),
        cluster=cluster,
        workload=Workload(global_batch=8, seq_len=2048),
        fixes=parse_fixes(tuple(pins)),
    )
    return _limited(problem, draw(st.sampled_from((0.5e9, 0.8e9, 1.2e9, 40e9))))


def _limited(problem: Problem, limit_bytes: float) -> Problem:
    gpu = msgspec.structs.replace(problem.cluster.gpu, usable_memory_bytes=(limit_bytes + 1.5 * 2**30) / 0.97)
    profile = msgspec.structs.replace(problem.cluster.profile, gpu=gpu)
    return msgspec.structs.replace(problem, cluster=msgspec.structs.replace(problem.cluster, profile=profile))


def _step_s(problem: Problem) -> float:
    """The best step with list-scheduled operators, which is what is searched for; infinite where nothing fits."""
    certificate = _found(problem)
    return certificate.objective_s if certificate else float("inf")


def _found(problem: Problem) -> SearchRecord | None:
    try:
        result = search(problem, top=0, gap=GAP)
    except InfeasibleError:
        return None
    assert result.prediction.fits
    assert result.prediction.step_time_s <= result.certificate.objective_s * (1 + 1e-9)
    return result.certificate


@settings(max_examples=10)
@given(problem=problems(), more=st.floats(1.05, 2.0))
def test_more_memory_is_never_slower(problem: Problem, more: float) -> None:
    limit_bytes = problem.cluster.gpu.usable_memory_bytes * 0.97 - 1.5 * 2**30
    assert _step_s(_limited(problem, limit_bytes * more)) <= _step_s(problem) * SLACK


@settings(max_examples=10)
@given(problem=problems(), data=st.data())
def test_freeing_a_pinned_choice_is_never_slower(problem: Problem, data: st.DataObject) -> None:
    """Of choices whose pin only takes away: TP and Ulysses in one group are looked at where one of them is pinned."""
    fixes = msgspec.structs.asdict(problem.fixes)
    pinned = [name for name, value in fixes.items() if value is not None and name not in MIXED_WHERE_PINNED]
    assume(pinned)
    freed = msgspec.structs.replace(problem.fixes, **{data.draw(st.sampled_from(pinned)): None})
    assert _step_s(msgspec.structs.replace(problem, fixes=freed)) <= _step_s(problem) * SLACK


@settings(max_examples=10)
@given(problem=problems(), pins=st.lists(st.sampled_from(PINS), max_size=2, unique_by=lambda pin: pin.split("=")[0]))
def test_no_pinned_plan_is_faster_than_the_bound_of_the_free_search(problem: Problem, pins: list[str]) -> None:
    free = _found(msgspec.structs.replace(problem, fixes=parse_fixes(("mbs=1",))))
    pinned = msgspec.structs.replace(parse_fixes(tuple(pins)), mbs=1)
    if free is not None:
        assert free.lower_bound_s <= _step_s(msgspec.structs.replace(problem, fixes=pinned)) * (1 + 1e-9)
