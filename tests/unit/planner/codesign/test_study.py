from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.formulas.flops import flops_per_token, model_flops_utilization
from meshwright.costmodel.formulas.parameters import active_parameters, total_parameters
from meshwright.planner.codesign import CodesignStudy, Front, Status, codesign
from meshwright.planner.codesign.budget import Measure
from meshwright.planner.codesign.dimensions import shaped
from meshwright.planner.fixes import Fixes
from meshwright.planner.search import search
from meshwright.planner.space import Problem

VARY = {"experts": (4, 16), "layers": (3, 4)}


@pytest.fixture(scope="module")
def studies() -> dict[int, CodesignStudy]:
    """Studies by the number of their workers, made once."""
    return {}


@pytest.fixture
def study(studies: dict[int, CodesignStudy], tiny_problem: Problem) -> CodesignStudy:
    if 1 not in studies:
        studies[1] = codesign(tiny_problem, hold="parameters", vary=VARY)
    return studies[1]


def test_rows_stand_in_the_order_of_the_grid(study: CodesignStudy) -> None:
    assert [(shape.sizes["experts"], shape.sizes["layers"]) for shape in study.shapes] == [
        (8, 4),
        (4, 3),
        (4, 4),
        (16, 3),
        (16, 4),
    ]
    assert study.base.is_base
    assert all(shape.status is Status.PLANNED for shape in study.shapes)


def test_each_plan_is_that_of_a_search_for_the_shape(study: CodesignStudy, tiny_problem: Problem) -> None:
    shape = study.shapes[4]
    model = shaped(tiny_problem.model, shape.sizes)
    found = search(msgspec.structs.replace(tiny_problem, model=model), top=0)
    assert shape.plan is not None
    assert shape.plan.step_time_s == found.prediction.step_time_s
    assert shape.plan.mesh == found.configuration.mesh
    assert shape.plan.gap == found.certificate.gap
    assert (shape.total_parameters, shape.active_parameters) == (total_parameters(model), active_parameters(model))


def test_figures_follow_from_the_step(study: CodesignStudy, tiny_problem: Problem) -> None:
    for shape in study.shapes:
        plan = shape.plan
        assert plan is not None
        assert plan.days is not None
        tokens_per_s = 16 * 2048 / plan.step_time_s
        assert plan.tokens_per_s == pytest.approx(tokens_per_s)
        assert plan.days == pytest.approx(1e12 / tokens_per_s / 86400, rel=1e-6)  # whole steps, no failures
        assert plan.gpu_hours == pytest.approx(plan.days * 24 * 8)
        per_token = flops_per_token(shaped(tiny_problem.model, shape.sizes), 2048)
        assert shape.flops_per_token == per_token
        assert plan.mfu == pytest.approx(model_flops_utilization(per_token, tokens_per_s, 8, 989.4e12), rel=1e-3)
        assert 0 < plan.peak_memory_bytes <= plan.memory_limit_bytes


def test_the_number_of_workers_changes_no_figure(tiny_problem: Problem) -> None:
    problem = msgspec.structs.replace(tiny_problem, fixes=Fixes(ep=1))
    vary = {"experts": VARY["experts"]}
    one, two = (codesign(problem, hold=Measure.PARAMETERS, vary=vary, workers=workers) for workers in (1, 2))
    assert one == two
    assert one.shapes[1].plan is not None


def test_a_study_goes_through_json(study: CodesignStudy) -> None:
    assert msgspec.json.decode(msgspec.json.encode(study), type=CodesignStudy) == study


def test_an_interrupt_keeps_what_is_done(tiny_problem: Problem) -> None:
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    partial = codesign(tiny_problem, hold="parameters", vary={"experts": (4, 16)}, progress=stop)
    assert [shape.status for shape in partial.shapes] == [Status.PLANNED, Status.PLANNED, Status.NOT_DONE]
    assert told == [(1, 3), (2, 3)]
    assert (partial.is_partial, partial.stopped) == (True, "interrupted")
    assert partial.shapes[2].total_parameters is not None
    assert [shape.front for shape in partial.shapes] == [Front.ON, Front.ON, Front.NONE]


def test_what_fits_no_memory_and_what_contradicts_itself_are_rows(tiny_problem: Problem) -> None:
    cluster = msgspec.structs.replace(tiny_problem.cluster, host_memory_bytes=1e10)  # no room for the optimizer there
    study = codesign(
        msgspec.structs.replace(tiny_problem, cluster=cluster, fixes=Fixes(ep=8)),
        hold="active-parameters",
        vary={"experts": (8, 8_000), "heads": (8, 6)},
        tolerance_fraction=0.1,
    )
    found = {(shape.sizes["experts"], shape.sizes["heads"]): shape for shape in study.shapes}
    assert found[8, 8].status is Status.PLANNED
    infeasible = found[8_000, 8]
    assert (infeasible.status, infeasible.plan) == (Status.INFEASIBLE, None)
    assert infeasible.reason.startswith("no plan fits: the best attempt needs")
    assert infeasible.total_parameters is not None
    assert infeasible.total_parameters > 5e10
    illegal = found[8, 6]
    assert (illegal.status, illegal.total_parameters) == (Status.ILLEGAL, None)
    assert illegal.reason == "num_kv_heads: 4 does not divide num_heads 6"


def test_a_pinned_choice_that_a_shape_cannot_have_is_its_reason(tiny_problem: Problem) -> None:
    problem = msgspec.structs.replace(tiny_problem, fixes=Fixes(ep=8))
    study = codesign(problem, hold="parameters", vary={"experts": (4,)})
    assert study.base.plan is not None
    assert study.base.plan.mesh.ep == 8
    assert study.shapes[1].status is Status.ILLEGAL
    assert study.shapes[1].reason.startswith("--fix ep=8: does not divide 4 experts")


def test_a_frame_has_a_row_a_shape(study: CodesignStudy) -> None:
    frame = study.to_dataframe()
    assert list(frame["experts"]) == [8, 4, 4, 16, 16]
    assert frame["step_time_s"].tolist() == [shape.plan.step_time_s for shape in study.shapes if shape.plan]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hold": "weight"}, "--hold: 'weight' is unknown; expected one of parameters, active-parameters, flops"),
        ({"capacity": "weight"}, "--capacity: 'weight' is unknown; expected one of parameters, active-parameters"),
        ({"capacity": "parameters"}, "--capacity: parameters: is what is held"),
        ({"tokens": 0.0}, "--tokens: 0 is not a number of tokens"),
        ({"tokens": float("nan")}, "--tokens: nan is not a number of tokens"),
        ({"workers": 0}, "--workers: 0 is not a positive whole number"),
        ({"vary": {"layers": tuple(range(1, 1001))}}, "--vary: 1,000 shapes (1000 layers), each a search"),
    ],
)
def test_questions_that_are_refused(tiny_problem: Problem, options: dict[str, object], expected: str) -> None:
    asked: dict[str, object] = {"hold": "parameters", "vary": {"experts": (4,)}} | options
    with pytest.raises(InputError) as caught:
        codesign(tiny_problem, **asked)  # type: ignore[arg-type]
    assert str(caught.value).startswith(expected)
