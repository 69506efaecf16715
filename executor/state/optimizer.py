"""AdamW on the shards of the master weights, with clipping by the norm of all gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meshwright.costmodel.value import Value
from meshwright.executor.state.adamw import UpdatedTensors, UpdateNumbers, update
from meshwright.executor.state.beside_masters import BesideMasters
from meshwright.executor.state.flat import FlatParameters

NORM_FLOOR = 1e-6
"""Added to the norm before dividing, as torch.nn.utils.clip_grad_norm_ does."""

MEAN, MEAN_SQUARE = "exp_avg", "exp_avg_sq"
"""What checkpoints call the moments, as torch.optim.AdamW does."""


class AdamWSettings(Value, frozen=True, kw_only=True):
    """AdamW (arXiv 1711.05101). `max_norm`: gradients are scaled down to this norm; weight decay spares norms and
    biases.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    max_norm: float = 1.0


class Optimizer:
    """The optimizer of a rank's buffers. `num_updates`: steps that have changed the weights."""

    def __init__(self, flats: Sequence[FlatParameters], settings: AdamWSettings) -> None:
        self.flats = tuple(flats)
        self.settings = settings
        self.num_updates = 0
        self._beside_masters = BesideMasters(self.flats)
        self._moments = [{name: torch.zeros_like(flat.master) for name in (MEAN, MEAN_SQUARE)} for flat in self.flats]

    def moments(self, flat: FlatParameters) -> dict[str, Tensor]:
        """The means of a shard's gradients and of their squares, by name."""
        return self._moments[self.flats.index(flat)]

    def resume(self, num_updates: int) -> None:
        """Go on from masters and moments that were loaded: weights of this rank's shards follow."""
        self.num_updates = num_updates
        for flat in self.flats:
            flat.round_weights()

    def step(self, gradients: Sequence[Tensor], norm: float, learning_rate: float) -> None:
        """Update masters and weights from the shards' gradients, whose norm over all ranks is `norm`."""
        self.num_updates += 1
        scale = min(1.0, self.settings.max_norm / (norm + NORM_FLOOR))
        brought = self._beside_masters.bring(gradients)
        for flat, moments, gradient in zip(self.flats, self._moments, brought, strict=True):
            tensors = UpdatedTensors(
                master_N=flat.master,
                mean_N=moments[MEAN],
                mean_square_N=moments[MEAN_SQUARE],
                weights_N=flat.rounded,
            )
            update(tensors, gradient, self._numbers(flat, scale, learning_rate))
            flat.send_rounded()

    def _numbers(self, flat: FlatParameters, scale: float, learning_rate: float) -> UpdateNumbers:
        return UpdateNumbers(
            scale=scale,
            learning_rate=learning_rate,
            weight_decay=self.settings.weight_decay if flat.kind.decays else 0.0,
            number=self.num_updates,
            betas=self.settings.betas,
            epsilon=self.settings.epsilon,
        )
