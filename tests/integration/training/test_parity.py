"""What planned training computes on several processes is what autograd computes on one, whatever the plan."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from meshwright.costmodel.strategy import AxisOrder
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

Results = dict[str, dict[str, Any]]

SCRIPT = Path(__file__).with_name("parity_ranks.py")
TOLERANCE = 1e-10
BFLOAT16_BUDGET = {"loss": 5e-3, "gradient norm": 1e-1}
OTHER_BUDGET = 0.5
"""Of parameters: in six steps AdamW moves small weights by more than their size, and rounding changes whither."""

SECONDS = 300

ONE = {
    "dense": "mbs=2",
    "moe": "mbs=2",
    "latent": "mbs=4",
    "moe: recompute": "mbs=2,recompute=full",
    "three layers": "mbs=1",
}
TWO = {
    "dense: dp": "dp=2,mbs=2",
    "dense: dp, zero 0": "dp=2,mbs=2,zero=0",
    "dense: tp": "tp=2,mbs=2",
    "dense: sp": "sp=2,mbs=2",
    "dense: sp, ffn tp": "sp=2,ffn=tp,mbs=2",
    "dense: 1f1b": "pp=2,mbs=1,schedule=1f1b",
    "three layers: 1f1b": "pp=2,mbs=1,schedule=1f1b",
    "dense: gpipe": "pp=2,mbs=2,schedule=gpipe",
    "dense: interleaved": "pp=2,vp=2,mbs=1,schedule=interleaved",
    "dense: zb-h1": "pp=2,mbs=1,schedule=zb-h1",
    "dense: zb-v": "pp=2,mbs=1,schedule=zb-v",
    "dense: dualpipe-v": "pp=2,mbs=1,schedule=dualpipe-v",
    "moe: dp": "dp=2,mbs=2,ep=1",
    "moe: ep": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: ep, allgather": "dp=2,ep=2,mbs=2,dispatch=allgather",
    "moe: tp": "tp=2,ep=1,mbs=2",
    "moe: tp, ep": "tp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: sp, ep": "sp=2,ep=2,mbs=2,dispatch=allgather",
    "moe: zb-v": "pp=2,mbs=1,schedule=zb-v",
    "moe: ep, once more": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: ep, sar": "dp=2,ep=2,mbs=2,dispatch=alltoall,recompute=sar",
    "moe: ep, full recomputation": "dp=2,ep=2,mbs=2,dispatch=alltoall,recompute=full",
    "dense: zero 2": "dp=2,mbs=1,zero=2",
    "dense: zero 3": "dp=2,mbs=1,zero=3",
    "dense: zero 2, optimizer in host memory": "dp=2,mbs=1,zero=2",
    "dense: dp, in line": "dp=2,mbs=2",
    "dense: zero 2, in line": "dp=2,mbs=1,zero=2",
    "dense: zero 3, in line": "dp=2,mbs=1,zero=3",
    "moe: zero 2, ep": "dp=2,ep=2,mbs=2,dispatch=alltoall,zero=2",
    "moe: zero 3, ep": "dp=2,ep=2,mbs=2,dispatch=alltoall,zero=3",
    "moe: zero 3": "dp=2,ep=1,mbs=2,zero=3",
    "moe: zero 3, once more": "dp=2,ep=1,mbs=2,zero=3",
    "moe: zero 3, sar": "dp=2,ep=1,mbs=2,zero=3,recompute=sar",
    "moe: zero 3, full recomputation": "dp=2,ep=1,mbs=2,zero=3,recompute=full",
    "latent: tp, ep": "tp=2,ep=2,mbs=2,dispatch=alltoall",
    "latent: sp, ep": "sp=2,ep=2,mbs=2,dispatch=allgather",
    "latent: interleaved": "pp=2,vp=2,mbs=1,schedule=interleaved",
}
FOUR = {
    "moe: folded, ep over sp and dp": "sp=2,dp=2,ep=4,mbs=2,dispatch=alltoall",
    "moe: folded, allgather": "sp=2,dp=2,ep=4,mbs=2,dispatch=allgather",
    "moe: ep, edp": "dp=4,ep=2,mbs=1,dispatch=alltoall",
    "moe: ep, edp, zero 0": "dp=4,ep=2,mbs=1,dispatch=alltoall,zero=0",
    "moe: tp, edp": "tp=2,dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: tp, ep wider": "tp=2,dp=2,ep=4,mbs=2,dispatch=alltoall",
    "moe: tp and sp": "tp=2,sp=2,ep=4,mbs=2,dispatch=allgather",
    "moe: 1f1b, ep": "pp=2,dp=2,ep=2,mbs=1,schedule=1f1b,dispatch=alltoall",
    "moe: 1f1b, ep, dp outermost": "pp=2,dp=2,ep=2,mbs=1,schedule=1f1b,dispatch=alltoall",
    "empty experts: ep, edp": "dp=4,ep=2,mbs=1,dispatch=alltoall",
    "groups of experts: tp, ep wider": "tp=2,dp=2,ep=4,mbs=2,dispatch=allgather",
    "gated shared experts: tp, edp": "tp=2,dp=2,ep=2,mbs=2,dispatch=alltoall",
    "dense: more sp ranks than key heads": "sp=4,mbs=2",
    "moe: dualpipe-v, ep": "pp=2,dp=2,ep=2,mbs=1,schedule=dualpipe-v,dispatch=alltoall",
    "moe: zb-v, sp": "pp=2,sp=2,ep=2,mbs=1,schedule=zb-v,dispatch=allgather",
    "dense: four stages": "pp=4,mbs=1,schedule=1f1b",
    "dense: tied ends, dp": "pp=2,dp=2,mbs=1,schedule=1f1b",
    "latent: tp, dp": "tp=2,dp=2,ep=2,mbs=2,dispatch=allgather",
    "dense: zero 1, sharded over 2": "dp=4,mbs=1,zero=1",
    "dense: zero 2, sharded over 2": "dp=4,mbs=1,zero=2",
    "dense: zero 3, sharded over 2": "dp=4,mbs=1,zero=3",
    "moe: zero 3, ep, edp": "dp=4,ep=2,mbs=1,dispatch=alltoall,zero=3",
    "moe: zero 3, ep, edp, sharded over 2": "dp=4,ep=2,mbs=1,dispatch=alltoall,zero=3",
    "moe: zero 3, tp, ep wider": "tp=2,dp=2,ep=4,mbs=2,dispatch=alltoall,zero=3",
    "moe: zero 2, sp, ep": "sp=2,dp=2,ep=2,mbs=2,dispatch=allgather,zero=2",
    "dense: zero 2, tied ends": "pp=2,dp=2,mbs=1,schedule=1f1b,zero=2",
    "dense: zero 3, tied ends": "pp=2,dp=2,mbs=1,schedule=1f1b,zero=3",
    "moe: zero 2, zb-v": "pp=2,dp=2,ep=2,mbs=1,schedule=zb-v,dispatch=alltoall,zero=2",
    "moe: zero 3, zb-v": "pp=2,dp=2,ep=2,mbs=1,schedule=zb-v,dispatch=alltoall,zero=3",
    "moe: zero 3, interleaved": "pp=2,dp=2,ep=1,mbs=1,vp=2,schedule=interleaved,zero=3",
}
EIGHT = {
    "moe: everything": "pp=2,dp=2,sp=2,ep=4,mbs=1,schedule=1f1b,dispatch=alltoall",
    "moe: zero 3, sharded over 2": "dp=4,sp=2,ep=4,mbs=1,dispatch=alltoall,zero=3",
    "moe: tp, dp, pp": "pp=2,dp=2,tp=2,ep=2,mbs=1,schedule=interleaved,vp=2,dispatch=allgather",
}
CASES = {1: ONE, 2: TWO, 4: FOUR, 8: EIGHT}
DP_OUTERMOST = ("moe: 1f1b, ep, dp outermost",)
"""Cases whose ranks are numbered so; the planner does that only where nodes are several."""

IN_HOST_MEMORY = "optimizer in host memory"
"""Cases whose masters and moments are there, as the planner does only where GPUs have no room for them."""

IN_LINE = "in line"
"""Cases whose gradients are reduced and weights gathered beside nothing."""

SHARDED_OVER_TWO = "sharded over 2"
"""Cases whose state is sharded over two replicas and copied over the others, which the planner cannot be told to do."""

OVERLAPPED = (
    ("dense: dp", "dense: dp, in line"),
    ("dense: zero 2", "dense: zero 2, in line"),
    ("dense: zero 3", "dense: zero 3, in line"),
)
ALIKE = (
    *OVERLAPPED,
    ("dense: zero 2", "dense: zero 3", "dense: zero 2, optimizer in host memory"),
    ("moe: zero 3", "moe: zero 3, once more", "moe: zero 3, sar", "moe: zero 3, full recomputation"),
    ("moe: ep", "moe: ep, once more", "moe: ep, sar", "moe: ep, full recomputation"),
    ("moe", "moe: recompute"),
)
"""Plans whose weights are the same to the last bit."""


@pytest.fixture
def train_all(
    make_plan: Callable[[str, int, str], Plan], tmp_path: Path, process_environment: dict[str, str]
) -> Callable[..., Results]:
    """Plans and trains cases of so many ranks, all unless some are named, on a kind of device in a format."""

    def train(num_ranks: int, device: str, dtype: str, cases: Iterable[str] = ()) -> Results:
        plans = tmp_path / "plans"
        plans.mkdir()
        chosen = {case: fixes for case, fixes in CASES[num_ranks].items() if not cases or case in cases}
        for case, fixes in chosen.items():
            plan = make_plan(case.partition(":")[0], num_ranks, fixes)
            if case in DP_OUTERMOST:
                plan = replace(plan, mesh=replace(plan.mesh, order=AxisOrder.DP_OUTERMOST))
            if IN_HOST_MEMORY in case:
                plan = replace(plan, sharding=replace(plan.sharding, offload_optimizer=True))
            if IN_LINE in case:
                plan = replace(
                    plan, runtime=replace(plan.runtime, overlap_gradient_reduce=False, overlap_parameter_gather=False)
                )
            if SHARDED_OVER_TWO in case:
                plan = replace(plan, sharding=replace(plan.sharding, shard_degree=2))
            write_plan(plan, plans / f"{case}.plan.json")
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(plans), str(num_ranks), device, dtype],
            env=process_environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: Results = json.loads(done.stdout)
        assert found.keys() == chosen.keys()
        return found

    return train


def wrong(found: Results, tolerances: dict[str, float], otherwise: float) -> list[str]:
    """The errors above their tolerances, a line each."""
    return [
        f"{case}: {name} {error:.1e}"
        for case, result in found.items()
        for name, error in result["errors"].items()
        if not error <= tolerances.get(name, otherwise)
    ]


@pytest.mark.parametrize("num_ranks", CASES)
def test_planned_training_agrees_with_one_process(num_ranks: int, train_all: Callable[..., Results]) -> None:
    found = train_all(num_ranks, "cpu", "float64")
    assert wrong(found, {}, TOLERANCE) == []
    for group in ALIKE:
        assert len({found[case]["digest"] for case in group if case in found}) <= 1, group


def test_sixteen_bits_stay_within_their_budget(train_all: Callable[..., Results]) -> None:
    found = train_all(2, "cpu", "bfloat16", ("dense: dp", "dense: tp", "moe: ep", "moe: zb-v"))
    assert wrong(found, BFLOAT16_BUDGET, OTHER_BUDGET) == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_beside_the_layers_or_in_line_on_gpus(dtype: str, train_all: Callable[..., Results]) -> None:
    _need_gpus(2)
    found = train_all(2, "cuda", dtype, [case for pair in OVERLAPPED for case in pair])
    assert [pair for pair in OVERLAPPED if len({found[case]["digest"] for case in pair}) > 1] == []


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_same_on_gpus(num_ranks: int, train_all: Callable[..., Results]) -> None:
    _need_gpus(num_ranks)
    assert wrong(train_all(num_ranks, "cuda", "float64"), {}, TOLERANCE) == []


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_sixteen_bits_on_gpus(num_ranks: int, train_all: Callable[..., Results]) -> None:
    _need_gpus(num_ranks)
    assert wrong(train_all(num_ranks, "cuda", "bfloat16"), BFLOAT16_BUDGET, OTHER_BUDGET) == []


def _need_gpus(num_ranks: int) -> None:
    if torch.cuda.device_count() < num_ranks:
        pytest.skip(f"needs {num_ranks} CUDA devices")
