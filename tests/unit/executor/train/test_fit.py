"""A plan for other ranks than there are is refused with the command that plans for those."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.program.operators import Precision
from meshwright.executor.train.fit import check_cpu_ranks, check_gpus, check_world, plan_command
from meshwright.planner.plan import Plan


def test_a_command_that_fits(tiny_plan: Plan, repository: Path) -> None:
    options = "--gpus 2 --global-batch 8 --seq-len 16 -o plan_2.json"
    pins = "the --fix of this plan again, if it had some"
    config = repository / "docs" / "tiny_moe.json"
    assert plan_command(tiny_plan, 2) == f"meshwright plan {config} --cluster h100 {options} ({pins})"
    known = replace(tiny_plan, model=replace(tiny_plan.model, name="mixtral-8x7b"))
    assert plan_command(known, 2).startswith("meshwright plan mixtral-8x7b --cluster")


def test_what_the_plan_does_not_know_is_said_in_words(tiny_plan: Plan) -> None:
    elsewhere = replace(
        tiny_plan,
        model=replace(tiny_plan.model, source="gone/config.json"),
        cluster=replace(tiny_plan.cluster, name="mine"),
    )
    assert plan_command(elsewhere, 2) == (
        "meshwright plan MODEL --cluster CLUSTER --gpus 2 --global-batch 8 --seq-len 16 -o plan_2.json"
        " (MODEL: the config.json of tiny_moe; CLUSTER: the file of the cluster mine;"
        " the --fix of this plan again, if it had some)"
    )


def test_what_the_plan_was_made_for_stays(tiny_plan: Plan) -> None:
    other = replace(
        tiny_plan,
        workload=replace(tiny_plan.workload, precision=Precision.FP8, expert_imbalance=1.5),
        runtime=replace(tiny_plan.runtime, name="meshwright-run"),
        model=replace(tiny_plan.model, name="mixtral-8x7b", source="x" * 5000),
    )
    options = " --precision fp8 --expert-imbalance 1.5 --runtime meshwright-run -o plan_2.json ("
    assert options in plan_command(other, 2)
    unknown = replace(other, model=replace(other.model, name="other"))
    assert plan_command(unknown, 2).startswith("meshwright plan MODEL ")


def test_another_world(tiny_plan: Plan) -> None:
    check_world(tiny_plan, "plan.json", 4, "ranks")
    with pytest.raises(PlanError, match=r"plan.json: mesh: the plan is for 4 ranks, here are 8 .*--gpus 8"):
        check_world(tiny_plan, "plan.json", 8, "started by torchrun")


def test_too_few_gpus(tiny_plan: Plan) -> None:
    check_gpus(tiny_plan, "plan.json", 8)
    with pytest.raises(PlanError, match=r"for 4 GPUs, this host has 2: .*--gpus 2"):
        check_gpus(tiny_plan, "plan.json", 2)


def test_too_many_processes(tiny_plan: Plan) -> None:
    check_cpu_ranks(tiny_plan, "plan.json")
    large = replace(tiny_plan, mesh=replace(tiny_plan.mesh, dp=64))
    with pytest.raises(PlanError, match="at most 16"):
        check_cpu_ranks(large, "plan.json")
