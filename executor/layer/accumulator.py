"""Sums of a parameter's gradients over micro-batches, in a format of their own."""

from __future__ import annotations

from torch import Tensor

from meshwright.executor.layer.functions.sums import add_gradient, add_product


class Accumulator:
    """A gradient that grows where it lies: usually a view of a larger FP32 buffer (`main_grad`).

    The first gradient after `restart` overwrites what was there, which saves setting it to zero.
    """

    def __init__(self, total: Tensor) -> None:
        self.total = total
        self._started = False

    @property
    def started(self) -> bool:
        """Whether anything was added."""
        return self._started

    def add(self, gradient: Tensor) -> None:
        """Add a gradient of any floating format."""
        add_gradient(self.total, gradient, restarts=not self._started)
        self._started = True

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Add the product of two matrices, as it is computed where the device can."""
        add_product(self.total, left, right, restarts=not self._started)
        self._started = True

    def restart(self) -> None:
        """Forget the sum."""
        self._started = False

    def finish(self) -> None:
        """A sum of nothing is zero."""
        if not self._started:
            self.total.zero_()
            self._started = True
