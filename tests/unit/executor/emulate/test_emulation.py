"""A part of a plan runs in its stead; what is still the plan's is told from what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from meshwright.costmodel.errors import InputError, PlanError
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.stage_cost import cost_context
from meshwright.costmodel.step import predict
from meshwright.costmodel.workload import Workload
from meshwright.executor.emulate import emulation as emulation_module
from meshwright.executor.emulate.emulation import Emulation, emulate
from meshwright.executor.train.entry import run
from meshwright.executor.train.operator_times import alike_parts
from meshwright.executor.train.refusals import check_runs
from meshwright.executor.train.request import DeviceChoice, RunRequest
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan, configuration_of
from meshwright.planner.search import search
from meshwright.planner.serialise import write_plan
from meshwright.planner.space import Problem


@pytest.fixture(scope="module")
def plan(repository: Path) -> Plan:
    """docs/tiny_moe.json in two stages, over dp 8 and ep 8."""
    problem = Problem(
        model=load_model(str(repository / "docs" / "tiny_moe.json")),
        cluster=load_cluster("h100").with_gpus(16),
        workload=Workload(global_batch=64, seq_len=64),
        fixes=parse_fixes(("pp=2,dp=8,tp=1,sp=1,ep=8,mbs=1,dispatch=alltoall,zero=1,schedule=1f1b",)),
    )
    found = search(problem, top=0)
    return build_plan(found.configuration, found.prediction, found.certificate)


def not_same(emulation: Emulation) -> set[str]:
    return {one.name for one in emulation.record.predicted_only if not one.part.startswith("stage")}


def test_where_all_experts_fit_every_operator_is_the_plans(plan: Plan) -> None:
    emulation = emulate(plan, "plan.json", 8, "1")
    reduced = configuration_of(emulation.plan)
    assert (reduced.mesh.pp, reduced.mesh.dp, reduced.mesh.ep, reduced.model.num_layers) == (1, 8, 8, 2)
    assert (reduced.num_micro_batches, emulation.record.layers, emulation.record.experts_cut) == (4, (2, 3), False)
    assert not_same(emulation) == set()
    between = {one.name for one in emulation.record.predicted_only}
    assert between == {"gradient reduction", "parameter gather", "message to the next"}
    assert emulation.plan.orders == plan.orders
    check_runs(reduced)


def test_copies_to_and_from_the_host_are_of_other_layers(plan: Plan) -> None:
    configuration = configuration_of(plan)
    stages = tuple(tuple(replace(one, offload=True) for one in stage) for stage in configuration.stages)
    found = predict(offloading := replace(configuration, stages=stages))
    emulation = emulate(build_plan(offloading, found, plan.search), "plan.json", 8, "1")
    assert not_same(emulation) == {"offload", "reload"}


def test_with_fewer_experts_the_router_and_its_collectives_are_not(plan: Plan) -> None:
    emulation = emulate(plan, "plan.json", 2, "layers")
    reduced = configuration_of(emulation.plan)
    assert (reduced.mesh.dp, reduced.mesh.ep, reduced.model.num_layers) == (2, 2, 1)
    assert (emulation.record.layers, emulation.record.experts_cut) == ((0,), True)
    not_run = not_same(emulation)
    assert {"router", "dispatch", "combine", "dispatch.backward"} <= not_run
    assert not not_run & {"attention", "qkv", "experts_fc1", "experts_fc2.wgrad", "experts_activation", "attn_norm"}
    (dispatch,) = (one for one in emulation.record.predicted_only if one.name == "dispatch")
    assert (dispatch.part, dispatch.reason) == ("layers 0-3", "over 8 ranks")
    assert emulation.record.expert_imbalance > 1.0
    check_runs(reduced)


def test_the_plans_parts_are_those_of_what_runs(plan: Plan) -> None:
    emulation = emulate(plan, "plan.json", 8, "1")
    assert [(part.name, part.titles) for part in emulation.parts] == [
        ("embedding", ("embedding",)),
        ("layers 0-3", ("layer 0", "layer 1")),
        ("head", ("head",)),
    ]
    here = alike_parts(configuration_of(emulation.plan))
    assert {title for part in here for title in part.titles} == {
        title for one in emulation.parts for title in one.titles
    }


def test_equal_work_is_what_is_the_plans(plan: Plan) -> None:
    emulation = emulate(plan, "plan.json", 2, "layers")
    full, reduced = configuration_of(plan), configuration_of(emulation.plan)
    of_plan = cost_context(full).program(full.model.layers[0], full.stages[0][0])
    here = cost_context(reduced).program(reduced.model.layers[0], reduced.stages[0][0])
    works = {operator.name: operator.work for operator in here.forward}
    for operator in of_plan.forward:
        assert (works.get(operator.name) == operator.work) is (("layers 0-3", operator.name) in emulation.same)


@pytest.mark.parametrize(
    ("num_ranks", "what", "message"),
    [
        (16, "layers", "mesh: --emulate: the plan's 16 ranks are here; run it without"),
        (2, "2", "pipeline: --emulate: 2 is neither; expected layers or a virtual stage with layers, 0 to 1"),
        (2, "all", "pipeline: --emulate: all is neither"),
    ],
)
def test_what_cannot_be_done_is_refused(plan: Plan, num_ranks: int, what: str, message: str) -> None:
    with pytest.raises(PlanError, match=f"^plan.json: {message}"):
        emulate(plan, "plan.json", num_ranks, what)


def test_a_part_that_does_not_fit_is_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation_module, "predict", lambda one: replace(predict(one), memory_limit_bytes=1.0))
    with pytest.raises(PlanError, match=r"--emulate: 0 here needs .* a rank, there are 1 B; --emulate layers"):
        emulate(plan, "plan.json", 8, "0")


@pytest.mark.parametrize("what", ["layers", "1"])
def test_one_rank_runs_it(what: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense-attention part on one process: what it measures is the plan's, what it cannot is listed."""
    monkeypatch.setattr("meshwright.executor.train.entry.EMULATED_CPU_RANKS", 1)
    problem = Problem(
        model=load_model(str(repository / "docs" / "tiny_moe.json")),
        cluster=load_cluster("h100").with_gpus(4),
        workload=Workload(global_batch=16, seq_len=16),
        fixes=parse_fixes(("pp=2,dp=2,tp=1,sp=1,ep=1,mbs=4,zero=1,schedule=1f1b",)),
    )
    found = search(problem, top=0)
    write_plan(build_plan(found.configuration, found.prediction, found.certificate), tmp_path / "plan.json")
    request = RunRequest(
        plan=tmp_path / "plan.json", output=tmp_path / "run", num_steps=5, device=DeviceChoice.CPU, emulate=what
    )
    summary = run(request, (), lambda _: None)
    assert summary is not None
    assert summary.emulation is not None
    first = len(found.configuration.stages[0])
    assert summary.emulation.layers == ((0,) if what == "layers" else tuple(range(first, 4)))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    names = {one["name"] for one in record["operators"] if one["part"] == "layers 0-3"}
    assert {"attention", "experts_fc1", "topk"} <= names
    assert {one["name"] for one in record["emulation"]["predicted_only"]} >= {"gradient reduction"}
    assert record["emulation"]["plan_mesh"]["pp"] == 2


def test_weights_and_checkpoints_are_not_those_of_a_part(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--load: does not go with --emulate"):
        RunRequest(plan=tmp_path, output=tmp_path, num_steps=1, emulate="layers", load=tmp_path)
