"""Routing by the CUDA kernel, or by the reference where that can't run."""

from __future__ import annotations

import torch
from torch import Tensor

from meshwright.costmodel.model import RouterScore
from meshwright.kernels.dispatch import dispatcher, launch, num_sms
from meshwright.kernels.route.contract import OPERATION, Routed, RouteOptions, check_route
from meshwright.kernels.route.launch import num_backward_blocks, num_blocks, why_not
from meshwright.kernels.route.reference import route_backward_reference, route_reference
from meshwright.kernels.tensors import check_shape, first_reason, is_aligned

BACKWARD = "route_backward"


def route(logits_TE: Tensor, options: RouteOptions, bias_E: Tensor | None = None, *, sums: bool = True) -> Routed:
    """Choose and weigh experts; `sums`: also what auxiliary losses need. At most two launches, nothing waits."""
    check_route(logits_TE, options, bias_E)
    logits = logits_TE.contiguous()
    if not dispatcher().runs_cuda(OPERATION, logits, _why_not(logits, options)):
        return route_reference(logits, options, bias_E, sums=sums)
    tokens, experts = logits.shape
    blocks = num_blocks(tokens, num_sms(logits.device))
    routed = Routed(
        experts_TK=logits.new_empty((tokens, options.top_k), dtype=torch.int32),
        weights_TK=logits.new_empty(tokens, options.top_k),
        counts_E=logits.new_empty(experts, dtype=torch.int32),
        sums_E=logits.new_empty(experts if sums else 0),
    )
    launch(
        "route_forward",
        logits.device,
        logits,
        None if bias_E is None else bias_E.contiguous(),
        routed.experts_TK,
        routed.weights_TK,
        routed.counts_E,
        routed.sums_E if sums else None,
        logits.new_empty((blocks, experts), dtype=torch.int32),
        logits.new_empty(blocks, experts) if sums else None,
        options.num_groups,
        options.groups_per_token,
        options.score is RouterScore.SIGMOID,
        options.normalize,
        options.scale,
    )
    return routed


def route_backward(
    logits_TE: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    grad_weights_TK: Tensor,
    grad_sums_E: Tensor | None,
    options: RouteOptions,
) -> Tensor:
    """Gradient of the logits, (T, E), from those of the weights and of the sums. One launch.

    `weights_TK` are those that routing gave.
    """
    check_shape(BACKWARD, "weights", weights_TK, tuple(experts_TK.shape))
    check_shape(BACKWARD, "grad_weights", grad_weights_TK, tuple(experts_TK.shape))
    logits, grad = logits_TE.contiguous(), grad_weights_TK.contiguous()
    if not dispatcher().runs_cuda(BACKWARD, logits, _why_not(logits, options)):
        return route_backward_reference(logits, experts_TK, grad, grad_sums_E, options)
    out = torch.empty_like(logits)
    launch(
        "route_backward",
        logits.device,
        logits,
        experts_TK.contiguous(),
        weights_TK.contiguous(),
        grad,
        None if grad_sums_E is None else grad_sums_E.contiguous(),
        out,
        options.score is RouterScore.SIGMOID,
        options.normalize,
        options.scale,
        num_backward_blocks(logits.shape[0], num_sms(logits.device)),
    )
    return out


def _why_not(logits: Tensor, options: RouteOptions) -> str | None:
    format_reason = None if logits.dtype is torch.float32 else f"logits are {logits.dtype}, the kernel takes float32"
    aligned = None if is_aligned(logits) else "logits do not start at a multiple of 16 bytes"
    return first_reason(format_reason, why_not(logits.shape[1], options.top_k, options.num_groups), aligned)
