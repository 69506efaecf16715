"""How many layers each virtual stage holds when the stack or the number of stages changes."""

from __future__ import annotations

from meshwright.costmodel.errors import StrategyError


def held_stages(counts: tuple[int, ...], num_layers: int, num_stages: int) -> tuple[int, ...]:
    """Layers of each virtual stage: as they were, in proportion to what they were, or even over other stages.

    A stage that held layers still does; where shares cannot be rounded so, the split is even.

    >>> held_stages((2, 3, 3, 2), 20, 4), held_stages((3, 3, 2, 2), 11, 4), held_stages((2, 3, 3, 2), 10, 3)
    ((4, 6, 6, 4), (4, 3, 2, 2), (4, 3, 3))
    """
    if len(counts) != num_stages:
        return even_split(num_layers, num_stages)
    total = sum(counts)
    if total == num_layers:
        return counts
    shares = [divmod(count * num_layers, total) for count in counts]
    missing = num_layers - sum(whole for whole, _ in shares)
    largest = sorted(range(num_stages), key=lambda stage: (-shares[stage][1], stage))[:missing]
    scaled = tuple(whole + (stage in largest) for stage, (whole, _) in enumerate(shares))
    emptied = any(count and not now for count, now in zip(counts, scaled, strict=True))
    return even_split(num_layers, num_stages) if emptied else scaled


def even_split(num_layers: int, num_stages: int) -> tuple[int, ...]:
    """Layers of each virtual stage when they are spread evenly, the larger ones in front.

    >>> even_split(10, 4)
    (3, 3, 2, 2)
    """
    if num_layers < num_stages:
        raise StrategyError("pipeline", "virtual_stages", f"{num_stages} virtual stages, but only {num_layers} layers")
    size, larger = divmod(num_layers, num_stages)
    return (size + 1,) * larger + (size,) * (num_stages - larger)
