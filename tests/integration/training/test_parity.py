"""What planned training computes on several processes is what autograd computes on one, whatever the plan."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from msgspec import UnsetType
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.strategy import AxisOrder
from meshwright.executor.train.balancing import Balancing
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

Results = dict[str, dict[str, Any]]

SCRIPT = Path(__file__).with_name("parity_ranks.py")
TOLERANCE = 1e-10
BFLOAT16_BUDGET = {
    "loss": 5e-3,
    "gradient norm": 1e-1,
    "aux loss": 2e-2,  # of 16 choices an expert has in a step, rounding turns one or another
    "z loss": 5e-2,
    **{f"layers.{index}.router.correction": 2.0 for index in range(4)},  # moved by signs, which rounding turns
    **{f"layers.{index}.router.load": 1.0 for index in range(4)},  # of the last step alone
}
FP8_BUDGET = BFLOAT16_BUDGET | {"loss": 1e-2, "gradient norm": 2e-1}
OTHER_BUDGET = 0.5
"""Of parameters: in six steps AdamW moves small weights by more than their size, and rounding changes whither."""

MOE_KERNELS = {"route", "index", "permute", "unpermute", "swiglu"}

SECONDS = 600
NUM_STEPS = 6
"""Of which the first has room for everything."""

PLANS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("parity_cases.py"))))

ACROSS_LAYERS = ("pp=", "zero=2", "zero=3")
"""Choices by which one layer has to do with others."""

FEW_LAYERS = 2
"""Of other cases, which so train in half of the time."""


@pytest.fixture
def train_all(
    make_plan: Callable[..., Plan], tmp_path: Path, process_environment: dict[str, str]
) -> Callable[..., Results]:
    """Plans and trains cases of so many ranks, all unless some are named, on a kind of device in a format."""

    def train(num_ranks: int, device: str, dtype: str, cases: Iterable[str] = (), *options: str) -> Results:
        plans = tmp_path / "plans"
        shutil.rmtree(plans, ignore_errors=True)
        plans.mkdir()
        chosen = {case: fixes for case, fixes in PLANS.CASES[num_ranks].items() if not cases or case in cases}
        for case, fixes in chosen.items():
            plan = make_plan(
                case.partition(":")[0],
                num_ranks,
                fixes,
                PLANS.GPUS_PER_NODE.get(case, 8),
                num_layers=None if _has_all_layers(case, fixes) else FEW_LAYERS,
                change=_change_of(case),
            )
            if case in PLANS.DP_OUTERMOST:
                plan = replace(plan, mesh=replace(plan.mesh, order=AxisOrder.DP_OUTERMOST))
            if PLANS.IN_HOST_MEMORY in case:
                plan = replace(plan, sharding=replace(plan.sharding, offload_optimizer=True))
            if PLANS.IN_LINE in case:
                plan = replace(
                    plan, runtime=replace(plan.runtime, overlap_gradient_reduce=False, overlap_parameter_gather=False)
                )
            if PLANS.SHARDED_OVER_TWO in case:
                plan = replace(plan, sharding=replace(plan.sharding, shard_degree=2))
            write_plan(plan, plans / f"{case}.plan.json")
            trained = {"balancing": PLANS.BALANCED.get(case, Balancing()), "skewed": case in PLANS.SKEWED}
            (plans / f"{case}.options.json").write_bytes(msgspec.json.encode(trained))
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(plans), str(num_ranks), device, dtype, *options],
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


def _has_all_layers(case: str, fixes: str) -> bool:
    """Whether layers have to do with each other, in the case or in one that it is compared with, or are counted."""
    compared = next((group for group in PLANS.ALIKE if case in group), (case,))
    waits = any(PLANS.ACTIVATIONS_IN_HOST_MEMORY in one for one in compared)
    return case.startswith("three layers") or waits or any(choice in fixes for choice in ACROSS_LAYERS)


def _change_of(case: str) -> Callable[[TrainingConfiguration], TrainingConfiguration]:
    if case in PLANS.BY_TURNS:
        return by_turns
    if PLANS.ACTIVATIONS_IN_HOST_MEMORY in case:
        return partial(offloaded, step=2 if PLANS.EVERY_SECOND_LAYER in case else 1)
    return lambda found: found


def offloaded(configuration: TrainingConfiguration, step: int) -> TrainingConfiguration:
    """Every `step`-th layer with its widest tensors in host memory, in the orders that list scheduling finds."""
    numbers = count()
    stages = tuple(
        tuple(replace(one, offload=next(numbers) % step == 0) for one in stage) for stage in configuration.stages
    )
    return replace(configuration, stages=stages)


def by_turns(configuration: TrainingConfiguration) -> TrainingConfiguration:
    """Every second layer with tp and sp exchanged."""
    numbers = count()
    stages = tuple(
        tuple(replace(one, tp=one.sp, sp=one.tp) if next(numbers) % 2 else one for one in stage)
        for stage in configuration.stages
    )
    return replace(configuration, stages=stages)


def wrong(found: Results, tolerances: dict[str, float], otherwise: float) -> list[str]:
    """The errors above their tolerances, a line each. What travels in 8 bits has a budget of its own."""
    lines = []
    for case, result in found.items():
        limits, other = (FP8_BUDGET, OTHER_BUDGET) if PLANS.FP8 in case else (tolerances, otherwise)
        errors = result["errors"].items()
        lines += [f"{case}: {name} {error:.1e}" for name, error in errors if not error <= limits.get(name, other)]
    return lines


@pytest.mark.parametrize("num_ranks", PLANS.CASES)
def test_planned_training_agrees_with_one_process(num_ranks: int, train_all: Callable[..., Results]) -> None:
    found = train_all(num_ranks, "cpu", "float64")
    assert wrong(found, {}, TOLERANCE) == []
    for case, result in found.items():
        bounded = not isinstance(PLANS.BALANCED.get(case, Balancing()).capacity_factor, UnsetType)
        assert (result["dropped"] > PLANS.LEAST_DROPPED) == bounded, case
    assert [case for case, result in found.items() if PLANS.FP8 in case and result["errors"]["loss"] <= TOLERANCE] == []
    for case in PLANS.SKEWED:
        assert case not in found or found[case]["expert load"] > PLANS.SKEWED_LOAD, case
    for group in PLANS.ALIKE:
        assert len({found[case]["digest"] for case in group if case in found}) <= 1, group
    streamed = {case: found[case]["digest"] for case in PLANS.STREAMED if case in found}
    if streamed:
        on_streams = train_all(num_ranks, "cpu", "float64", tuple(streamed), "host-streams")
        assert {case: result["digest"] for case, result in on_streams.items()} == streamed
    in_bytes = tuple(case for case in found if PLANS.FP8 in case)
    if in_bytes:
        lossless = train_all(num_ranks, "cpu", "float64", in_bytes, "wide-wire")
        assert [case for case, one in lossless.items() if not max(one["errors"].values()) <= TOLERANCE] == []
    roomy = {case: found[case]["digest"] for case in PLANS.ROOMY if case in found}
    if roomy:
        with_room = train_all(num_ranks, "cpu", "float64", tuple(roomy), "room")
        assert {case: result["digest"] for case, result in with_room.items()} == roomy
        repeated = {case: result["repeated"] for case, result in with_room.items()}
        assert any(repeated.values()), repeated  # steps that needed more
        assert all(number < NUM_STEPS - 1 for number in repeated.values()), repeated  # and others that had room


def test_sixteen_bits_stay_within_their_budget(train_all: Callable[..., Results]) -> None:
    found = train_all(
        2,
        "cpu",
        "bfloat16",
        ("dense: dp", "dense: tp", "dense: zero 3", "moe: ep", "moe: zb-v", "moe: per device, ep", "moe: ep, dedup"),
    )
    assert wrong(found, BFLOAT16_BUDGET, OTHER_BUDGET) == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_beside_the_layers_or_in_line_on_gpus(dtype: str, train_all: Callable[..., Results]) -> None:
    _need_gpus(2)
    found = train_all(2, "cuda", dtype, [case for pair in PLANS.OVERLAPPED for case in pair])
    assert [pair for pair in PLANS.OVERLAPPED if len({found[case]["digest"] for case in pair}) > 1] == []


@pytest.mark.gpu
def test_activations_in_host_memory_change_nothing_on_gpus(train_all: Callable[..., Results]) -> None:
    _need_gpus(2)
    pairs = [
        group
        for group in PLANS.ALIKE
        if len(group) == 2 and PLANS.ACTIVATIONS_IN_HOST_MEMORY in group[1] and group[0] in PLANS.TWO
    ]
    found = train_all(2, "cuda", "bfloat16", [case for pair in pairs for case in pair])
    assert [pair for pair in pairs if len({found[case]["digest"] for case in pair}) > 1] == []


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_same_on_gpus(num_ranks: int, train_all: Callable[..., Results]) -> None:
    _need_gpus(num_ranks)
    found = train_all(num_ranks, "cuda", "float64")
    assert wrong(found, {}, TOLERANCE) == []


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_room_changes_nothing_on_gpus(num_ranks: int, train_all: Callable[..., Results]) -> None:
    _need_gpus(num_ranks)
    cases = [case for case in PLANS.CASES[num_ranks] if case in PLANS.ROOMY]
    exact = train_all(num_ranks, "cuda", "bfloat16", cases)
    ample, little = (train_all(num_ranks, "cuda", "bfloat16", cases, how) for how in ("ample-room", "room"))
    digests = [{case: one["digest"] for case, one in found.items()} for found in (exact, ample, little)]
    assert digests[0] == digests[1] == digests[2]
    assert any(result["repeated"] for result in little.values())
    assert {case: waits for case, result in ample.items() if (waits := _waits(case, result["waits"]))} == {}


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_sixteen_bits_on_gpus(num_ranks: int, train_all: Callable[..., Results]) -> None:
    """With CUDA kernels wherever experts are."""
    _need_gpus(num_ranks)
    found = train_all(num_ranks, "cuda", "bfloat16")
    assert wrong(found, BFLOAT16_BUDGET, OTHER_BUDGET) == []
    without_experts = ("dense", "odd vocabulary", "three layers")
    missing = {
        case: MOE_KERNELS - set(result["kernels"]) - ({"swiglu"} if "etp" in case else set())  # whose rows are 24 bytes
        for case, result in found.items()
        if not case.startswith(without_experts)
    }
    assert {case: sorted(names) for case, names in missing.items() if names} == {}


@pytest.mark.gpu
def test_overlap_changes_nothing_on_gpus(train_all: Callable[..., Results]) -> None:
    _need_gpus(2)
    cases = (
        "dense: tp",
        "dense: sp, ffn tp",
        "moe: ep",
        "moe: tp, ep",
        "moe: ep, sar",
        "latent: tp, ep",
        "moe: zb-v",
        "moe: dualpipe-v",
        *(case for case in PLANS.TWO if PLANS.ACTIVATIONS_IN_HOST_MEMORY in case),
    )
    overlapped = train_all(2, "cuda", "bfloat16", cases)
    alone = train_all(2, "cuda", "bfloat16", cases, "one-stream")
    assert {case: result["digest"] for case, result in overlapped.items()} == {
        case: result["digest"] for case, result in alone.items()
    }


def _waits(case: str, waits: list[str]) -> list[str]:
    """Those that are not of products whose slices of experts are too narrow for a kernel, as no model's are."""
    return [wait for wait in waits if not ("etp" in case and wait.startswith(("experts_fc1", "experts_fc2")))]


def _need_gpus(num_ranks: int) -> None:
    """Two ranks may share a GPU; more would take too long."""
    if torch.cuda.device_count() < max(1, num_ranks // 2):
        pytest.skip(f"needs {max(1, num_ranks // 2)} CUDA devices")
