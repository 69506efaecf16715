"""The learning rate of each step: linear warm-up, then constant, linear or cosine decay."""

from __future__ import annotations

import math
from enum import StrEnum

from meshwright.costmodel.value import Value


class Decay(StrEnum):
    """How the rate falls after warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class LearningRate(Value, frozen=True, kw_only=True):
    """`peak` after `warm_up_steps`; falls to `final_fraction` of it in the last of `num_steps`.

    >>> rate = LearningRate(peak=1.0, warm_up_steps=2, num_steps=6, decay=Decay.LINEAR, final_fraction=0.2)
    >>> [round(rate.at(step), 2) for step in range(6)]
    [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    """

    peak: float
    num_steps: int
    warm_up_steps: int = 0
    decay: Decay = Decay.COSINE
    final_fraction: float = 0.1

    def at(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self.warm_up_steps:
            return self.peak * (step + 1) / self.warm_up_steps
        left = self.num_steps - self.warm_up_steps
        share = min(1.0, (step + 1 - self.warm_up_steps) / max(1, left))
        return self.peak * (self.final_fraction + (1.0 - self.final_fraction) * _left(self.decay, share))


def _left(decay: Decay, share: float) -> float:
    match decay:
        case Decay.CONSTANT:
            return 1.0
        case Decay.LINEAR:
            return 1.0 - share
        case Decay.COSINE:
            return 0.5 * (1.0 + math.cos(math.pi * share))
