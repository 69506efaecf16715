from __future__ import annotations

import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Dispatch, Recompute, ZeroStage
from meshwright.planner.fixes import AttentionChoice, FfnChoice, Fixes, OffloadChoice, parse_fixes


def test_pairs_come_together_or_apart() -> None:
    together, apart = parse_fixes(("tp=8, pp=16,mbs=2",)), parse_fixes(("tp=8", "pp=16", "mbs=2"))
    assert together == apart == Fixes(tp=8, pp=16, mbs=2)


def test_every_choice_is_parsed() -> None:
    text = "zero=3,schedule=zb-v,recompute=sar,attention=cp-ring,ffn=ep,dispatch=allgather,offload=activations"
    assert parse_fixes((text,)) == Fixes(
        zero=ZeroStage.PARAMETERS,
        schedule=ScheduleKind.ZB_V,
        recompute=Recompute.SELECTIVE,
        attention=AttentionChoice.RING,
        ffn=FfnChoice.EXPERT,
        dispatch=Dispatch.ALL_GATHER,
        offload=OffloadChoice.ACTIVATIONS,
    )


def test_nothing_pinned_allows_everything() -> None:
    assert parse_fixes(()) == Fixes()
    assert Fixes().allows(tp=3, zero=ZeroStage.NONE)


def test_a_pinned_choice_allows_itself_alone() -> None:
    fixes = Fixes(tp=4)
    assert fixes.allows(tp=4, pp=7)
    assert not fixes.allows(tp=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tp", r"tp: expected key=value, for example tp=8"),
        ("tp=8,tp=4", "tp: is given twice"),
        ("tp=0", "tp: '0' is not a positive whole number"),
        ("pp=-2", "pp: '-2' is not a positive whole number"),
        ("mbs=1.5", "mbs: '1.5' is not a positive whole number"),
        ("ep=", "ep: '' is not a positive whole number"),
        ("zero=4", "zero: '4' is unknown; expected one of 0, 1, 2, 3"),
        ("schedule=1f2b", "schedule: '1f2b' is unknown; expected one of .*1f1b"),
        ("recmpute=full", r"recmpute: unknown choice; did you mean recompute\?"),
        ("colour=red", "colour: unknown choice; expected one of tp sp cp"),
    ],
)
def test_what_is_no_choice_is_refused(text: str, message: str) -> None:
    with pytest.raises(StrategyError, match=f"--fix: {message}"):
        parse_fixes((text,))


@pytest.mark.parametrize(
    "text",
    [
        "attention=dp,tp=2",
        "attention=dp,sp=2",
        "attention=dp,cp=2",
        "attention=tp,sp=2",
        "attention=ulysses,tp=2",
        "attention=cp-ring,cp=1",
        "attention=cp-allgather,cp=1",
        "ffn=ep,ep=1",
        "ffn=tp,ep=2",
        "schedule=1f1b,vp=2",
        "offload=activations,recompute=full",
    ],
)
def test_choices_that_contradict_each_other_are_refused(text: str) -> None:
    with pytest.raises(StrategyError, match="contradicts"):
        parse_fixes((text,))


@pytest.mark.parametrize(
    "text", ["attention=dp,tp=1,sp=1,cp=1", "attention=ulysses,tp=1", "ffn=tp,ep=1", "ffn=ep,ep=2"]
)
def test_choices_that_agree_are_not(text: str) -> None:
    parse_fixes((text,))
