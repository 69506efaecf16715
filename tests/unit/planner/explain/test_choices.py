from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.strategy import ContextMethod, LayerStrategy, Recompute
from meshwright.planner.explain.choices import attention_choice, is_made, made, parse_choices, words
from meshwright.planner.fixes import Fixes, OffloadChoice


def with_layers(configuration: TrainingConfiguration, **changes: object) -> TrainingConfiguration:
    stages = tuple(tuple(replace(one, **changes) for one in stage) for stage in configuration.stages)
    return replace(configuration, stages=stages)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recomputes=sar", "--why-not: recomputes: unknown choice; did you mean recompute?"),
        ("ep=many", "--why-not: ep: 'many' is not a positive whole number"),
        ("ep=0", "--why-not: ep: '0' is not a positive whole number"),
        ("schedule=2f2b", "--why-not: schedule: '2f2b' is unknown; expected one of"),
        ("ep", "--why-not: ep: expected key=value, for example tp=8"),
        ("ep=4,ep=8", "--why-not: ep: is given twice"),
        ("attention=dp,sp=8", "--why-not: attention: dp contradicts sp=8"),
    ],
)
def test_what_is_no_choice_is_refused(text: str, message: str) -> None:
    with pytest.raises(StrategyError) as caught:
        parse_choices((text,))
    assert str(caught.value).startswith(message)


def test_choices_are_repeated_as_typed() -> None:
    assert words(parse_choices(("recompute=sar", "ep=8,pp=2"))) == "pp=2 ep=8 recompute=sar"


def test_what_a_plan_made(tiny_configuration: TrainingConfiguration) -> None:
    counts = made(tiny_configuration, "recompute")
    assert counts == Counter({Recompute.NONE: 3, Recompute.FULL: 1})
    assert {name: {str(value) for value in made(tiny_configuration, name)} for name in ("ep", "mbs", "zero", "vp")} == {
        "ep": {"4"},
        "mbs": {"1"},
        "zero": {"1"},
        "vp": {"1"},
    }
    assert {str(value) for value in made(tiny_configuration, "attention")} == {"ulysses"}
    assert {str(value) for value in made(tiny_configuration, "ffn")} == {"ep"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ep=4", True),
        ("ep=4,pp=2,schedule=1f1b", True),
        ("ep=4,pp=4", False),
        ("recompute=none", False),
        ("attention=ulysses", True),
        ("dispatch=alltoall", True),
    ],
)
def test_whether_the_plan_has_it(tiny_configuration: TrainingConfiguration, text: str, expected: bool) -> None:
    assert is_made(tiny_configuration, parse_choices((text,))) is expected


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (LayerStrategy(), "dp"),
        (LayerStrategy(tp=2), "tp"),
        (LayerStrategy(sp=2), "ulysses"),
        (LayerStrategy(cp=2, sp=2), "cp-allgather"),
        (LayerStrategy(cp=2, context_method=ContextMethod.RING), "cp-ring"),
    ],
)
def test_attention_as_fix_names_it(strategy: LayerStrategy, expected: str) -> None:
    assert attention_choice(strategy).value == expected


def test_every_choice_that_may_be_pinned_can_be_asked_about(tiny_configuration: TrainingConfiguration) -> None:
    found = {name: made(tiny_configuration, name) for name in Fixes.__struct_fields__}
    assert set(found["offload"]) == {OffloadChoice.NONE}
    assert set(found["wire"]) == {Precision.BF16}
    with pytest.raises(StrategyError, match="--why-not: colour: is no choice"):
        made(tiny_configuration, "colour")


def test_tp_and_sp_are_those_of_layers(tiny_configuration: TrainingConfiguration) -> None:
    """Embedding and head stay over sp 2, which the mesh has."""
    apart = with_layers(tiny_configuration, tp=2, sp=1, ffn_tp=2)
    assert made(apart, "tp") == Counter({2: 4})
    assert made(apart, "sp") == Counter({1: 4})
    assert is_made(apart, parse_choices(("tp=2",)))
    assert not is_made(apart, parse_choices(("sp=2",)))
