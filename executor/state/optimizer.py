"""AdamW on the shards of the master weights, with clipping by the norm of all gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meshwright.costmodel.value import Value
from meshwright.executor.state.beside_masters import BesideMasters
from meshwright.executor.state.flat import FlatParameters

NORM_FLOOR = 1e-6
"""Added to the norm before dividing, as torch.nn.utils.clip_grad_norm_ does."""


class AdamWSettings(Value, frozen=True, kw_only=True):
    """AdamW (arXiv 1711.05101). `max_norm`: gradients are scaled down to this norm; weight decay spares norms and
    biases.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    max_norm: float = 1.0


class Optimizer:
    """The optimizer of a rank's buffers."""

    def __init__(self, flats: Sequence[FlatParameters], settings: AdamWSettings) -> None:
        self.flats = tuple(flats)
        self.settings = settings
        self._beside_masters = BesideMasters(self.flats)
        self._is_fused = all(flat.master.is_cuda for flat in self.flats)
        self._adamw = torch.optim.AdamW(
            [
                {"params": [flat.master], "weight_decay": settings.weight_decay if flat.kind.decays else 0.0}
                for flat in self.flats
            ],
            betas=settings.betas,
            eps=settings.epsilon,
            fused=self._is_fused,
        )
        for flat in self.flats:
            self._adamw.state[flat.master] = self._begin(flat.master)

    def _begin(self, master: Tensor) -> dict[str, Tensor]:
        """The state that AdamW itself would begin with: it is there before the first step, so that it can be loaded."""
        device = master.device if self._is_fused else torch.device("cpu")
        return {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(master),
            "exp_avg_sq": torch.zeros_like(master),
        }

    def moments(self, flat: FlatParameters) -> dict[str, Tensor]:
        """The means of a shard's gradients and of their squares, by name."""
        state = self._adamw.state[flat.master]
        return {name: state[name] for name in ("exp_avg", "exp_avg_sq")}

    @property
    def num_updates(self) -> int:
        """Steps that have changed the weights; waits for the device."""
        return int(self._adamw.state[self.flats[0].master]["step"].item())

    def resume(self, num_updates: int) -> None:
        """Go on from masters and moments that were loaded: weights of this rank's shards follow."""
        for flat in self.flats:
            self._adamw.state[flat.master]["step"].fill_(num_updates)
            flat.round_weights()

    def step(self, gradients: Sequence[Tensor], norm: float, learning_rate: float) -> None:
        """Update masters and weights from the shards' gradients, whose norm over all ranks is `norm`."""
        scale = min(1.0, self.settings.max_norm / (norm + NORM_FLOOR))
        brought = self._beside_masters.bring([gradient.mul_(scale) for gradient in gradients])
        for group, flat, gradient in zip(self._adamw.param_groups, self.flats, brought, strict=True):
            group["lr"] = learning_rate
            flat.master.grad = gradient
        self._adamw.step()
        self._adamw.zero_grad()
        for flat in self.flats:
            flat.round_weights()
