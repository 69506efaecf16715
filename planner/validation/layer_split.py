"""How many layers each virtual stage has, where the source does not say."""

from __future__ import annotations

from meshwright.costmodel.errors import StrategyError


def layer_split(num_layers: int, num_stages: int, num_extra_last: int = 0) -> tuple[int, ...]:
    """Equal stages where they divide; else embedding and head count as a layer each, as Megatron-Core can be told to.

    What still does not divide goes to the earliest stages of the middle. `num_extra_last` are layers' worth of work on
    the last stage beside the head (multi-token prediction).

    >>> layer_split(32, 4)
    (8, 8, 8, 8)
    >>> layer_split(126, 16)
    (7, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 7)
    """
    if num_layers < num_stages - 2:
        raise StrategyError("pipeline", "virtual_stages", f"{num_layers} layers cannot fill {num_stages} stages")
    if num_stages == 1 or (num_layers % num_stages == 0 and not num_extra_last):
        return (num_layers // num_stages,) * num_stages
    reserved = {0: 1, num_stages - 1: 1 + num_extra_last}
    share, rest = divmod(num_layers + 2 + num_extra_last, num_stages)
    loads = [share] * num_stages
    order = [*range(1, num_stages - 1), 0, num_stages - 1]
    for stage in order[:rest]:
        loads[stage] += 1
    counts = [load - reserved.get(stage, 0) for stage, load in enumerate(loads)]
    return _without_negative(counts)


def _without_negative(counts: list[int]) -> tuple[int, ...]:
    """A stage that has more than its share already holds no layer; others give up what it could not take."""
    for index, count in enumerate(counts):
        if count < 0:
            counts[index] = 0
            for _ in range(-count):
                counts[counts.index(max(counts))] -= 1
    return tuple(counts)
