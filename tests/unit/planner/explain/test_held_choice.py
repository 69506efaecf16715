from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.planner.explain.choices import is_made, parse_choices
from meshwright.planner.explain.held_choice import held_configuration


def _held(configuration: TrainingConfiguration, text: str) -> TrainingConfiguration:
    return held_configuration(configuration, parse_choices((text,)))


@pytest.mark.parametrize(
    "text",
    [
        "ep=2",
        "ep=1",
        "tp=2",
        "sp=1",
        "sp=4",
        "pp=1",
        "pp=4,ep=2",
        "dp=1,ep=2",
        "mbs=2",
        "vp=2",
        "zero=0",
        "schedule=zb-v",
        "schedule=gpipe",
        "schedule=interleaved",
        "recompute=sar",
        "attention=tp",
        "attention=dp",
        "ffn=tp",
        "ffn=replicated",
        "dispatch=allgather",
        "ep=2,recompute=full,mbs=4",
        "offload=optimizer",
        "offload=activations,recompute=none",
        "wire=fp8",
    ],
)
def test_the_choice_is_made_and_the_gpus_are_used(tiny_configuration: TrainingConfiguration, text: str) -> None:
    changed = _held(tiny_configuration, text)
    assert is_made(changed, parse_choices((text,)))
    assert not is_made(tiny_configuration, parse_choices((text,)))
    assert changed.mesh.num_gpus == tiny_configuration.cluster.num_gpus


def test_nothing_else_changes(tiny_configuration: TrainingConfiguration) -> None:
    changed = _held(tiny_configuration, "ep=2")
    assert (changed.mesh.pp, changed.mesh.dp, changed.mesh.sp) == (2, 2, 2)
    assert [strategy.recompute for stage in changed.stages for strategy in stage] == [
        strategy.recompute for stage in tiny_configuration.stages for strategy in stage
    ]
    assert changed.pipeline == tiny_configuration.pipeline


def test_layers_that_split_otherwise_than_the_ends_still_do(tiny_configuration: TrainingConfiguration) -> None:
    stages = tuple(tuple(replace(one, tp=2, sp=1, ffn_tp=2) for one in stage) for stage in tiny_configuration.stages)
    apart = replace(tiny_configuration, stages=stages)
    for text in ("ep=2", "pp=1", "dispatch=allgather", "recompute=none"):
        changed = _held(apart, text)
        assert {(one.tp, one.sp, one.ffn_tp) for stage in changed.stages for one in stage} == {(2, 1, 2)}, text
        assert (changed.mesh.tp, changed.mesh.sp) == (1, 2), text
    swapped = _held(apart, "sp=2")
    assert {(one.tp, one.sp) for stage in swapped.stages for one in stage} == {(1, 2)}


def test_data_parallelism_takes_up_what_is_left(tiny_configuration: TrainingConfiguration) -> None:
    assert _held(tiny_configuration, "pp=1").mesh.dp == 4
    assert _held(tiny_configuration, "dp=1,ep=2").mesh.pp == 4


def test_tp_takes_the_place_of_sp(tiny_configuration: TrainingConfiguration) -> None:
    mesh = _held(tiny_configuration, "tp=2").mesh
    assert (mesh.tp, mesh.sp, mesh.dp) == (2, 1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pp=3", "does not divide"),
        ("ep=8", "does not divide dp 2"),
        ("mbs=3", "not a multiple"),
        ("pp=8", "product 16 of the other degrees does not divide 8 GPUs"),
        ("vp=4", "8 virtual stages, but only 4 layers"),
    ],
)
def test_what_cannot_stand_beside_the_rest(tiny_configuration: TrainingConfiguration, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _held(tiny_configuration, text)
