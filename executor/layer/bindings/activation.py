"""Activations of dense blocks, shared experts and routed experts, whose rows carry their gate weights here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.functions import activations
from meshwright.executor.layer.functions.compiled import compiled_for_any_length
from meshwright.executor.layer.routing import GATES, LAYOUT
from meshwright.executor.layer.row_maps import Layout
from meshwright.executor.layer.scope import Scope, forward_name
from meshwright.kernels.dispatch import dispatcher
from meshwright.kernels.index.contract import RowMap
from meshwright.kernels.swiglu.operator import swiglu, swiglu_backward

ROUTED = "experts_activation"
SHARED_GATE = "shared_gate.scale"


def activation(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """The input of FC2."""
    gates = _gates(operator, scope)
    if len(operator.reads) == 1:
        return {operator.writes[0]: activations.gelu(scope.values[operator.reads[0]], gates)}
    gate, up = scope.reads(operator)
    if _is_compiled(scope, gate):
        return {operator.writes[0]: compiled_for_any_length(activations.swiglu_fused)(gate, up, gates)}
    weights = None if gates is None else gates.squeeze(1)
    return {operator.writes[0]: swiglu(gate, up, weights, _rows_there(operator, scope))}


def activation_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of the outputs of FC1 and FC3; that of the gate weights rides with the first."""
    *sources, grad = scope.reads(operator)
    gates = _gates(operator, scope)
    if len(sources) == 1:
        joint, grad_gates = activations.gelu_backward(sources[0], gates, grad)
    else:
        rows = _rows_there(operator, scope)
        joint, grad_gates = _swiglu_backward(scope, (sources[0], sources[1]), gates, grad, rows)
    if grad_gates is not None:
        through_bias = scope.values.optional_rider("grad:fc2_in", GATES)
        scope.values.ride("grad:ffn_in", GATES, grad_gates if through_bias is None else grad_gates + through_bias)
    return dict(zip(operator.writes, joint.chunk(len(sources), -1), strict=True))


def _swiglu_backward(
    scope: Scope, sources: tuple[Tensor, Tensor], gates: Tensor | None, grad: Tensor, rows: RowMap | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of gate and up side by side, and of the gate weights, (R, 1)."""
    gate, up = sources
    if _is_compiled(scope, gate):
        return compiled_for_any_length(activations.swiglu_backward_fused)(gate, up, gates, grad)
    found = swiglu_backward(gate, up, grad, None if gates is None else gates.squeeze(1), rows)
    return found.joint_P2F, None if found.weights_P is None else found.weights_P.unsqueeze(1)


def _is_compiled(scope: Scope, x: Tensor) -> bool:
    """Whether SwiGLU runs compiled: where that is asked for and no CUDA kernel runs, which needs no compiler.

    Compiled for any number of rows: what the experts of a rank get changes with every micro-batch.
    """
    return scope.layer.fuse and dispatcher().why_not_on(x.device) is not None


def _rows_there(operator: Operator, scope: Scope) -> RowMap | None:
    """Which rows of routed experts are there, where their buffer has room for more."""
    return scope.values.rider(ROUTING, LAYOUT, Layout).roomy if forward_name(operator) == ROUTED else None


def _gates(operator: Operator, scope: Scope) -> Tensor | None:
    if forward_name(operator) != ROUTED or not scope.layer.setting.gate_before_fc2:
        return None
    return scope.values.rider("ffn_in", GATES, Tensor)


def scale_shared(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Shared experts times a sigmoid gate a token."""
    ungated, logits = scope.reads(operator)
    return {operator.writes[0]: ungated * torch.sigmoid(logits)}


def scale_shared_backward(operator: Operator, scope: Scope) -> Mapping[str, Tensor]:
    """Gradients of the shared experts' output and of the gate's logits."""
    grad, ungated, logits = scope.reads(operator)
    gate = torch.sigmoid(logits)
    grad_logits = (grad * ungated).sum(-1, keepdim=True) * gate * (1 - gate)
    return dict(zip(operator.writes, (grad * gate, grad_logits), strict=True))
