"""Choices that a user pins (`--fix`), parsed and checked; everything else stays free."""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Dispatch, Recompute, ZeroStage
from meshwright.costmodel.value import Value

OPTION = "--fix"


class AttentionChoice(StrEnum):
    """How attention shares a micro-batch among ranks."""

    TENSOR = "tp"
    ULYSSES = "ulysses"
    RING = "cp-ring"
    ALL_GATHER = "cp-allgather"
    DATA = "dp"


class FfnChoice(StrEnum):
    """How the feed-forward block is split: weights over ranks (tp), whole experts over ranks (ep), or not at all."""

    TENSOR = "tp"
    EXPERT = "ep"
    REPLICATED = "replicated"


OFFLOADING = (Recompute.NONE, Recompute.SELECTIVE)
"""Recomputation beside which the space has the FFN's widest tensors wait in host memory."""


class OffloadChoice(StrEnum):
    """What waits in host memory: nothing, the widest activations of every layer's FFN, or the optimizer's state."""

    NONE = "none"
    ACTIVATIONS = "activations"
    OPTIMIZER = "optimizer"


class Fixes(Value, frozen=True, kw_only=True):
    """Pinned choices, None where free.

    `mbs` is the micro-batch size, `vp` the virtual stages a device, `wire` the format in which activations travel.
    """

    tp: int | None = None
    sp: int | None = None
    cp: int | None = None
    pp: int | None = None
    vp: int | None = None
    ep: int | None = None
    etp: int | None = None
    dp: int | None = None
    mbs: int | None = None
    zero: ZeroStage | None = None
    schedule: ScheduleKind | None = None
    recompute: Recompute | None = None
    attention: AttentionChoice | None = None
    ffn: FfnChoice | None = None
    dispatch: Dispatch | None = None
    wire: Precision | None = None
    offload: OffloadChoice | None = None

    def allows(self, **choices: object) -> bool:
        """Whether none of the given choices contradicts a pinned one."""
        return all(getattr(self, name) in (None, value) for name, value in choices.items())


_DEGREES = ("tp", "sp", "cp", "pp", "vp", "ep", "etp", "dp", "mbs")
_CHOICES: dict[str, type[StrEnum]] = {
    "zero": ZeroStage,
    "schedule": ScheduleKind,
    "recompute": Recompute,
    "attention": AttentionChoice,
    "ffn": FfnChoice,
    "dispatch": Dispatch,
    "wire": Precision,
    "offload": OffloadChoice,
}


def parse_fixes(texts: tuple[str, ...]) -> Fixes:
    """Parse `key=value` pairs, separated by commas or given apart.

    Raises `StrategyError` for an unknown key or value, a key given twice, and values that contradict each other.
    """
    values: dict[str, object] = {}
    for pair in (pair.strip() for text in texts for pair in text.split(",")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise StrategyError(OPTION, pair, "expected key=value, for example tp=8")
        if key in values:
            raise StrategyError(OPTION, key, "is given twice")
        values[key] = _parse(key, value)
    fixes = Fixes(**values)  # type: ignore[arg-type]
    _check_consistent(fixes)
    return fixes


def _parse(key: str, text: str) -> object:
    if key in _DEGREES:
        if not text.isdecimal() or int(text) < 1:
            raise StrategyError(OPTION, key, f"{text!r} is not a positive whole number")
        return int(text)
    if key in _CHOICES:
        kind = _CHOICES[key]
        if text not in [member.value for member in kind]:
            raise StrategyError(OPTION, key, f"{text!r} is unknown; expected one of {', '.join(kind)}")
        return kind(text)
    known = (*_DEGREES, *_CHOICES)
    near = get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {' '.join(known)}"
    raise StrategyError(OPTION, key, f"unknown choice; {hint}")


def _check_consistent(fixes: Fixes) -> None:
    attention = fixes.attention
    if attention in (AttentionChoice.DATA, AttentionChoice.TENSOR) and (fixes.sp or 1) > 1:
        raise StrategyError(OPTION, "attention", f"{attention} contradicts sp={fixes.sp}")
    if attention in (AttentionChoice.DATA, AttentionChoice.ULYSSES) and (fixes.tp or 1) > 1:
        raise StrategyError(OPTION, "attention", f"{attention} contradicts tp={fixes.tp}")
    if attention is AttentionChoice.DATA and (fixes.cp or 1) > 1:
        raise StrategyError(OPTION, "attention", f"{attention} contradicts cp={fixes.cp}")
    if attention in (AttentionChoice.RING, AttentionChoice.ALL_GATHER) and fixes.cp == 1:
        raise StrategyError(OPTION, "attention", f"{attention} contradicts cp=1")
    if fixes.ffn is FfnChoice.EXPERT and fixes.ep == 1:
        raise StrategyError(OPTION, "ffn", "ep contradicts ep=1")
    if fixes.ffn is FfnChoice.TENSOR and (fixes.ep or 1) > 1:
        raise StrategyError(OPTION, "ffn", f"tp contradicts ep={fixes.ep}")
    if fixes.offload is OffloadChoice.ACTIVATIONS and fixes.recompute not in (None, *OFFLOADING):
        allowed = " or ".join(OFFLOADING)
        raise StrategyError(
            OPTION, "offload", f"activations contradicts recompute={fixes.recompute}; expected {allowed}"
        )
    if fixes.schedule is ScheduleKind.ONE_F_ONE_B and (fixes.vp or 1) > 1:
        raise StrategyError(OPTION, "schedule", f"1f1b has one stage a device, which contradicts vp={fixes.vp}")
