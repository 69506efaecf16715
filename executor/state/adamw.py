"""One AdamW update (arXiv 1711.05101) in one pass: clips the gradient, updates master and moments, rounds the weights.

A pass for each would read and write 42 bytes a parameter, not 30; the norm before it reads four more either way.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from meshwright.executor.layer.functions.compiled import compiled_for_any_length, compiles_for_cuda
from meshwright.executor.layer.functions.sums import WIDTH

ELEMENTS_A_THREAD = 2**17
"""Elements that a thread of the CPU updates at one time where nothing is compiled: it works within its caches.
Sixteen times as many take more than twice as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateNumbers:
    """What changes from step to step.

    scale: what gradients are multiplied by. decay: learning rate times weight decay. step_size: learning rate over the
    bias correction of the mean. spread: one over the root of the bias correction of the mean square.
    """

    scale: float
    decay: float
    step_size: float
    spread: float

    def on(self, like: Tensor) -> Tensor:
        """The numbers in a tensor's format, on its device: compiled code is not made anew for new numbers."""
        return torch.tensor(astuple(self), dtype=like.dtype).to(like.device, non_blocking=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatedTensors:
    """What an update writes: all of one length, the weights in the format of training."""

    master_N: Tensor
    mean_N: Tensor
    mean_square_N: Tensor
    weights_N: Tensor


def update(
    tensors: UpdatedTensors, gradient_N: Tensor, numbers: UpdateNumbers, betas: tuple[float, float], epsilon: float
) -> None:
    """Update in place. N is a multiple of `sums.WIDTH`."""
    read = (tensors.master_N, tensors.mean_N, tensors.mean_square_N, tensors.weights_N, gradient_N)
    values = numbers.on(tensors.master_N)
    if tensors.master_N.is_cuda and compiles_for_cuda():
        rows = tuple(tensor.view(-1, WIDTH) for tensor in read)
        compiled_for_any_length(updated)(rows, values, betas, epsilon)
        return
    at_once = ELEMENTS_A_THREAD * torch.get_num_threads()
    for parts in zip(*(tensor.split(at_once) for tensor in read), strict=True):
        updated(parts, values, betas, epsilon)


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
