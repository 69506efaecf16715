"""Where embedding and head are split otherwise than layers, the layers' split is what is printed first."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import Mesh
from meshwright.planner.describe.layers import mesh_section
from meshwright.planner.layer_splits import layers_mesh, other_splits, plan_strategies, strategies_of
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.report.words import plan_words
from meshwright.planner.runners_up import describe_alternative


def _apart(configuration: TrainingConfiguration, number: int = 4) -> TrainingConfiguration:
    """The first layers over tp 2; the others, embedding and head over sp 2."""
    flat = [
        replace(one, tp=2, sp=1, ffn_tp=2) if index < number else one
        for index, one in enumerate(strategies_of(configuration))
    ]
    return replace(configuration, stages=(tuple(flat[:2]), tuple(flat[2:])))


def _plan(configuration: TrainingConfiguration, like: Plan) -> Plan:
    return build_plan(configuration, predict(configuration), like.search)


def test_the_mesh_is_printed_as_layers_split_it(tiny_configuration: TrainingConfiguration, tiny_plan: Plan) -> None:
    plan = _plan(_apart(tiny_configuration), tiny_plan)
    assert (plan.mesh.tp, plan.mesh.sp) == (1, 2)
    lines = mesh_section(plan).lines
    assert lines[0] == "pp 2 x dp 2 x tp 2 = 8 GPUs"
    assert "embedding and head over sp 2 instead" in lines
    words = " ".join(plan_words(plan))
    assert "split each weight matrix (tensor parallelism)" in words
    assert "Ulysses" not in words
    assert "Split otherwise: embedding and head over sp 2." in words


def test_nothing_is_said_where_all_split_alike(tiny_plan: Plan) -> None:
    lines = mesh_section(tiny_plan).lines
    assert lines[0] == "pp 2 x dp 2 x sp 2 = 8 GPUs"
    assert not any("instead" in line for line in lines)
    assert "Split otherwise" not in " ".join(plan_words(tiny_plan))


def test_most_layers_decide(tiny_configuration: TrainingConfiguration, tiny_plan: Plan) -> None:
    plan = _plan(_apart(tiny_configuration, number=3), tiny_plan)
    strategies = plan_strategies(plan)
    assert layers_mesh(plan.mesh, strategies).tp == 2
    assert other_splits(plan.mesh, strategies) == {"1 layer": "sp 2", "embedding and head": "sp 2"}


def test_a_runner_up_has_the_mesh_of_its_layers(tiny_configuration: TrainingConfiguration) -> None:
    other = describe_alternative(tiny_configuration, _apart(tiny_configuration))
    assert (other.mesh.tp, other.mesh.sp) == (2, 1)


@pytest.mark.parametrize("mesh", [Mesh(dp=4, sp=4), Mesh(tp=8)])
def test_a_mesh_that_no_layer_fits_stays(tiny_configuration: TrainingConfiguration, mesh: Mesh) -> None:
    assert layers_mesh(mesh, strategies_of(tiny_configuration)) == mesh
