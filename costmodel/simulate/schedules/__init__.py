"""Pipeline schedules, one family a module, and the one function that builds any of them."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate.actions import Slot
from meshwright.costmodel.simulate.schedule import Schedule, ScheduleKind
from meshwright.costmodel.simulate.schedules.dualpipe_v import dualpipe_v_order
from meshwright.costmodel.simulate.schedules.gpipe import gpipe_order
from meshwright.costmodel.simulate.schedules.interleaved import interleaved_order, one_f_one_b_order, round_size
from meshwright.costmodel.simulate.schedules.zb_v import zb_v_order
from meshwright.costmodel.simulate.schedules.zero_bubble import zb_h1_order

__all__ = ["build_schedule", "check_combination", "placement"]

V_SHAPED = frozenset({ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V})


@lru_cache(maxsize=64)
def build_schedule(kind: ScheduleKind, num_stages: int, num_micro_batches: int, num_chunks: int = 1) -> Schedule:
    """The schedule of `num_stages` devices with `num_chunks` virtual stages each; refuses illegal combinations."""
    check_combination(kind, num_stages, num_micro_batches, num_chunks)
    return Schedule(
        kind=kind,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        num_chunks=num_chunks,
        placement=placement(kind, num_stages, num_chunks),
        order=tuple(_order(kind, num_stages, num_micro_batches, num_chunks, device) for device in range(num_stages)),
    )


def placement(kind: ScheduleKind, num_stages: int, num_chunks: int) -> tuple[tuple[int, ...], ...]:
    """The virtual stage of each device's chunks: round and round, or down and up again (V)."""
    if kind in V_SHAPED:
        return tuple((device, 2 * num_stages - 1 - device) for device in range(num_stages))
    return tuple(tuple(chunk * num_stages + device for chunk in range(num_chunks)) for device in range(num_stages))


def check_combination(kind: ScheduleKind, num_stages: int, num_micro_batches: int, num_chunks: int) -> None:
    """Raises `StrategyError` unless the schedule exists for these numbers; cheap, builds nothing."""
    for field, value in (("pp", num_stages), ("num_micro_batches", num_micro_batches), ("vp", num_chunks)):
        if value < 1:
            raise StrategyError("schedule", field, f"{value} is not a positive whole number")
    _check_chunks(kind, num_chunks)
    if kind is ScheduleKind.INTERLEAVED:
        round_size(num_stages, num_micro_batches)
    if kind is ScheduleKind.DUALPIPE_V and num_micro_batches < 2 * num_stages:
        raise StrategyError(
            "schedule",
            "num_micro_batches",
            f"{kind} needs at least 2 x pp {num_stages} = {2 * num_stages} micro-batches, not {num_micro_batches}",
        )


def _check_chunks(kind: ScheduleKind, num_chunks: int) -> None:
    if kind is ScheduleKind.INTERLEAVED:
        legal, rule = num_chunks >= 2, "at least 2"
    elif kind in V_SHAPED:
        legal, rule = num_chunks == 2, "exactly 2"
    else:
        legal, rule = num_chunks == 1, "exactly 1"
    if not legal:
        raise StrategyError("schedule", "vp", f"{kind} needs {rule} virtual stages on a device, not {num_chunks}")


def _order(
    kind: ScheduleKind, num_stages: int, num_micro_batches: int, num_chunks: int, device: int
) -> tuple[Slot, ...]:
    match kind:
        case ScheduleKind.GPIPE:
            return gpipe_order(num_micro_batches)
        case ScheduleKind.ONE_F_ONE_B:
            return one_f_one_b_order(num_stages, num_micro_batches, device)
        case ScheduleKind.INTERLEAVED:
            return interleaved_order(num_stages, num_micro_batches, num_chunks, device)
        case ScheduleKind.ZB_H1:
            return zb_h1_order(num_stages, num_micro_batches, device)
        case ScheduleKind.ZB_V:
            return zb_v_order(num_stages, num_micro_batches, device)
        case ScheduleKind.DUALPIPE_V:
            return dualpipe_v_order(num_stages, num_micro_batches, device)
