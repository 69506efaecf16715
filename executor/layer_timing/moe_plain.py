"""The routed experts in plain PyTorch, as one would write them: autograd, sorts, gathers, `grouped_mm`, all-to-all.

What the executor's is measured against; nothing here uses its kernels or bindings. `compile_` wraps what is compiled:
pieces between products and exchanges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.executor.layer.collectives import all_to_all_parts, all_to_all_rows
from meshwright.executor.layer.functions.gate_weights import choose_experts, weigh
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer_timing.moe_block import CORRECTION, FC1, FC2, ROUTER, MoeBlock, MoeResults

Function = Callable[..., Any]


class PlainExperts:
    """A forward by PyTorch and a backward by autograd."""

    def __init__(
        self, block: MoeBlock, weights: dict[str, Tensor], compile_: Callable[[Function], Function] = lambda f: f
    ) -> None:
        self._moe = block.moe
        self._ranks = block.ranks
        self._per_rank = block.experts_per_rank
        self._correction = weights.get(CORRECTION)
        self._leaves = {name: weights[name].detach().requires_grad_() for name in (ROUTER, FC1, FC2)}
        self._route, self._rows = compile_(route), compile_(rows_of)
        self._activate, self._sum = compile_(activate), compile_(sum_of_rows)

    def __call__(self, x_TH: Tensor, upstream_TH: Tensor) -> MoeResults:
        """A forward and a backward."""
        for leaf in self._leaves.values():
            leaf.grad = None
        x = x_TH.detach().requires_grad_()
        weights, experts = self._route(x, self._leaves[ROUTER], self._correction, self._moe)
        order = torch.argsort(experts.flatten(), stable=True)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        counts = _counts(experts, self._moe.num_experts)
        rows = self._rows(x, order, self._moe.top_k)
        rows = self._experts(rows, counts) if self._ranks.size == 1 else self._exchanged(rows, counts)
        output = self._sum(rows, places.view_as(experts), weights)
        output.backward(upstream_TH)
        gradients = {name: leaf.grad for name, leaf in self._leaves.items() if leaf.grad is not None}
        assert x.grad is not None
        return MoeResults(
            output_TH=output.detach(), input_gradient_TH=x.grad, gradients=gradients, experts_TK=experts.detach()
        )

    def _experts(self, rows_RH: Tensor, counts_E: Tensor) -> Tensor:
        offsets = counts_E.cumsum(0).to(torch.int32)
        joint = grouped_product(rows_RH, self._leaves[FC1], offsets)
        return grouped_product(self._activate(joint), self._leaves[FC2], offsets)

    def _exchanged(self, rows_RH: Tensor, counts_E: Tensor) -> Tensor:
        sending = counts_E.view(self._ranks.size, self._per_rank)
        arriving = all_to_all_parts(sending, self._ranks)
        sent, received = torch.stack((sending, arriving)).sum(-1).tolist()
        numbers = torch.arange(self._per_rank, device=rows_RH.device).repeat(self._ranks.size)
        of_rows = torch.repeat_interleave(numbers, arriving.flatten(), output_size=sum(received))
        order = torch.argsort(of_rows, stable=True)
        home = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        arrived = _sent(rows_RH, received, sent, self._ranks).index_select(0, order)
        results = self._experts(arrived, arriving.sum(0)).index_select(0, home)
        return _sent(results, sent, received, self._ranks)


def _sent(rows_RH: Tensor, received: list[int], sent: list[int], ranks: Communicator) -> Tensor:
    rows: Tensor = _AllToAll.apply(rows_RH, received, sent, ranks)  # type: ignore[no-untyped-call]
    return rows


class _AllToAll(torch.autograd.Function):
    """Rows to all ranks; gradients the other way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, received: list[int], sent: list[int], ranks: Communicator) -> Tensor:  # noqa: ANN401
        ctx.way = (sent, received, ranks)
        return all_to_all_rows(rows, received, sent, ranks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        sent, received, ranks = ctx.way
        return all_to_all_rows(grads[0], sent, received, ranks), None, None, None


def route(x_TH: Tensor, router_EH: Tensor, correction_E: Tensor | None, moe: MoeFfnSpec) -> tuple[Tensor, Tensor]:
    """Weights (float32) and numbers of the chosen experts, (T, K)."""
    logits = F.linear(x_TH, router_EH).float()
    correction = None if correction_E is None else correction_E.float()
    experts = choose_experts(logits.detach(), moe, correction)
    return weigh(logits, experts, moe.score, normalize=True, scale=1.0), experts


def rows_of(x_TH: Tensor, order_R: Tensor, top_k: int) -> Tensor:
    """A row for each slot, in the order of experts."""
    return x_TH.index_select(0, order_R // top_k)


def activate(joint_R2F: Tensor) -> Tensor:
    """SwiGLU."""
    gate, up = joint_R2F.chunk(2, -1)
    return F.silu(gate) * up


def sum_of_rows(rows_RH: Tensor, places_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Each token's rows, weighted and summed."""
    rows = rows_RH.index_select(0, places_TK.flatten()).unflatten(0, places_TK.shape)
    summed: Tensor = (rows * weights_TK.to(rows.dtype).unsqueeze(-1)).sum(1)
    return summed


def grouped_product(rows_RI: Tensor, weight_EOI: Tensor, offsets_E: Tensor) -> Tensor:
    """Each row times its expert's matrix, (R, O): torch's kernel in bfloat16 on a GPU, else a loop over experts."""
    if rows_RI.is_cuda and rows_RI.dtype is torch.bfloat16:
        return F.grouped_mm(rows_RI, weight_EOI.transpose(-2, -1), offs=offsets_E)
    ends = offsets_E.tolist()
    groups = zip([0, *ends[:-1]], ends, weight_EOI, strict=True)
    return torch.cat([rows_RI[start:end] @ weight.t() for start, end, weight in groups])


def _counts(experts_TK: Tensor, num_experts: int) -> Tensor:
    counts = torch.zeros(num_experts, dtype=torch.int64, device=experts_TK.device)
    return counts.scatter_add_(0, experts_TK.flatten(), torch.ones_like(experts_TK).flatten())
