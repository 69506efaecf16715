"""A plan for other ranks than there are is refused with the command that plans for those."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import PlanError
from meshwright.executor.train.fit import check_cpu_ranks, check_gpus, check_world, plan_command
from meshwright.planner.plan import Plan


def test_a_command_that_fits(tiny_plan: Plan) -> None:
    assert plan_command(tiny_plan, 2) == (
        "meshwright plan CONFIG-OF-tiny_moe.json --cluster h100 --gpus 2 --global-batch 8 --seq-len 16"
    )
    known = replace(tiny_plan, model=replace(tiny_plan.model, name="mixtral-8x7b"))
    assert plan_command(known, 2).startswith("meshwright plan mixtral-8x7b --cluster")


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
