"""Whatever is explained adds up to what is predicted."""

from __future__ import annotations

import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.layer_cost import SERIAL_TERMS
from meshwright.costmodel.step import predict
from meshwright.planner.explain.critical_path import step_path
from meshwright.planner.explain.explanation import explain, selected
from meshwright.planner.explain.operators import OperatorTerm
from meshwright.planner.explain.parts import PartTerm, PassTerm, part_terms
from meshwright.planner.explain.stages import stage_terms
from meshwright.planner.explain.totals import total_terms
from meshwright.planner.plan import Plan

EXACT = 1e-12


def test_the_path_adds_up_to_the_step(any_configuration: TrainingConfiguration) -> None:
    path, step_s = step_path(any_configuration), predict(any_configuration).step_time_s
    assert path.step_time_s == pytest.approx(step_s, rel=EXACT)
    assert sum(path.seconds.values()) == pytest.approx(step_s, rel=EXACT)
    assert sum(term.total_s for term in path.terms) == pytest.approx(step_s, rel=EXACT)


def test_the_totals_are_the_breakdown(any_configuration: TrainingConfiguration) -> None:
    prediction = predict(any_configuration)
    terms = total_terms(prediction)
    assert {term.name: term.time_s for term in terms} == prediction.breakdown_s
    assert sum(term.time_s for term in terms) == pytest.approx(prediction.step_time_s, rel=EXACT)
    assert [abs(term.time_s) for term in terms] == sorted((abs(term.time_s) for term in terms), reverse=True)


def test_operators_add_up_to_their_pass(any_configuration: TrainingConfiguration) -> None:
    for part in part_terms(any_configuration):
        for one in part.passes:
            serial = sum(one.seconds[name.removesuffix("_s")] for name in SERIAL_TERMS)
            assert serial == pytest.approx(one.length_s, rel=EXACT, abs=1e-18)
            _check_computation(one)
            _check_communication(one)


def _check_computation(one: PassTerm) -> None:
    alone: dict[str, float] = {}
    for operator in (operator for operator in one.operators if operator.axis is None):
        alone[operator.kind] = alone.get(operator.kind, 0.0) + operator.time_s
    for kind in ("gemm", "grouped_gemm", "attention", "memory_bound", "recompute"):
        assert alone.get(kind, 0.0) == pytest.approx(one.seconds[kind], rel=1e-9, abs=1e-15)


def _check_communication(one: PassTerm) -> None:
    """Exposed and hidden seconds of operators, and what ZeRO, offload or other micro-batches add, make up the terms."""
    for link in ("nvlink", "network"):
        for way in ("exposed", "hidden"):
            own = sum(getattr(operator, f"{way}_s") for operator in one.operators if operator.kind == link)
            beyond = one.beyond_operators.get(f"{way}_{link}", 0.0)
            assert own + beyond == pytest.approx(one.seconds[f"{way}_{link}"], rel=1e-9, abs=1e-11)


def test_operators_add_up_to_the_breakdown(any_configuration: TrainingConfiguration) -> None:
    breakdown = predict(any_configuration).breakdown_s
    times = any_configuration.num_micro_batches / any_configuration.mesh.pp
    for kind in ("gemm", "grouped_gemm", "attention", "memory_bound", "recompute"):
        found = sum(
            part.count * times * operator.time_s
            for part, operator in _operators(part_terms(any_configuration))
            if operator.axis is None and operator.kind == kind
        )
        assert found == pytest.approx(breakdown[kind], rel=1e-9)


def _operators(parts: tuple[PartTerm, ...]) -> list[tuple[PartTerm, OperatorTerm]]:
    return [(part, operator) for part in parts for one in part.passes for operator in one.operators]


def test_state_adds_up(any_configuration: TrainingConfiguration) -> None:
    for part in part_terms(any_configuration):
        once = [one for state in part.state for one in state.collectives if not one.per_micro_batch]
        gathered = sum(one.time_s for one in once if one.kind == "parameters")
        reduced = sum(one.time_s for one in once if one.kind == "gradients")
        assert gathered == pytest.approx(part.param_gather_s, rel=EXACT)
        assert reduced == pytest.approx(part.grad_reduce_s, rel=EXACT)
        updated = sum(state.update_s for state in part.state) + part.state_host_s
        assert updated == pytest.approx(part.optimizer_s, rel=EXACT)
        assert part.state_host_s >= -EXACT


def test_memory_adds_up_to_the_last_byte(any_configuration: TrainingConfiguration) -> None:
    parts = part_terms(any_configuration)
    predicted = predict(any_configuration).memory
    for stage, memory in zip(stage_terms(any_configuration, parts), predicted, strict=True):
        for term in stage.memory:
            assert term.num_bytes == pytest.approx(getattr(memory, term.kind), rel=EXACT, abs=1.0)
        assert stage.peak_bytes == pytest.approx(memory.total, rel=EXACT)
    for part in parts:
        assert sum(kept.num_bytes for kept in part.kept) == pytest.approx(part.kept_bytes, rel=EXACT)


def test_the_basis_is_the_predicted_one(any_configuration: TrainingConfiguration) -> None:
    """Layers only: the ends are not counted in the basis."""
    layers = [entry for entry in _operators(part_terms(any_configuration)) if entry[0].layers]
    whole = sum(part.count * operator.time_s for part, operator in layers)
    for basis, share in predict(any_configuration).basis.items():
        resting = sum(part.count * operator.time_s for part, operator in layers if operator.basis == basis)
        assert resting / whole == pytest.approx(share, abs=1e-9)


def test_the_large_model_adds_up(large_configuration: TrainingConfiguration) -> None:
    prediction, parts = predict(large_configuration), part_terms(large_configuration)
    path = step_path(large_configuration)
    assert sum(path.seconds.values()) == pytest.approx(prediction.step_time_s, rel=EXACT)
    for stage, peak in zip(stage_terms(large_configuration, parts), prediction.peak_memory_bytes, strict=True):
        assert stage.peak_bytes == pytest.approx(peak, rel=EXACT)


def test_an_explanation_names_only_what_it_defines(tiny_plan: Plan) -> None:
    explanation = explain(tiny_plan)
    assert explanation.prediction.step_time_s == tiny_plan.prediction.step_time_s
    operators = [operator for _, operator in _operators(explanation.parts)]
    states = [state for part in explanation.parts for state in part.state]
    named = {name for operator in operators for name in operator.formulas}
    named |= {name for state in states for held in state.held for name in held.formulas}
    named |= {name for state in states for one in state.collectives for name in one.formulas}
    named |= {name for state in states for name in state.update_formulas}
    named |= {name for message in explanation.messages for name in message.formulas}
    named |= {name for term in explanation.totals for name in term.formulas}
    assert named <= explanation.formulas.keys()
    assert {name for operator in operators for name in operator.cites} == explanation.cites.keys()
    assert all(figure.text for figure in explanation.cites.values())


def test_a_layer_or_a_stage_can_be_selected(tiny_plan: Plan) -> None:
    explanation = explain(tiny_plan)
    (part,) = selected(explanation, layer=3, stage=None).parts
    assert part.layers == (3,)
    assert "full" in part.strategy
    assert [stage.device for stage in selected(explanation, layer=None, stage=1).stages] == [1]
    assert selected(explanation, layer=None, stage=None) == explanation


@pytest.mark.parametrize(
    ("layer", "stage", "message"),
    [
        (4, None, "--layer: 4 is not one of the 4"),
        (None, 2, "--stage: 2 is not one of the 2"),
        (-1, None, "expected 0 to 3"),
    ],
)
def test_what_is_not_there_cannot_be_selected(
    tiny_plan: Plan, layer: int | None, stage: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        selected(explain(tiny_plan), layer=layer, stage=stage)
