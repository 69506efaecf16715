"""Cross-entropy over a vocabulary split over tensor-parallel ranks.

A token's loss is log(sum exp(logits)) minus its label's logit. Each rank knows three numbers a token of its columns:
the greatest logit, the sum of the exponentials of what is left after subtracting it, the label's logit (0 if the label
is another rank's). Labels, and the scale of the gradient, ride with the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.collectives import all_gather_rows
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.lifetime import INPUT
from meshwright.executor.layer.scope import Scope

TARGETS = "targets"
TOKENS_AT_ONCE = 1024
"""Tokens whose logits stand in FP32 at one time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What is predicted. labels_T: the tokens that follow; scale: the gradient of a token's loss."""

    labels_T: Tensor
    scale: float


def statistics(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Three numbers a token over this rank's columns, (T, 3)."""
    logits = scope.values[operator.reads[0]]
    columns, elsewhere = _own_columns(logits, scope)
    if scope.layer.fuse:
        return {operator.writes[0]: scope.layer.fused(statistics_fused)(logits, columns, elsewhere)}
    parts = zip(
        logits.split(TOKENS_AT_ONCE), columns.split(TOKENS_AT_ONCE), elsewhere.split(TOKENS_AT_ONCE), strict=True
    )
    return {operator.writes[0]: torch.cat([_statistics(*part) for part in parts])}


def _statistics(logits_TV: Tensor, columns_T: Tensor, elsewhere_T: Tensor) -> Tensor:
    wide = logits_TV.to(statistics_type(logits_TV.dtype))
    greatest = wide.amax(1, keepdim=True)
    exponentials = (wide - greatest).exp_().sum(1, keepdim=True)
    label = wide.gather(1, columns_T.unsqueeze(1)).masked_fill_(elsewhere_T.unsqueeze(1), 0.0)
    return torch.cat((greatest, exponentials, label), 1)


def statistics_fused(logits_TV: Tensor, columns_T: Tensor, elsewhere_T: Tensor) -> Tensor:
    """The three numbers as one expression for `torch.compile`, which holds no logits in FP32."""
    wide = logits_TV.to(statistics_type(logits_TV.dtype))
    greatest = wide.amax(1, keepdim=True)
    exponentials = (wide - greatest).exp().sum(1, keepdim=True)
    label = wide.gather(1, columns_T.unsqueeze(1)).masked_fill(elsewhere_T.unsqueeze(1), 0.0)
    return torch.cat((greatest, exponentials, label), 1)


def join_statistics(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The numbers over all ranks' columns. Sums of exponentials must be put on one scale first, hence the gather."""
    ranks = scope.layer.groups.tensor
    parts = all_gather_rows(scope.values[operator.reads[0]], ranks).unflatten(0, (ranks.size, -1))
    greatest, exponentials, label = parts.unbind(-1)
    joined = greatest.amax(0)
    summed = (exponentials * (greatest - joined).exp()).sum(0)
    return {operator.writes[0]: torch.stack((joined, summed, label.sum(0)), 1)}


def summed_loss(statistics_T3: Tensor) -> Tensor:
    """The loss summed over tokens."""
    greatest, exponentials, label = statistics_T3.unbind(1)
    return (exponentials.log() + greatest - label).sum()


def statistics_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The gradient of the logits: (softmax - 1 at the label) times the scale, in the format of the products."""
    logits, joined = scope.reads(operator)
    columns, elsewhere = _own_columns(logits, scope)
    scale = scope.values.rider(INPUT, TARGETS, Targets).scale
    if scope.layer.fuse:
        fused = scope.layer.fused(gradient_fused)
        return {operator.writes[0]: fused(logits, joined, columns, elsewhere, scale, scope.layer.dtype)}
    grad = torch.empty_like(logits, dtype=scope.layer.dtype)
    parts = (tensor.split(TOKENS_AT_ONCE) for tensor in (grad, logits, joined, columns, elsewhere))
    for target, own, numbers, column, is_elsewhere in zip(*parts, strict=True):
        wide = own.to(numbers.dtype)
        greatest, exponentials, _ = numbers.split(1, 1)
        softmax = (wide - greatest).exp_().div_(exponentials)
        at_label = is_elsewhere.logical_not().to(softmax.dtype).unsqueeze(1)
        target.copy_(softmax.scatter_add_(1, column.unsqueeze(1), -at_label).mul_(scale))
    return {operator.writes[0]: grad}


def gradient_fused(
    logits_TV: Tensor, joined_T3: Tensor, columns_T: Tensor, elsewhere_T: Tensor, scale: float, dtype: torch.dtype
) -> Tensor:
    """The gradient of the logits as one expression for `torch.compile`, (T, V) in `dtype`."""
    greatest, exponentials, _ = joined_T3.split(1, 1)
    softmax = (logits_TV.to(joined_T3.dtype) - greatest).exp() / exponentials
    numbers = torch.arange(logits_TV.shape[1], device=logits_TV.device)
    at_label = (numbers == columns_T.unsqueeze(1)) & ~elsewhere_T.unsqueeze(1)
    gradient: Tensor = ((softmax - at_label.to(softmax.dtype)) * scale).to(dtype)
    return gradient


def cast_logits(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The logits in FP32, where the runtime does not fuse the loss."""
    logits = scope.values[operator.reads[0]]
    return {operator.writes[0]: logits.to(statistics_type(logits.dtype))}


def _own_columns(logits_TV: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
    """Columns of the labels counted from this rank's first, 0 for those of other ranks, and which are elsewhere."""
    num_columns = logits_TV.shape[1]
    labels = scope.values.rider(INPUT, TARGETS, Targets).labels_T
    columns = labels - scope.layer.vocabulary_rows.start
    elsewhere = (columns < 0) | (columns >= num_columns)
    return columns.masked_fill(elsewhere, 0), elsewhere
