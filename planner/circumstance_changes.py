"""The fields of `--set` that say what a cluster does to a run beside its data sheet, and how tokens choose experts."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from meshwright.costmodel.circumstances import LinkPlace, Recovery, SlowGpu, SlowLink
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.expert_load import MOST_ZIPF_EXPONENT, ExpertLoad, ExpertPlacement, ZipfLoad
from meshwright.costmodel.units import Dimension, parse_quantity
from meshwright.planner.change import OPTION, Change
from meshwright.planner.draft import Draft
from meshwright.planner.expert_load_file import read_histogram

Read = Callable[[str, str, Any], Any]
replace = msgspec.structs.replace

LOADS = "balanced, zipf:EXPONENT or histogram:FILE"
BALANCED, DROPLESS, OPTIMAL, TO_HOST, NONE = "balanced", "dropless", "optimal", "to-host", "none"


# How values are read. `key` is named in errors.


def _number(key: str, text: str, expected: str, holds: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and holds(value)):
        raise InputError(OPTION, key, f"{text!r} is not {expected}")
    return value


def _load(key: str, text: str, before: Any) -> ExpertLoad | None:  # noqa: ANN401, ARG001  one signature for all readers
    kind, separator, value = text.partition(":")
    if text == BALANCED:
        return None
    if kind == "zipf" and separator:
        expected = f"the exponent of a Zipf load from 0 to {MOST_ZIPF_EXPONENT:g}, as in zipf:1.2"
        return ZipfLoad(exponent=_number(key, value, expected, lambda value: 0.0 <= value <= MOST_ZIPF_EXPONENT))
    if kind == "histogram" and value:
        return read_histogram(Path(value))
    raise InputError(OPTION, key, f"{text!r} is unknown; expected {LOADS}")


def _placement(key: str, text: str, before: Any) -> ExpertPlacement:  # noqa: ANN401, ARG001
    if text not in [placement.value for placement in ExpertPlacement]:
        raise InputError(OPTION, key, f"{text!r} is unknown; expected one of {', '.join(ExpertPlacement)}")
    return ExpertPlacement(text)


def _capacity(key: str, text: str, before: Any) -> float | msgspec.UnsetType:  # noqa: ANN401, ARG001
    expected = "a positive capacity factor, as in 1.25, or dropless"
    return UNSET if text == DROPLESS else _number(key, text, expected, lambda value: value > 0)


def _slow_gpu(key: str, text: str, before: Any) -> SlowGpu:  # noqa: ANN401, ARG001
    factor, stage = _placed(key, text, {"stage"})
    expected = "a factor >= 1 on the time of computation, as in 1.1 or 1.1@stage:3"
    value = _number(key, factor, expected, lambda value: value >= 1)
    return SlowGpu(time_factor=value, **_stage(key, stage))


def _slow_link(key: str, text: str, before: Any) -> SlowLink:  # noqa: ANN401, ARG001
    fraction, place = _placed(key, text, {place.value for place in LinkPlace})
    expected = "the share of bandwidth left, above 0 and at most 1, as in 0.5, 0.5@data-parallel or 0.5@boundary:3"
    value = _number(key, fraction, expected, lambda value: 0 < value <= 1)
    kind = LinkPlace(place.partition(":")[0]) if place else LinkPlace.ADAPTER
    return SlowLink(bandwidth_fraction=value, place=kind, **_stage(key, place))


def _placed(key: str, text: str, kinds: set[str]) -> tuple[str, str]:
    """VALUE and PLACE of VALUE[@PLACE[:NUMBER]]."""
    value, separator, place = text.partition("@")
    if separator and place.partition(":")[0] not in kinds:
        raise InputError(OPTION, key, f"place {place!r} is unknown; expected one of {', '.join(sorted(kinds))}")
    return value, place


def _stage(key: str, place: str) -> dict[str, int]:
    _, separator, number = place.partition(":")
    if separator and not number.isdecimal():
        raise InputError(OPTION, key, f"{number!r} is not the number of a stage, from 0 on")
    return {"stage": int(number)} if separator else {}


def _fraction(key: str, text: str, before: Any) -> float:  # noqa: ANN401, ARG001
    return _number(key, text, "a coefficient of variation from 0 to 1, as in 0.03", lambda value: 0 <= value <= 1)


def _time(key: str, text: str, before: Any) -> float:  # noqa: ANN401, ARG001
    """A time, in seconds or with its unit; 0 is one."""
    try:
        value = float(text)
    except ValueError:
        return parse_quantity(text, Dimension.SECONDS, where=OPTION, field=key)
    if not (isfinite(value) and value >= 0):
        raise InputError(OPTION, key, f"{text!r} is not a time >= 0, as in 90, {Dimension.SECONDS.value} or '10 min'")
    return value


def _time_or(word: str) -> Read:
    def read(key: str, text: str, before: Any) -> float | str:  # noqa: ANN401
        return word if text == word else _time(key, text, before)

    return read


def _mean_time(key: str, text: str, before: Any) -> float | None:  # noqa: ANN401
    if text == NONE:
        return None
    if text.endswith("x") and isinstance(before, float):
        return before * _number(key, text[:-1], "a factor, as in 2x", lambda value: value > 0)
    value = _time(key, text, before)
    if value == 0:
        raise InputError(OPTION, key, f"{text!r} is not a time > 0, as in '50000 h', nor {NONE}")
    return value


def _tokens(key: str, text: str, before: Any) -> float:  # noqa: ANN401, ARG001
    return _number(key, text, "a number of tokens, as in 15e12", lambda value: value >= 1)


def _whole(key: str, text: str, before: Any) -> int:  # noqa: ANN401, ARG001
    if not text.isdecimal():
        raise InputError(OPTION, key, f"{text!r} is not a whole number >= 0")
    return int(text)


def _not_negative(value: float) -> bool:
    return value >= 0


# Where values lie.


def _workload_load() -> Change:
    def put(draft: Draft, load: ExpertLoad | None) -> Draft:
        return replace(draft, workload=replace(draft.workload, expert_load=UNSET if load is None else load))

    return Change(read=_load, get=lambda draft: _load_words(draft.workload.known_load), put=put)


def _load_words(load: ExpertLoad | None) -> str:
    return BALANCED if load is None else str(load)


def _workload_placement() -> Change:
    def get(draft: Draft) -> str:
        load = draft.workload.known_load
        return ExpertPlacement.CONTIGUOUS.value if load is None else load.placement.value

    def put(draft: Draft, placement: ExpertPlacement) -> Draft:
        load = draft.workload.known_load
        if load is None:
            if placement is ExpertPlacement.CONTIGUOUS:
                return draft
            raise InputError(
                OPTION, "workload.expert_placement", "needs workload.expert_load: balanced experts lie well"
            )
        return replace(draft, workload=replace(draft.workload, expert_load=replace(load, placement=placement)))

    return Change(read=_placement, get=get, put=put)


def _workload_capacity() -> Change:
    def get(draft: Draft) -> float | str:
        factor = draft.workload.capacity_factor
        return DROPLESS if factor is UNSET else factor

    def put(draft: Draft, factor: float) -> Draft:
        return replace(draft, workload=replace(draft.workload, capacity_factor=factor))

    return Change(read=_capacity, get=get, put=put)


def _mean_time_between_failures() -> Change:
    name = "mean_time_between_failures_s"

    def put(draft: Draft, value: float | None) -> Draft:
        return replace(draft, cluster=replace(draft.cluster, **{name: value}))

    def get(draft: Draft) -> float | str:
        value = draft.cluster.mean_time_between_failures_s
        return NONE if value is None else value

    return Change(read=_mean_time, get=get, put=put)


def _circumstance(read: Read, name: str) -> Change:
    def put(draft: Draft, value: Any) -> Draft:  # noqa: ANN401
        return replace(draft, circumstances=replace(draft.circumstances, **{name: value}))

    def get(draft: Draft) -> Any:  # noqa: ANN401
        value = getattr(draft.circumstances, name)
        return str(value) if isinstance(value, SlowGpu | SlowLink) else value

    return Change(read=read, get=get, put=put)


def _recovery(read: Read, name: str, dimension: Dimension | None = None) -> Change:
    def put(draft: Draft, value: Any) -> Draft:  # noqa: ANN401
        recovery: Recovery = replace(draft.circumstances.recovery, **{name: value})
        return replace(draft, circumstances=replace(draft.circumstances, recovery=recovery))

    return Change(
        read=read, get=lambda draft: getattr(draft.circumstances.recovery, name), put=put, dimension=dimension
    )


CIRCUMSTANCE_CHANGES: dict[str, Change] = {
    "workload.expert_load": _workload_load(),
    "workload.expert_placement": _workload_placement(),
    "workload.capacity_factor": _workload_capacity(),
    "cluster.slow_gpu": _circumstance(_slow_gpu, "slow_gpu"),
    "cluster.slow_link": _circumstance(_slow_link, "slow_link"),
    "cluster.jitter": _circumstance(_fraction, "jitter_fraction"),
    "cluster.mean_time_between_failures_s": _mean_time_between_failures(),
    "run.detection_s": _recovery(_time, "detection_s", Dimension.SECONDS),
    "run.restart_s": _recovery(_time, "restart_s", Dimension.SECONDS),
    "run.checkpoint_store_s": _recovery(_time, "checkpoint_store_s", Dimension.SECONDS),
    "run.checkpoint_write_s": _recovery(_time_or(TO_HOST), "checkpoint_write_s"),
    "run.checkpoint_interval_s": _recovery(_time_or(OPTIMAL), "checkpoint_interval_s"),
    "run.repair_s": _recovery(_time, "repair_s", Dimension.SECONDS),
    "run.spares": _recovery(_whole, "num_spare_nodes"),
    "run.tokens": _circumstance(_tokens, "tokens"),
    "run.seed": _circumstance(_whole, "seed"),
}
"""Keys of `--set` for circumstances, in the order in which changes are made."""
