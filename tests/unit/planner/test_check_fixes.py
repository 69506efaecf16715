from __future__ import annotations

import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.check_fixes import check_fixes
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.space import Problem


def _problem(
    fixes: str, model: str = "internal-352b", gpus: int = 1440, global_batch: int = 720, seq_len: int = 8192
) -> Problem:
    return Problem(
        model=load_model(model),
        cluster=load_cluster("h800", num_gpus=gpus),
        workload=Workload(global_batch=global_batch, seq_len=seq_len),
        fixes=parse_fixes((fixes,) if fixes else ()),
    )


def _refusal(problem: Problem, runtime: str = "meshwright") -> str:
    with pytest.raises(StrategyError) as caught:
        check_fixes(problem, load_runtime(runtime))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "fixes",
    [
        "",
        "sp=8,ep=8,pp=15",
        "tp=8,pp=15,vp=4,dp=12,mbs=1,schedule=interleaved",
        "ep=32,pp=15,dp=6,sp=8,tp=2",
        "attention=cp-ring,cp=2",
        "ffn=tp",
        "etp=2",
        "recompute=full,zero=1",
    ],
)
def test_what_can_be_met_passes(fixes: str) -> None:
    check_fixes(_problem(fixes), load_runtime("meshwright"))


@pytest.mark.parametrize(
    ("fixes", "expected"),
    [
        ("sp=3", "--fix: sp=3: cannot split 32 heads with 8 key-value heads evenly; tp x sp can be 1, 2, 4, 8"),
        ("tp=8,pp=7", "--fix: tp=8 pp=7: product 56 does not divide 1440 GPUs; pp can be 1, 2, 3, 4, 5, 6, 9, 10"),
        ("tp=2,sp=2,cp=2,pp=15,dp=6", "--fix: tp=2 sp=2 cp=2 pp=15 dp=6: product 720 is not 1440 GPUs; dp can be 12"),
        ("ep=5", "--fix: ep=5: does not divide 32 experts; ep can be 1, 2, 4, 8, 16, 32"),
        ("etp=3", "--fix: etp=3: does not divide an expert's width 14336; etp can be 1, 2, 4, 8"),
        ("etp=16", "--fix: etp=16: slices experts inside a node of 8 GPUs; etp can be 1, 2, 4, 8"),
        ("ep=32,pp=20", "--fix: ep=32 pp=20: ep x etp = 32 does not divide the 72 GPUs of a pipeline stage"),
        ("pp=72", "--fix: pp=72: needs a layer a stage, internal-352b has 60; pp can be 1 to 60"),
        (
            "pp=15,vp=5",
            "--fix: pp=15 vp=5: 75 virtual stages need a layer each, internal-352b has 60; vp can be 1 to 4",
        ),
        ("pp=1,vp=2", "--fix: pp=1 vp=2: one stage is no pipeline; with pp=1, vp can be 1"),
        ("schedule=zb-v,vp=3", "--fix: schedule=zb-v vp=3: zb-v has two virtual stages a device: vp=2"),
        (
            "schedule=zb-v,pp=60",
            "--fix: schedule=zb-v pp=60: 120 virtual stages need a layer each, internal-352b has 60",
        ),
        ("schedule=zb-h1,vp=2", "--fix: schedule=zb-h1 vp=2: zb-h1 has one virtual stage a device: vp=1"),
        ("schedule=interleaved,vp=1", "--fix: schedule=interleaved vp=1: interleaved has several virtual stages"),
        ("schedule=interleaved,pp=1", "--fix: schedule=interleaved pp=1: one stage is no pipeline"),
        ("cp=3", "--fix: cp=3: --seq-len 8192 is not a multiple of 2 x cp x tp x sp = 6"),
        ("tp=64", "--fix: tp=64: cannot split 32 heads"),
    ],
)
def test_what_contradicts_the_model_or_the_cluster_is_refused(fixes: str, expected: str) -> None:
    assert _refusal(_problem(fixes)).startswith(expected)


@pytest.mark.parametrize(
    ("fixes", "expected"),
    [
        ("ep=2", "--fix: ep=2: llama-3.1-8b is dense, it has no experts; ep can be 1"),
        ("ffn=ep", "--fix: ffn=ep: llama-3.1-8b is dense, it has no experts; ffn can be tp or replicated"),
        ("dispatch=alltoall", "--fix: dispatch=alltoall: llama-3.1-8b is dense, it has no experts to dispatch to"),
    ],
)
def test_a_dense_model_has_no_experts(fixes: str, expected: str) -> None:
    assert _refusal(_problem(fixes, model="llama-3.1-8b", gpus=8)) == expected


def test_choices_that_only_clash_together_are_named() -> None:
    message = _refusal(_problem("pp=1,dp=1"))
    assert message.startswith("--fix: pp=1 dp=1: no legal plan has all of these on 1440 GPUs")
    assert message.endswith("; free dp")


def test_a_schedule_that_needs_more_micro_batches_names_a_batch_that_has_them() -> None:
    message = _refusal(_problem("pp=30,dp=48,schedule=dualpipe-v"))
    assert message.startswith("--global-batch: 720 sequences")
    assert message.endswith("the nearest batch is 2880")
    check_fixes(_problem("pp=30,dp=48,schedule=dualpipe-v", global_batch=2880), load_runtime("meshwright"))


def test_a_batch_that_cannot_be_shared_names_the_nearest_that_can() -> None:
    message = _refusal(_problem("pp=15,dp=12,sp=8", global_batch=730))
    assert message == (
        "--global-batch: 730 sequences cannot be shared by any legal dp x micro-batch on 1440 GPUs, dp=12, pp=15;"
        " dp can be 12; the nearest batch is 720 or 732"
    )
    check_fixes(_problem("pp=15,dp=12,sp=8", global_batch=720), load_runtime("meshwright"))
    check_fixes(_problem("pp=15,dp=12,sp=8", global_batch=732), load_runtime("meshwright"))


def test_a_batch_that_is_far_too_small_names_one_that_is_large_enough() -> None:
    message = _refusal(_problem("", global_batch=7))
    assert message.startswith(
        "--global-batch: 7 sequences cannot be shared by any legal dp x micro-batch on 1440 GPUs;"
    )
    nearest = int(message.rpartition(" ")[2])
    check_fixes(_problem("", global_batch=nearest), load_runtime("meshwright"))


def test_a_pinned_micro_batch_that_cannot_share_the_batch_is_refused() -> None:
    message = _refusal(_problem("mbs=7,dp=12,pp=15"))
    assert message.endswith("on 1440 GPUs, dp=12, mbs=7, pp=15; dp can be 12; the nearest batch is 672 or 756")
    check_fixes(_problem("mbs=7,dp=12,pp=15", global_batch=756), load_runtime("meshwright"))


def test_a_sequence_longer_than_the_learned_positions_is_refused() -> None:
    message = _refusal(_problem("", model="gpt3-175b", gpus=64, global_batch=64, seq_len=4096))
    assert message == "--seq-len: 4096 tokens, but gpt3-175b has 2048 learned positions"


def test_models_that_a_runtime_does_not_run_are_refused() -> None:
    problem = _problem("", "gpt-oss-20b", gpus=8, seq_len=4096)
    assert _refusal(problem, "meshwright-run").startswith("--runtime: meshwright-run does not run sliding windows")
    check_fixes(problem, load_runtime("meshwright"))
