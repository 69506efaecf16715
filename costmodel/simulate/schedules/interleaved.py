"""1F1B and interleaved 1F1B. Narayanan et al. 2021 (PipeDream-Flush in Megatron-LM), arXiv 2104.04473, section 2.2.

Plain 1F1B is the case of one chunk with half the warm-up per hop: without interleaving the backward of a micro-batch
returns before the next forward is due. The interleaved order is that of Megatron-LM and of torch's
`ScheduleInterleaved1F1B`, which takes micro-batches in rounds of m / max(1, m // P) (Megatron: P).
"""

from __future__ import annotations

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate.actions import ActionKind, Slot, single


def one_f_one_b_order(num_stages: int, num_micro_batches: int, device: int) -> tuple[Slot, ...]:
    """P-1-p forwards, then one forward and one backward in turn, then the backwards that are left."""
    warmup = min(num_stages - 1 - device, num_micro_batches)
    forwards = [single(ActionKind.FORWARD, 0, i) for i in range(num_micro_batches)]
    backwards = [single(ActionKind.BACKWARD, 0, i) for i in range(num_micro_batches)]
    return alternate(forwards, backwards, warmup)


def interleaved_order(num_stages: int, num_micro_batches: int, num_chunks: int, device: int) -> tuple[Slot, ...]:
    """(v-1) rounds and two forwards per hop to the last device first, then one forward, one backward in turn."""
    size = round_size(num_stages, num_micro_batches)
    visits = list(round_visits(size, num_micro_batches, num_chunks))
    forwards = [single(ActionKind.FORWARD, chunk, i) for chunk, i in visits]
    backwards = [single(ActionKind.BACKWARD, num_chunks - 1 - chunk, i) for chunk, i in visits]
    warmup = min((num_chunks - 1) * size + 2 * (num_stages - 1 - device), len(visits))
    return alternate(forwards, backwards, warmup)


def round_size(num_stages: int, num_micro_batches: int) -> int:
    """Micro-batches that pass through one chunk before the next chunk's turn."""
    rounds = max(1, num_micro_batches // num_stages)
    if num_micro_batches % rounds:
        raise StrategyError(
            "schedule",
            "num_micro_batches",
            f"{num_micro_batches} micro-batches do not split into {rounds} equal rounds"
            f" of at least pp {num_stages}; a multiple of {num_stages} does",
        )
    return num_micro_batches // rounds


def round_visits(size: int, num_micro_batches: int, num_chunks: int) -> tuple[tuple[int, int], ...]:
    """(chunk, micro-batch) in the order of the forwards: round by round, chunk by chunk."""
    return tuple(
        (chunk, micro_batch)
        for first in range(0, num_micro_batches, size)
        for chunk in range(num_chunks)
        for micro_batch in range(first, first + size)
    )


def alternate(forwards: list[Slot], backwards: list[Slot], warmup: int) -> tuple[Slot, ...]:
    """`warmup` forwards, then forward and backward in turn, then the remaining backwards."""
    steady = len(forwards) - warmup
    pairs = zip(forwards[warmup:], backwards[:steady], strict=True)
    return (*forwards[:warmup], *(slot for pair in pairs for slot in pair), *backwards[steady:])
