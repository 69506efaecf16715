"""From what a run is asked for to what its trainer needs."""

from __future__ import annotations

import torch

from meshwright.executor.layer.context import AttentionKernel
from meshwright.executor.layer.functions.compiled import compiles_for_cuda
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.state.learning_rate import LearningRate
from meshwright.executor.state.optimizer import AdamWSettings
from meshwright.executor.train.request import ExchangedRows, Format, RunRequest
from meshwright.executor.train.trainer import TrainingChoices
from meshwright.executor.weights.numerics import ModelNumerics


def training_choices(request: RunRequest, described: ModelNumerics, device: torch.device) -> TrainingChoices:
    """The choices of a run on a device."""
    on_cuda = device.type == "cuda"
    chosen = request.format
    if chosen is Format.AUTO:
        chosen = Format.BFLOAT16 if on_cuda else Format.FLOAT32
    return TrainingChoices(
        numerics=Numerics(
            device=device,
            dtype=getattr(torch, chosen.value),
            attention_kernel=(
                AttentionKernel.CUDNN if on_cuda and chosen is Format.BFLOAT16 else AttentionKernel.FORMULA
            ),
            fuse=on_cuda and compiles_for_cuda(),
            balanced=request.balanced,
            described=described,
            router_losses=request.balancing.losses,
            capacity_factor=request.balancing.capacity_factor,
        ),
        learning_rate=LearningRate(
            peak=request.learning_rate,
            num_steps=max(1, request.num_steps),
            warm_up_steps=request.warm_up_steps,
            decay=request.decay,
        ),
        optimizer=AdamWSettings(weight_decay=request.weight_decay, max_norm=request.max_norm),
        seed=request.seed,
        skip_not_finite=request.skip_not_finite,
        one_stream=request.one_stream,
        bias_speed=request.balancing.bias_speed,
        has_room=request.exchanged_rows is ExchangedRows.ROOM,
    )
