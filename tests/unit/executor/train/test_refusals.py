"""What is not run yet is refused with the field that asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.runtime import load_runtime
from meshwright.executor.train.refusals import check_runs
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.search import search
from meshwright.planner.space import Problem

Change = Callable[[TrainingConfiguration], TrainingConfiguration]


def model(**changes: object) -> Change:
    return lambda configuration: replace(configuration, model=replace(configuration.model, **changes))


def layers(**changes: object) -> Change:
    return lambda configuration: replace(
        configuration,
        stages=tuple(tuple(replace(one, **changes) for one in stage) for stage in configuration.stages),
    )


def _with_attention(configuration: TrainingConfiguration, **changes: object) -> TrainingConfiguration:
    layers = tuple(
        replace(layer, attention=replace(layer.attention, **changes)) for layer in configuration.model.layers
    )
    return replace(configuration, model=replace(configuration.model, layers=layers))


REFUSED: dict[str, tuple[Change, str]] = {
    "prediction modules": (model(mtp_depth=1), "model.mtp_depth: "),
    "learned positions": (model(learned_positions=64), "model.learned_positions: "),
    "a window": (
        lambda configuration: _with_attention(configuration, window=4),
        "layer 0: window: .*sliding windows",
    ),
    "other axes than the mesh": (layers(tp=2, sp=2), "layer 0: tp: .*tp 2 x sp 2 and cp 1 in a mesh of tp 1 x sp 2"),
    "an odd sequence": (
        lambda configuration: replace(configuration, workload=replace(configuration.workload, seq_len=17)),
        "workload.seq_len: ",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_its_field(tiny_configuration: TrainingConfiguration, change: Change, message: str) -> None:
    with pytest.raises(PlanError, match=f"^plan.json: {message}"):
        check_runs(change(tiny_configuration), "plan.json")


def test_the_rest_is_not(tiny_configuration: TrainingConfiguration) -> None:
    check_runs(tiny_configuration)
    check_runs(layers(offload=True)(tiny_configuration))


def test_parts_of_a_sequence_that_context_parallel_ranks_cannot_share(
    tiny_configuration: TrainingConfiguration,
) -> None:
    ranks = tiny_configuration.mesh.num_gpus
    workload = replace(tiny_configuration.workload, seq_len=ranks * 3)
    mesh = replace(tiny_configuration.mesh, cp=ranks, sp=1, dp=1)
    changed = replace(layers(cp=ranks, sp=1)(tiny_configuration), mesh=mesh, workload=workload)
    with pytest.raises(PlanError, match=f"workload.seq_len: .*in {2 * ranks} equal parts"):
        check_runs(changed)


def test_key_heads_that_ranks_neither_share_nor_hold_copies_of(tiny_configuration: TrainingConfiguration) -> None:
    mesh = replace(tiny_configuration.mesh, tp=4, sp=1, dp=1)
    changed = _with_attention(layers(tp=4, sp=1, ffn_tp=4)(tiny_configuration), num_heads=12, num_kv_heads=3)
    with pytest.raises(PlanError, match=r"layer 0: tp: .*3 key heads over tp 4.*--fix tp=3"):
        check_runs(replace(changed, mesh=mesh))


@pytest.mark.parametrize(
    "fixes",
    [
        "",
        "ep=4",
        "etp=2",
        "etp=2,ep=2,dispatch=alltoall-dedup",
        "wire=fp8",
        "wire=fp8,ep=4,dispatch=alltoall-dedup",
        "wire=fp8,etp=2,ep=2",
        "dispatch=alltoall-dedup",
        "cp=2",
        "tp=2",
    ],
)
@pytest.mark.parametrize("runtime", ["meshwright-run", "meshwright"])
def test_what_is_planned_is_not_refused(tiny_configuration: TrainingConfiguration, fixes: str, runtime: str) -> None:
    problem = Problem(
        model=tiny_configuration.model,
        cluster=tiny_configuration.cluster,
        workload=tiny_configuration.workload,
        fixes=parse_fixes((fixes,) if fixes else ()),
    )
    check_runs(search(problem, top=0, runtime=load_runtime(runtime)).configuration)
