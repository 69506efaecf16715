"""Initial weights from a seed: the same whatever the parallelism, each parameter from a generator of its own name.

Matrices: normal with standard deviation 0.02, those that write to the residual stream divided by sqrt(2 layers)
(GPT-2; Megatron-LM). Norms 1, biases 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.parameters import Cut, ParameterSpec
from meshwright.executor.seeds import seed_of

DEVIATION = 0.02
TO_RESIDUAL = ("attn_projection", "fc2", "shared_fc2", "experts_fc2")


def initial_part(
    spec: ParameterSpec, name: str, groups: LayerGroups, *, num_layers: int, seed: int, like: Tensor
) -> Tensor:
    """This rank's part of a parameter called `name` in the model, in the format and on the device of `like`.

    Experts are drawn one by one, any other parameter whole, so that no rank ever holds all experts.
    """
    if spec.fill is not None:
        return like.new_full(spec.part_shape(groups), spec.fill)
    deviation = DEVIATION / (2 * num_layers) ** 0.5 if spec.name in TO_RESIDUAL else DEVIATION
    if spec.cut is not Cut.EXPERT:
        return spec.part(_draw(spec.shape, name, deviation, seed, like), groups)
    ((first, count),) = spec.pieces(spec.ranks(groups))
    experts = (_draw(spec.shape[1:], f"{name}.{first + index}", deviation, seed, like) for index in range(count))
    return torch.cat([spec.sliced(expert.unsqueeze(0), groups) for expert in experts])


def _draw(shape: tuple[int, ...], name: str, deviation: float, seed: int, like: Tensor) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed_of(seed, name))
    return like.new_empty(shape).normal_(std=deviation, generator=generator)
