"""Sizes drawn by chance, the same for the same seed."""

from __future__ import annotations

import math
import random


def log_uniform(seed: str, count: int, low: float, high: float, step: int) -> tuple[int, ...]:
    """`count` multiples of `step` between low and high, as many in each octave."""
    generator = random.Random(seed)
    draws = (math.exp(generator.uniform(math.log(low), math.log(high))) for _ in range(count))
    return tuple(max(step, round(draw / step) * step) for draw in draws)
