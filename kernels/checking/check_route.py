"""Checks routing: experts, weights, counts, sums and gradients, against float64."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from meshwright.kernels.checking.cases import Case, random_logits, random_weights
from meshwright.kernels.checking.error import LIMITS
from meshwright.kernels.checking.finding import Finding, compared, exact, once_and_again, twice
from meshwright.kernels.route.contract import Routed, RouteOptions
from meshwright.kernels.route.operator import route, route_backward
from meshwright.kernels.route.reference import ranking, route_backward_reference, scores_of, shares, weigh


def check_route(case: Case, device: torch.device, generator: torch.Generator) -> list[Finding]:
    """All findings of one case."""
    logits, options = random_logits(case, device, generator), case.options
    bias = 0.1 * torch.randn(case.experts, generator=generator).to(device) if case.biased else None
    found, alike = twice("route", case.name, lambda: _as_tuple(route(logits, options, bias)))
    experts, weights, counts, sums = found
    wide = logits.double()
    chosen = experts.long()
    is_right = _choice_is_right(wide, options, None if bias is None else bias.double(), chosen)
    counted = torch.bincount(chosen.flatten(), minlength=case.experts)
    return [
        alike,
        exact("route: experts", case.name, holds=is_right),
        exact("route: counts", case.name, holds=bool((counted == counts).all())),
        compared("route: weights", case.name, weights, weigh(wide, chosen, options)),
        compared("route: sums", case.name, sums, shares(scores_of(wide, options), options).sum(0)),
        *_check_backward(case, logits, experts, weights, generator),
    ]


def _as_tuple(routed: Routed) -> tuple[Tensor, ...]:
    return routed.experts_TK, routed.weights_TK, routed.counts_E, routed.sums_E


def _choice_is_right(logits: Tensor, options: RouteOptions, bias: Tensor | None, experts: Tensor) -> bool:
    """Whether experts are distinct, best first, and none left out is better, up to rounding in float32."""
    if not experts.numel():
        return True
    if bool(experts.sort(-1).values.diff(dim=-1).eq(0).any()) or int(experts.min()) < 0:
        return False
    ranked = ranking(logits, options, bias)
    taken = ranked.gather(-1, experts)
    left = ranked.scatter(-1, experts, float("-inf")).amax(-1)
    margin = LIMITS[torch.float32] * ranked.masked_fill(ranked.isinf(), 0).abs().amax(-1, keepdim=True)
    in_order = taken.diff(dim=-1) <= margin
    best_left = left.unsqueeze(-1) <= taken[:, -1:] + margin
    return bool(in_order.all()) and bool(best_left.all()) and bool(taken.isfinite().all())


def _check_backward(
    case: Case, logits: Tensor, experts: Tensor, weights: Tensor, generator: torch.Generator
) -> list[Finding]:
    options = case.options
    grad_weights = random_weights((case.tokens, case.top_k), logits.device, generator)
    grad_sums = random_weights((case.experts,), logits.device, generator)
    given: dict[str, Tensor | None] = {"": None, " with sums": grad_sums}
    findings = []
    for name, sums in given.items():
        what = f"route backward{name}"
        run = partial(route_backward, logits, experts, weights, grad_weights, sums, options)
        grad, alike = once_and_again(what, case.name, run)
        wide_sums = None if sums is None else sums.double()
        truth = route_backward_reference(logits.double(), experts, grad_weights.double(), wide_sums, options)
        findings += [alike, compared(what, case.name, grad, truth)]
    return findings
