from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.step import predict
from meshwright.planner.explain.describe_why_not import describe_why_not
from meshwright.planner.explain.why_not import Held, Verdict, WhyNot, hold, why_not
from meshwright.planner.fixes import Fixes
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan


def _text(answer: WhyNot) -> str:
    sections = describe_why_not(answer)
    return "\n".join([sections[0].title, *sections[0].lines, *(section.title for section in sections[1:])])


def test_a_choice_that_the_plan_has(searched_plan: Plan) -> None:
    answer = why_not(searched_plan, (f"pp={searched_plan.mesh.pp},dp={searched_plan.mesh.dp}",))
    assert answer.verdict is Verdict.ALREADY
    assert "It is the plan's choice already" in _text(answer)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("ep=3", "ep=3: does not divide 8 experts; ep can be 1, 2, 4, 8"),
        ("pp=3", "pp=3: product 3 does not divide 8 GPUs; pp can be 1, 2, 4, 8"),
        ("pp=5", "pp=5: needs a layer a stage, tiny has 4; pp can be 1 to 4"),
        (
            "mbs=3",
            "16 sequences cannot be shared by any legal dp x micro-batch on 8 GPUs, mbs=3; dp can be 1, 2, 4, 8; the"
            " nearest batch is 15 or 18",
        ),
    ],
)
def test_an_illegal_choice_names_its_rule(searched_plan: Plan, text: str, rule: str) -> None:
    answer = why_not(searched_plan, (text,))
    assert (answer.verdict, answer.reason) == (Verdict.ILLEGAL, rule)
    assert (answer.held, answer.best) == (None, None)
    assert rule in _text(answer)


def test_a_slower_choice_comes_with_the_best_plan_that_has_it(searched_plan: Plan) -> None:
    answer = why_not(searched_plan, ("tp=8",))
    assert answer.verdict is Verdict.SLOWER
    assert answer.best is not None
    assert answer.certificate is not None
    assert answer.best.step_s.one == searched_plan.prediction.step_time_s
    assert answer.own_objective_s == pytest.approx(searched_plan.search.objective_s, rel=1e-12)
    assert searched_plan.search.objective_s < answer.certificate.lower_bound_s
    assert answer.best.step_s.other <= answer.certificate.objective_s
    assert {changed.name: changed.other for changed in answer.best.choices}["mesh.tp"] == "8"
    assert sum(term.more for term in answer.best.breakdown_s) == pytest.approx(answer.best.step_s.more, rel=1e-9)
    assert "The best plan with it is slower by" in _text(answer)


def test_what_does_not_fit_names_stage_and_bytes(large_configuration: TrainingConfiguration) -> None:
    """352B without pipeline, all else held: 60 layers of state on every GPU."""
    held = hold(large_configuration, Fixes(pp=1, vp=1))
    assert held.difference is not None
    (worst,) = held.over_limit
    limit_bytes = predict(large_configuration).memory_limit_bytes
    assert (worst.stage, worst.limit_bytes) == (0, limit_bytes)
    assert worst.needed_bytes == max(held.difference.predictions[1].peak_memory_bytes) > limit_bytes
    assert worst.over_bytes == worst.needed_bytes - limit_bytes
    answer = WhyNot(asked="pp=1", verdict=Verdict.DOES_NOT_FIT, made={"pp": {"6": 1}}, reason="no plan fits", held=held)
    assert f"({worst.over_bytes:,.0f} bytes) over the limit" in _text(answer)
    assert "gradients +" in _text(answer)


def test_a_choice_that_fits_nowhere(searched_plan: Plan) -> None:
    """A GPU with 2 GiB less: nothing can be replicated any more, and to split the experts is what made it fit."""
    usable = 2.2 * 2**30
    cluster = msgspec.structs.replace(searched_plan.cluster, usable_memory_bytes=usable)
    answer = why_not(msgspec.structs.replace(searched_plan, cluster=cluster), ("zero=0,pp=1,ep=1,etp=1",))
    assert answer.verdict is Verdict.DOES_NOT_FIT
    assert answer.reason.startswith("no plan fits: ")
    assert "over the limit of" in answer.reason
    assert "No plan with it fits in memory" in _text(answer)


def test_choices_that_cannot_be_held_say_why(tiny_configuration: TrainingConfiguration) -> None:
    held = hold(tiny_configuration, Fixes(ep=8))
    assert held == Held(
        reason="ep: ep 8 x etp 1 does not divide dp 2 x cp 1 x sp 2 x tp 1 = 4 GPUs of a pipeline stage"
    )


def test_a_plan_pinned_to_something_slow_is_beaten(
    searched_plan: Plan, tiny_configuration: TrainingConfiguration
) -> None:
    certificate = msgspec.structs.replace(searched_plan.search, gap=0.01)
    slow = build_plan(tiny_configuration, predict(tiny_configuration), certificate)
    answer = why_not(slow, (f"pp={searched_plan.mesh.pp}",))
    assert answer.verdict is Verdict.FASTER
    assert "plan again" in _text(answer)


@pytest.mark.parametrize(("text", "message"), [("epp", "expected key=value"), ("mbs=two", "not a positive whole")])
def test_bad_input_is_an_error(searched_plan: Plan, text: str, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        why_not(searched_plan, (text,))
