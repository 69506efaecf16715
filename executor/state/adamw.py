"""One AdamW update (arXiv 1711.05101): clips the gradient, updates master and moments, rounds the weights.

Compiled for a GPU that is one pass. A pass for each would read and write 42 bytes a parameter, not 30; the norm before
it reads four more either way. On a CPU, and where nothing is compiled, torch's own fused AdamW is one pass of three.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from meshwright.executor.layer.functions.compiled import compiled_for_any_length, compiles_for_cuda
from meshwright.executor.layer.functions.sums import WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateNumbers:
    """The numbers of an update.

    scale: what gradients are multiplied by, above 0. number: 1 for the first update.
    """

    scale: float
    learning_rate: float
    weight_decay: float
    number: int
    betas: tuple[float, float]
    epsilon: float

    def changing(self, like: Tensor) -> Tensor:
        """What changes from step to step in a tensor's format, on its device: compiled code is not made anew for it.

        The scale; learning rate times weight decay; learning rate over the bias correction of the mean; one over the
        root of the bias correction of the mean square.
        """
        first, second = (1.0 - beta**self.number for beta in self.betas)
        rate = self.learning_rate
        numbers = (self.scale, rate * self.weight_decay, rate / first, 1.0 / sqrt(second))
        return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatedTensors:
    """What an update writes: all of one length, the weights in the format of training."""

    master_N: Tensor
    mean_N: Tensor
    mean_square_N: Tensor
    weights_N: Tensor


def update(tensors: UpdatedTensors, gradient_N: Tensor, numbers: UpdateNumbers) -> None:
    """Update in place; the gradient may be overwritten. N is a multiple of `sums.WIDTH`."""
    if tensors.master_N.is_cuda and compiles_for_cuda():
        read = (tensors.master_N, tensors.mean_N, tensors.mean_square_N, tensors.weights_N, gradient_N)
        rows = tuple(tensor.view(-1, WIDTH) for tensor in read)
        changing = numbers.changing(tensors.master_N)
        compiled_for_any_length(updated)(rows, changing, numbers.betas, numbers.epsilon)
        return
    _fused(tensors, gradient_N, numbers)
    tensors.weights_N.copy_(tensors.master_N)


def _fused(tensors: UpdatedTensors, gradient_N: Tensor, numbers: UpdateNumbers) -> None:
    """Clip, then update with torch's kernel, which counts updates itself. Its own scale of gradients is in FP32."""
    gradient_N = gradient_N.to(tensors.master_N.dtype)
    if numbers.scale != 1.0:
        gradient_N.mul_(numbers.scale)
    adamw(
        [tensors.master_N],
        [gradient_N],
        [tensors.mean_N],
        [tensors.mean_square_N],
        [],
        [torch.tensor(numbers.number - 1.0, device=gradient_N.device)],
        fused=True,
        amsgrad=False,
        beta1=numbers.betas[0],
        beta2=numbers.betas[1],
        lr=numbers.learning_rate,
        weight_decay=numbers.weight_decay,
        eps=numbers.epsilon,
        maximize=False,
    )


def updated(tensors: tuple[Tensor, ...], numbers_4: Tensor, betas: tuple[float, float], epsilon: float) -> None:
    """The update as one expression for `torch.compile`; the order of operations is that of torch.optim.AdamW.

    tensors: master, mean, mean square, weights, gradient.
    """
    master, mean, mean_square, weights, gradient = tensors
    scale, decay, step_size, spread = numbers_4.unbind()
    clipped = gradient.to(master.dtype) * scale
    mean.copy_(torch.lerp(mean, clipped, 1.0 - betas[0]))
    mean_square.copy_(mean_square * betas[1] + (1.0 - betas[1]) * clipped * clipped)
    kept = master - decay * master
    master.copy_(kept - step_size * mean / (mean_square.sqrt() * spread + epsilon))
    weights.copy_(master)
